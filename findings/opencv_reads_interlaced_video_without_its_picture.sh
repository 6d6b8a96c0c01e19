#!/usr/bin/env bash
# OpenCV 5: read() of interlaced video says True and does not give the frame.
# One would expect: frames with both fields woven together (combed where things move), as PyAV gives them; or False.
# What happens: the conversion to BGR fails with a line on stderr ("Cannot convert interlaced to progressive frames");
#   the count of frames is right and every one is "read", but what is in the array is not the picture. Progressive
#   video of the same codec is right.
# It matters: broadcast, DVD and older surveillance footage is interlaced: a pipeline runs over it to the end and
#   finds nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0 opencv-python-headless==5.0.0.93
venv/bin/python - <<'PY'
import os
from importlib.metadata import version

import av
import cv2
import numpy as np

print("av", version("av"), "opencv", cv2.__version__)


def write(path, codec, options):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for i in range(8):
            picture = np.full((64, 128, 3), 40, np.uint8)
            picture[:, 10 + 8 * i : 40 + 8 * i] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def read(path):
    with av.open(path) as container:
        frames = list(container.decode(video=0))
        kind, right = frames[0].interlaced_frame, [f.to_ndarray(format="bgr24").astype(int) for f in frames]
    capture, got = cv2.VideoCapture(path), []
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # FFmpeg's line for each frame
    while True:
        good, frame = capture.read()
        if not good:
            break
        got.append(frame)
    os.dup2(saved, 2)
    return kind, len(right), len(got), float(np.mean([np.abs(a - b).mean() for a, b in zip(right, got, strict=True)]))


for name, codec, options in (
    ("progressive.mp4", "libx264", {}),
    ("interlaced.mp4", "libx264", {"x264-params": "interlaced=1"}),
    ("interlaced.mpg", "mpeg2video", {"flags": "+ildct+ilme"}),
):
    write(name, codec, options)
    interlaced, there, given, far = read(name)
    print(f"{name}: interlaced {interlaced}, frames {there}, OpenCV reads {given}, off by {far:.1f} levels on average")
    assert interlaced == name.startswith("interlaced")
    assert there == given == 8
    assert far > 5 if interlaced else far < 1
PY
