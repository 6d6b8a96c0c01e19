#!/usr/bin/env bash
# OpenCV: VideoWriter takes frames of an odd size and writes a smaller video.
# One would expect: the size is kept, at least by MJPG and the lossless FFV1, or isOpened() is False.
# What happens: it opens, write() says True, and the last row and column are gone, for every codec, the lossless one
#   too.
# It matters: an overlay or a mask video of an odd-sized source no longer fits its frames; joined masks fail far from
#   here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 opencv-python-headless==5.0.0.93
venv/bin/python - <<'PY'
import cv2
import numpy as np

print("opencv", cv2.__version__)
HEIGHT, WIDTH = 65, 63
for code, extension in (("mp4v", "mp4"), ("MJPG", "avi"), ("FFV1", "mkv")):
    path = f"{code}.{extension}"
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*code), 25, (WIDTH, HEIGHT))
    picture = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
    picture[-1] = picture[:, -1] = 255
    said = [writer.write(picture) for _ in range(5)]
    opened = writer.isOpened()
    writer.release()
    good, got = cv2.VideoCapture(path).read()
    print(f"{code}: opened {opened}, write() {said[0]}, written {WIDTH}x{HEIGHT}, read {got.shape[1]}x{got.shape[0]}")
    assert opened
    assert all(said)
    assert good
    assert got.shape == (HEIGHT - 1, WIDTH - 1, 3), "odd sizes are kept now"
    assert int(got[-1, 0, 0]) < 120  # the white last row is not there
PY
