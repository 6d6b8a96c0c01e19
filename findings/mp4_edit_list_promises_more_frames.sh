#!/usr/bin/env bash
# MP4 cut without re-encoding: both libraries promise frames that never come.
# One would expect: an MP4 knows its number of samples exactly, so stream.frames (PyAV) and CAP_PROP_FRAME_COUNT are
#   what is decoded.
# What happens: the cut is an edit list. The samples before it are stored and counted, decoded and thrown away: 30
#   promised, 20 given.
# It matters: "frames missing, the file is damaged" is a false alarm, arrays of this length keep an empty end, and
#   frame n of an annotation made on the samples is frame n - 10 of the video.
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
with av.open("whole.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=25, options={"g": "15", "keyint_min": "15"})
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for i in range(30):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i * 8, np.uint8), format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
with av.open("whole.mp4") as whole, av.open("cut.mp4", "w") as cut:
    stream = whole.streams.video[0]
    copy = cut.add_stream_from_template(stream)
    start = int(Fraction(10, 25) / stream.time_base)
    for packet in whole.demux(stream):
        if packet.dts is not None:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
            cut.mux(packet)


def count(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24").mean() / 8 for frame in container.decode(stream)]
        promised = stream.frames
    capture, read = cv2.VideoCapture(path), 0
    while capture.read()[0]:
        read += 1
    return promised, len(frames), round(frames[0]), int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), read


for name, expected in (("whole.mp4", (30, 30, 0, 30, 30)), ("cut.mp4", (30, 20, 10, 30, 20))):
    got = count(name)
    print("{}: PyAV promises {}, gives {} from picture {} on; OpenCV promises {}, gives {}".format(name, *got))
    assert got == expected
PY
