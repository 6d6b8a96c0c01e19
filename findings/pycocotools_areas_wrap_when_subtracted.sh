#!/usr/bin/env bash
# pycocotools: the difference of two areas is about four thousand million.
# One would expect: areas are counts, so a smaller one less a larger one is negative.
# What happens: area() gives uint32. Arrays wrap without a warning; the values of the same call on one mask only warn.
# It matters: "how much did the object shrink" and every hand-made |a - b| of masks is wrong for one sign.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 pycocotools==2.0.11
venv/bin/python - <<'PY'
import warnings
from importlib.metadata import version

import numpy as np
from pycocotools import mask

print("pycocotools", version("pycocotools"), "numpy", np.__version__)


def square(side):
    picture = np.zeros((32, 32), np.uint8, order="F")
    picture[:side, :side] = 1
    return mask.encode(picture)


before, after = mask.area([square(20), square(10)]), mask.area([square(10), square(20)])
with warnings.catch_warnings():
    warnings.simplefilter("error")
    change = after - before
print("areas", before, "->", after, " change", change, change.dtype)
assert before.dtype == np.uint32
assert change.tolist() == [2**32 - 300, 300]
assert (after.astype(np.int64) - before).tolist() == [-300, 300]
PY
