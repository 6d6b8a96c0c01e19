#!/usr/bin/env bash
# TensorRT-RTX: a quantised graph without zero points loses half of its range, in silence.
# One would expect: a type that the parser cannot keep is refused; uint8 steps are 0 to 255.
# What happens: QuantizeLinear without a zero point gives uint8 by the ONNX standard, as ONNX Runtime computes it. The
#   parser makes INT8 of it, 127 steps, says nothing, and the engine is built. (With an explicit uint8 zero point of 0
#   it does warn.)
# It matters: activations after Relu are often quantised so; all above half of the range are cut off, which costs
#   accuracy, not a message.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 \
  onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116
venv/bin/python - <<'PY'
import ctypes
import importlib.util
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

folder = pathlib.Path(importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx").origin).parent
for name in ("libtensorrt_rtx.so.1.7.1", "libtensorrt_onnxparser_rtx.so.1.7.1"):
    ctypes.CDLL(str(next(folder.rglob(name))), ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt

print("TensorRT-RTX", trt.__version__, "onnxruntime", onnxruntime.__version__)


class Listening(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.said = []

    def log(self, severity, message):
        if severity in (trt.ILogger.WARNING, trt.ILogger.ERROR):
            self.said.append(message)


STEP = 0.05
scale = numpy_helper.from_array(np.float32(STEP), "scale")
graph = helper.make_graph(
    [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
    ],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    [scale],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
kinds = {i.name: i.type.tensor_type.elem_type for i in onnx.shape_inference.infer_shapes(model).graph.value_info}
assert kinds["q"] == TensorProto.UINT8
x = np.array([1.0, 6.0, 10.0], np.float32)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
right = session.run(None, {"x": x})[0]
assert np.allclose(right, x, atol=STEP)

logger = Listening()
builder = trt.Builder(logger)
network = builder.create_network(0)
parsed = trt.OnnxParser(network, logger).parse(model.SerializeToString())
layers = [network.get_layer(i) for i in range(network.num_layers)]
quantised = next(layer for layer in layers if layer.type == trt.LayerType.QUANTIZE).get_output(0).dtype
built = builder.build_serialized_network(network, builder.create_builder_config()) is not None
about = [line for line in logger.said if "UINT8" in line or "int8" in line.lower()]
print(f"by ONNX {x.tolist()} -> {right.tolist()}, type uint8")
print(f"parsed {parsed}, built {built}, type {quantised}: largest value {127 * STEP:.2f}; warnings about it: {about}")
assert parsed
assert built
assert quantised == trt.DataType.INT8, "uint8 is kept now"
assert not about
PY
