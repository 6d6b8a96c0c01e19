#!/usr/bin/env bash
# AVI with H.264 B-frames: the frames come in the right order, their times do not.
# One would expect: times of decoded frames rise by 1/25 s, as they do for the same stream in Matroska or MP4.
# What happens: AVI stores no presentation times, so FFmpeg hands on the order of decoding. In PyAV frame.time goes
#   forth and back; OpenCV's CAP_PROP_POS_MSEC rises, begins at 80 ms, and says 0 for the last frames.
# It matters: recorders and converters write such files; sorting by time shuffles the video, "time went back" checks
#   reset the tracker.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0 opencv-python-headless==5.0.0.93
venv/bin/python - <<'PY'
from fractions import Fraction
from importlib.metadata import version

import av
import cv2
import numpy as np

print("av", version("av"), "opencv", cv2.__version__)
BRIGHTNESS_STEP = 20


def write(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i * BRIGHTNESS_STEP, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read(path):
    with av.open(path) as container:
        frames = [(f.to_ndarray(format="rgb24"), f.time) for f in container.decode(video=0)]
    capture, clock = cv2.VideoCapture(path), []
    while capture.read()[0]:
        clock.append(round(capture.get(cv2.CAP_PROP_POS_MSEC)))
    return [round(p.mean() / BRIGHTNESS_STEP) for p, _ in frames], [round(t * 25) for _, t in frames], clock


for name in ("video.mkv", "video.avi"):
    write(name)
    pictures, times, clock = read(name)
    print(f"{name}: pictures {pictures}\n  PyAV, times in frames {times}\n  OpenCV, milliseconds {clock}")
    assert pictures == list(range(12))
    if name.endswith("mkv"):
        assert times == list(range(12))
        assert clock == [40 * i for i in range(12)]
    else:
        assert times != sorted(times), "AVI gives rising times now"
        assert clock[0] == 80
        assert clock[-1] == 0
PY
