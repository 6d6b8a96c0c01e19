#!/usr/bin/env bash
# scipy.ndimage.zoom: enlarging a mask three times does not repeat its pixels three times.
# One would expect: zoom(mask, 3, order=0) equals numpy's repeat, as nearest resizing does in PyTorch and OpenCV.
# What happens: the first and last samples are pinned to the corners (the align_corners idea), so blocks are 2, 3 or 4
#   pixels wide. Only grid_mode=True with mode="nearest" repeats.
# It matters: low-resolution masks grown with it are shifted, most at the borders: IoU is lost that no model lost.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import numpy as np
import scipy
from scipy import ndimage

print("scipy", scipy.__version__)
labels = np.arange(7)
right = labels.repeat(3)
got = ndimage.zoom(labels, 3, order=0)
grid = ndimage.zoom(labels, 3, order=0, grid_mode=True, mode="nearest")
print("repeat", right.tolist(), "\nzoom  ", got.tolist(), "\nwidths of the blocks:", np.bincount(got).tolist())
assert got.shape == right.shape
assert not np.array_equal(got, right), "zoom repeats now"
assert np.array_equal(grid, right)
mask = np.zeros((32, 32), bool)
mask[4:12, 20:28] = True
large, zoomed = mask.repeat(4, 0).repeat(4, 1), ndimage.zoom(mask, 4, order=0)
iou = (large & zoomed).sum() / (large | zoomed).sum()
print("an 8 x 8 object, four times: IoU of zoom with repeat", round(float(iou), 3))
assert iou < 0.95
PY
