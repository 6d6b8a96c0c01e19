#!/usr/bin/env bash
# TensorRT-RTX: three questions, whether a graph will build, are each answered yes for graphs that do not.
# One would expect: an operator that supports_operator() affirms can be parsed, and a graph that parses without an
#   error can be built.
# What happens: NonZero and RoiAlign are "supported" and fail in the parser, for want of a plugin; TopK of 3841 parses
#   cleanly and is refused by the builder, while 3840 is built. No GPU is needed to see it: engines are built on any
#   machine.
# It matters: a check of operator names, or of parsing alone, passes a model that fails on the day of the build.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 \
  onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116
venv/bin/python - <<'PY'
import ctypes
import importlib.util
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = pathlib.Path(importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx").origin).parent
for name in ("libtensorrt_rtx.so.1.7.1", "libtensorrt_onnxparser_rtx.so.1.7.1"):
    ctypes.CDLL(str(next(folder.rglob(name))), ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt

print("TensorRT-RTX", trt.__version__)


class Silent(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass


logger = Silent()
builder = trt.Builder(logger)


def attempt(op, inputs, outputs, constants=(), **attributes):
    node = helper.make_node(
        op, [i[0] for i in inputs] + [c.name for c in constants], [o[0] for o in outputs], **attributes
    )
    infos = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    graph = helper.make_graph([node], "g", *infos, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    supported, parsed = parser.supports_operator(op), parser.parse(model.SerializeToString())
    built = parsed and builder.build_serialized_network(network, builder.create_builder_config()) is not None
    return supported, parsed, built


def top(k):
    count = numpy_helper.from_array(np.array([k], np.int64), "k")
    outputs = [("v", TensorProto.FLOAT, [1, k]), ("i", TensorProto.INT64, [1, k])]
    return attempt("TopK", [("x", TensorProto.FLOAT, [1, 8617])], outputs, [count])


regions = [("x", TensorProto.FLOAT, [1, 1, 8, 8]), ("r", TensorProto.FLOAT, [3, 4]), ("b", TensorProto.INT64, [3])]
for name, got, expected in (
    (
        "NonZero",
        attempt("NonZero", [("x", TensorProto.FLOAT, [4, 4])], [("y", TensorProto.INT64, [2, "n"])]),
        (1, 0, 0),
    ),
    ("RoiAlign", attempt("RoiAlign", regions, [("y", TensorProto.FLOAT, [3, 1, 1, 1])]), (1, 0, 0)),
    ("TopK of 3840", top(3840), (1, 1, 1)),
    ("TopK of 3841", top(3841), (1, 1, 0)),
):
    print("{}: supports_operator {}, parse {}, build {}".format(name, *got))
    assert tuple(map(bool, got)) == tuple(map(bool, expected)), name
PY
