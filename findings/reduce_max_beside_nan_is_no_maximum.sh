#!/usr/bin/env bash
# ReduceMax: with one NaN in the row the answer is neither NaN nor the largest number.
# One would expect: NaN, as NumPy and PyTorch answer; or else the largest of the other numbers.
# What happens on the CPU: ONNX Runtime answers NaN only where NaN comes first; OpenVINO forgets all before the NaN,
#   so the maximum of (9, NaN, 1) is 1. Which one it is depends on the order, and for longer rows on the processor's
#   vectors.
# It matters: "any pixel above 0" of a mask, the best class of a query and top-k by it: one bad value gives a
#   plausible wrong one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 \
  openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
graph = helper.make_graph(
    [helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=0)],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
data = model.SerializeToString()
session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
core = openvino.Core()
compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
nan = np.nan
for row, ort_says, openvino_says in (
    ([9, 5, 1], 9, 9),
    ([nan, 9, 1], nan, 9),
    ([9, nan, 1], 9, 1),
    ([9, 1, nan], 9, nan),
):
    x = np.array(row, np.float32)
    ort, vino = float(session.run(None, {"x": x})[0]), float(compiled({"x": x})[0])
    print(f"maximum of {row}: numpy {x.max()}, onnxruntime {ort}, openvino {vino}")
    assert np.array_equal(ort, ort_says, equal_nan=True)
    assert np.array_equal(vino, openvino_says, equal_nan=True)
PY
