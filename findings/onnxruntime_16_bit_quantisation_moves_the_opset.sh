#!/usr/bin/env bash
# ONNX Runtime quantize_static: asking for 16-bit activations lifts the whole graph to opset 21.
# One would expect: the graph keeps its opset 17, with 16-bit nodes in Microsoft's domain, as 4-bit weights are
#   written.
# What happens: 8 bits and 4-bit weights stay at opset 17; 16 bits convert every operator to opset 21 (ReduceMean's
#   axes become an input, GridSample's "bilinear" becomes "linear"), while the IR version stays 8.
# It matters: an opset is chosen for the device's parser; GridSample 20 and GroupNormalization 21 are known not to
#   work on all TensorRT.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
random = np.random.default_rng(0)
weight = numpy_helper.from_array(random.standard_normal((4, 4)).astype(np.float32), "w")
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("GridSample", ["h", "grid"], ["s"], mode="bilinear"),
        helper.make_node("ReduceMean", ["s"], ["y"], axes=[-1]),
    ],
    "g",
    [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4]),
        helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, 2, 2, 2]),
    ],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 1])],
    [weight],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")


class Frames(CalibrationDataReader):
    def __init__(self):
        self.left = 4

    def get_next(self):
        self.left -= 1
        if self.left < 0:
            return None
        x = random.standard_normal((1, 1, 4, 4)).astype(np.float32)
        return {"x": x, "grid": np.zeros((1, 2, 2, 2), np.float32)}


for name, activation, weights, opset, mode in (
    ("8-bit", QuantType.QUInt8, QuantType.QInt8, 17, b"bilinear"),
    ("4-bit weights", QuantType.QUInt8, QuantType.QInt4, 17, b"bilinear"),
    ("16-bit activations", QuantType.QUInt16, QuantType.QInt8, 21, b"linear"),
):
    quantize_static("model.onnx", "out.onnx", Frames(), activation_type=activation, weight_type=weights)
    out = onnx.load("out.onnx")
    got = {o.domain: o.version for o in out.opset_import}[""]
    sample = next(n for n in out.graph.node if n.op_type == "GridSample")
    found = next(a.s for a in sample.attribute if a.name == "mode")
    print(f"{name}: opset {got}, IR {out.ir_version}, GridSample's mode {found.decode()}")
    assert (got, found, out.ir_version) == (opset, mode, 8)
PY
