#!/usr/bin/env bash
# OpenCV: a TIFF with transparency is read with its colours multiplied by it.
# One would expect: IMREAD_COLOR drops alpha, as it does with a PNG, and the colours are those of the file.
# What happens: of 8 bits with alpha beside the colours (ExtraSamples 2, as Pillow and editors write it) each colour
#   comes darkened by its alpha, with IMREAD_UNCHANGED too, where alpha would be applied a second time. The same picture
#   with 16 bits, or written by OpenCV itself, comes as it is.
# It matters: pictures exported with a soft edge or a mask in alpha give other inputs to a model than the same ones as
#   PNG, and black where alpha is 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 opencv-python-headless==5.0.0.93 pillow==12.3.0
venv/bin/python - <<'PY'
import cv2
import numpy as np
import PIL
from PIL import Image

print("opencv", cv2.__version__, "pillow", PIL.__version__)
picture = np.full((8, 8, 4), (200, 100, 50, 128), np.uint8)  # red, green, blue, half transparent
Image.fromarray(picture).save("a.png")
Image.fromarray(picture).save("a.tiff")
read = {name: cv2.imread(name, cv2.IMREAD_COLOR)[0, 0, ::-1].tolist() for name in ("a.png", "a.tiff")}
print(read)
assert read["a.png"] == [200, 100, 50]
assert read["a.tiff"] == [100, 50, 25], "colours are kept now"
unchanged = cv2.imread("a.tiff", cv2.IMREAD_UNCHANGED)[0, 0].tolist()
print("unchanged, BGRA:", unchanged)
assert unchanged == [25, 50, 100, 128]
cv2.imwrite("b.tiff", picture[..., [2, 1, 0, 3]])
assert cv2.imread("b.tiff", cv2.IMREAD_COLOR)[0, 0, ::-1].tolist() == [200, 100, 50]
PY
