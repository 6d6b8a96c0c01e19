#!/usr/bin/env bash
# JPEG 4:2:0: PyAV's pixels are tens of levels away from OpenCV's and Pillow's.
# One would expect: decoders of one JPEG agree to a level or two; the format defines the decoding.
# What happens: OpenCV and Pillow agree bit for bit (libjpeg interpolates the halved colour planes), FFmpeg's scaler
#   brings them to full size otherwise: edges between colours differ by more than 20 levels. With 4:4:4 they agree to
#   3.
# It matters: a model trained on cv2.imread() and run on an MJPEG camera through PyAV sees other edges; no colour
#   matrix mends it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0 opencv-python-headless==5.0.0.93 \
  pillow==13.0.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import av
import cv2
import numpy as np
from PIL import Image

print("av", version("av"), "opencv", cv2.__version__, "pillow", version("pillow"))
picture = np.zeros((96, 128, 3), np.uint8)
picture[:] = (200, 40, 40)
y, x = np.mgrid[:96, :128]
picture[(y - 47) ** 2 + (x - 63) ** 2 < 30**2] = (40, 60, 200)


def decode(path):
    with av.open(path) as container:
        ffmpeg = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return ffmpeg.astype(int), cv2.imread(path)[..., ::-1].astype(int), np.asarray(Image.open(path)).astype(int)


for name, subsampling in (("4:2:0", 2), ("4:4:4", 0)):
    Image.fromarray(picture).save("picture.jpg", quality=95, subsampling=subsampling)
    ffmpeg, opencv, pillow = decode("picture.jpg")
    far = np.abs(ffmpeg - opencv).max()
    print(f"{name}: OpenCV - Pillow at most {np.abs(opencv - pillow).max()}, PyAV - OpenCV at most {far} levels")
    assert np.abs(opencv - pillow).max() <= 1
    assert far > 20 if subsampling else far <= 4
PY
