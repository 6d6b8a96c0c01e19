#!/usr/bin/env bash
# OpenVINO in Python: a request that was given arrays for its outputs fills them, and copies all of them once more.
# One would expect: after set_output_tensor(0, Tensor(array, shared_memory=True)), `infer()` writes the result into the
#   array and returns something small, such as views of it.
# What happens: `infer()` returns copies of all outputs, made at the end of every call, whether anybody reads them or
#   not. `infer(share_outputs=True)` returns views, and nothing more is allocated. So does start_async() with wait().
# It matters: 300 masks of 120 x 216 are 31 MB a frame, allocated, copied and freed each time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 openvino==2026.4.1
venv/bin/python - <<'PY'
import tracemalloc

import numpy as np
import openvino as ov
from openvino import opset8

size = 4 << 20
x = opset8.parameter([1, size], np.float32)
model = ov.Model([opset8.result(opset8.relu(x))], [x])
request = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
given, out = np.full((1, size), 2, np.float32), np.zeros((1, size), np.float32)
request.set_input_tensor(0, ov.Tensor(given, shared_memory=True))
request.set_output_tensor(0, ov.Tensor(out, shared_memory=True))


def waited():
    request.start_async()
    request.wait()


def allocated(infer):
    out[:] = 0
    tracemalloc.start()
    infer()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (out == 2).all(), "the array that was set is filled"
    return most / out.nbytes


ways = {
    "infer()": request.infer,
    "infer(share_outputs=True)": lambda: request.infer(share_outputs=True),
    "start_async(), wait()": waited,
}
print(f"openvino {ov.__version__.split('-')[0]}, numpy {np.__version__}: allocated by a call, in sizes of the output")
found = {name: allocated(way) for name, way in ways.items()}
for name, share in found.items():
    print(f"{name}: {share:.2f}")
assert found["infer()"] > 0.99 and max(list(found.values())[1:]) < 0.01
PY
