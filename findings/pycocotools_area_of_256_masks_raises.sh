#!/usr/bin/env bash
# pycocotools: area() of a list breaks at its 256th mask.
# One would expect: a list of any length, as iou(), toBbox() and decode() take it.
# What happens: up to 255 masks are measured; 256 raise OverflowError, because the length passes through a uint8.
# It matters: 300 queries a frame, or one track over ten seconds, is a list of this length. Measure in chunks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 pycocotools==2.0.11
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
from pycocotools import mask

print("pycocotools", version("pycocotools"), "numpy", np.__version__)
one = mask.encode(np.ones((4, 4), np.uint8, order="F"))
assert mask.area([one] * 255).tolist() == [16] * 255
assert mask.toBbox([one] * 256).shape == (256, 4)
assert mask.iou([one] * 256, [one], [0]).shape == (256, 1)
try:
    areas = mask.area([one] * 256)
except OverflowError as error:
    print("area() of 255 masks: fine; of 256:", error)
else:
    raise SystemExit(f"256 masks are measured now: {areas.shape}")
PY
