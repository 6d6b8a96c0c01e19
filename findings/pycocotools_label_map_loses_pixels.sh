#!/usr/bin/env bash
# pycocotools: a map of object ids is not encoded as "everything that is not 0".
# One would expect: encode() takes non-zero pixels as the mask, so an id map gives the union of its objects.
# What happens: a run ends wherever the value changes. Neighbouring ids cut each other out, with no error.
# It matters: panoptic PNGs (VIPSeg) and DAVIS-like annotations are id maps; compare with an id first.
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
ids = np.zeros((6, 4), np.uint8, order="F")
ids[1:4, 1] = [1, 2, 3]  # three objects of one pixel, one below the other
ids[1:5, 2] = 7  # one object of four pixels
got = mask.decode(mask.encode(ids))
print("ids\n", ids, "\nmask after encode and decode\n", got, sep="")
print("pixels of objects:", (ids > 0).sum(), " encoded:", int(mask.area(mask.encode(ids))))
assert got[1:4, 1].tolist() == [1, 0, 1], "ids are encoded otherwise now"
assert got[1:5, 2].tolist() == [1, 1, 1, 1]
assert int(mask.area(mask.encode(ids))) == 6
right = mask.encode(np.asfortranarray(ids > 0).astype(np.uint8))
assert int(mask.area(right)) == 7
PY
