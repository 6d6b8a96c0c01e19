#!/usr/bin/env bash
# OpenVINO: sums and differences of uint8 stop at 0 and 255, where ONNX Runtime, NumPy and PyTorch wrap.
# One would expect: integer arithmetic of a graph is exact and equal everywhere, whatever floats do.
# What happens: on the CPU Sub and Add of uint8 saturate. ONNX leaves overflow open, so neither is called wrong.
# It matters: frame differences, change masks and label offsets inside a graph differ per runtime, and only where
#   values overflow.
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
a = np.array([10, 200, 255, 3], np.uint8)
b = np.array([20, 100, 1, 3], np.uint8)
for op, wrapped, saturated in (("Sub", a - b, [0, 100, 254, 0]), ("Add", a + b, [30, 255, 255, 6])):
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, [4]) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    ort = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"a": a, "b": b})[0]
    core = openvino.Core()
    vino = core.compile_model(core.read_model(data), "CPU")({"a": a, "b": b})[0]
    print(f"{op}: numpy {wrapped}  onnxruntime {ort}  openvino {vino}")
    assert ort.tolist() == wrapped.tolist()
    assert vino.tolist() == saturated
PY
