#!/usr/bin/env bash
# pycocotools: joining masks of two sizes is neither an error nor a mask.
# One would expect: merge() raises when the sizes of the masks differ.
# What happens: it answers a mask of 0 x 0 pixels and area 0, and iou() answers -1, both without a word.
# It matters: the YouTube-VIS evaluator builds its tube IoU from merge(): a frame scored at another size than the
#   truth's adds nothing to the intersection and nothing to the union, so it is left out instead of failed.
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

print("pycocotools", version("pycocotools"))
small = mask.encode(np.ones((4, 6), np.uint8, order="F"))
large = mask.encode(np.ones((8, 12), np.uint8, order="F"))
for intersect in (False, True):
    joined = mask.merge([small, large], intersect=intersect)
    print("merge, intersect =", intersect, "->", joined, "area", int(mask.area(joined)))
    assert joined["size"] == [0, 0]
    assert int(mask.area(joined)) == 0
iou = mask.iou([small], [large], [0])
print("iou ->", iou)
assert iou.tolist() == [[-1.0]]
PY
