#!/usr/bin/env bash
# safetensors.numpy: an array in Fortran order or a strided view is stored with its values in other places.
# One would expect: the array comes back equal, or an error as for torch ("non contiguous tensor").
# What happens: the memory is written as it lies under the array's shape. No error on saving, none on loading.
# It matters: weights transposed on the way (a converter from TensorFlow, `w.T`) and states kept as views load as
#   other numbers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
venv/bin/python - <<'PY'
import numpy as np
import safetensors
import safetensors.numpy

print("safetensors", safetensors.__version__, "numpy", np.__version__)
weight = np.arange(6, dtype=np.float32).reshape(2, 3)
for name, array in (
    ("transposed", weight.T),
    ("Fortran order", np.asfortranarray(weight)),
    ("every second column", weight[:, ::2]),
):
    back = safetensors.numpy.load(safetensors.numpy.save({"w": array}))["w"]
    print(f"{name}: saved {array.tolist()}, loaded {back.tolist()}")
    assert back.shape == array.shape
    assert not np.array_equal(back, array), f"{name} is stored right now"
    right = safetensors.numpy.load(safetensors.numpy.save({"w": np.ascontiguousarray(array)}))["w"]
    assert np.array_equal(right, array)
PY
