#!/usr/bin/env bash
# OpenCV: a video marked as mirrored left to right is turned by half a turn, upside down.
# One would expect: the display matrix is either applied (a mirror) or left alone, with CAP_PROP_ORIENTATION_AUTO on.
# What happens: only its first numbers are read as an angle: a left-right mirror counts as 180 degrees and is applied
#   as that; a top-bottom mirror counts as 0 and is passed over. PyAV's frame.rotation has the same fault, but leaves
#   the pixels alone.
# It matters: a camera that mirrors (a front camera) may mark its video so. The picture is plausible, gravity is not;
#   boxes drawn elsewhere do not fit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0 opencv-python-headless==5.0.0.93
venv/bin/python - <<'PY'
import struct
from importlib.metadata import version

import av
import cv2
import numpy as np

print("av", version("av"), "opencv", cv2.__version__)
WIDTH, HEIGHT, ONE = 128, 64, 1 << 16
picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
picture[8:24, 8:40] = 220  # bright, at the top left
with av.open("plain.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for _ in range(3):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())
with open("plain.mp4", "rb") as file:
    plain = file.read()
matrix = plain.index(b"tkhd") + 44  # the display matrix of the track: nine numbers
assert struct.unpack(">9i", plain[matrix : matrix + 36])[::4] == (ONE, ONE, 1 << 30)


def turns(frame):
    corners = {
        "as stored": frame, "mirrored left-right": frame[:, ::-1],
        "mirrored top-bottom": frame[::-1], "upside down": frame[::-1, ::-1],
    }  # fmt: skip
    return next(name for name, back in corners.items() if back[8:24, 8:40].mean() > 150)


for name, numbers, by_opencv, angle in (
    ("no mark", (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), "as stored", 0),
    ("left-right mirror", (-ONE, 0, 0, 0, ONE, 0, WIDTH * ONE, 0, 1 << 30), "upside down", 180),
    ("top-bottom mirror", (ONE, 0, 0, 0, -ONE, 0, 0, HEIGHT * ONE, 1 << 30), "as stored", 0),
):
    with open("marked.mp4", "wb") as file:
        file.write(plain[:matrix] + struct.pack(">9i", *numbers) + plain[matrix + 36 :])
    good, frame = cv2.VideoCapture("marked.mp4").read()
    with av.open("marked.mp4") as container:
        first = next(container.decode(video=0))
        stored, rotation = first.to_ndarray(format="rgb24"), first.rotation
    print(f"{name}: OpenCV gives it {turns(frame)}; PyAV {turns(stored)}, rotation {rotation}")
    assert good
    assert turns(stored) == "as stored"
    assert turns(frame) == by_opencv
    assert abs(rotation) == angle
PY
