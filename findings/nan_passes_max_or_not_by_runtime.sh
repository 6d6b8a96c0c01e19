#!/usr/bin/env bash
# NaN: Relu, Clip and Max heal it in OpenVINO and keep it in ONNX Runtime.
# One would expect: NaN passes through all of them, as in NumPy and PyTorch, whatever runs the graph.
# What happens on the CPU: ONNX Runtime keeps it; OpenVINO (float32 asked for) turns it into the bound. Max(x, 0)
#   heals, Max(0, x) does not.
# It matters: "the output is finite" is no proof of a healthy state: a poisoned stream looks well on one runtime.
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
from onnx import TensorProto, helper, numpy_helper

print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
onnxruntime.set_default_logger_severity(3)
x = np.array([1, np.nan, 2, 3], np.float32)
scalars = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("nine", 9))]


def run(inputs, op):
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [s for s in scalars if s.name in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, {"x": x})[0], compiled({"x": x})[0]


for name, numpy_says, inputs, op, ort_keeps, openvino_keeps in (
    ("Relu", np.maximum(x, 0), ["x"], "Relu", True, False),
    ("Clip", np.clip(x, 0, 9), ["x", "zero", "nine"], "Clip", True, False),
    ("Max(x, 0)", np.maximum(x, 0), ["x", "zero"], "Max", True, False),
    ("Max(0, x)", np.maximum(0, x), ["zero", "x"], "Max", True, True),
):
    ort, vino = run(inputs, op)
    print(f"{name:10} numpy {np.round(numpy_says, 1)}  onnxruntime {ort}  openvino {vino}")
    assert np.isnan(numpy_says).any()
    assert np.isnan(ort).any() == ort_keeps, name
    assert np.isnan(vino).any() == openvino_keeps, name
PY
