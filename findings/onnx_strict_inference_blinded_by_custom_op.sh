#!/usr/bin/env bash
# ONNX shape inference: one custom operator silences strict_mode for what comes after it.
# One would expect: strict_mode=True reports a wrong MatMul wherever it stands, above all one that has nothing to do
#   with the custom node.
# What happens: inference ends quietly at the first operator that it does not know. With the faulty node listed before
#   it: InferenceError; listed after it, the same graph passes.
# It matters: a graph with a deformable attention plugin looks checked, and fails on the device that builds the
#   engine.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2
venv/bin/python - <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__)
custom = helper.make_node("DeformableAttention", ["x"], ["c"], domain="my.plugins")
wrong = helper.make_node("MatMul", ["x", "w"], ["z"])  # 4 x 16 by 5 x 5
weight = numpy_helper.from_array(np.zeros((5, 5), np.float32), "w")


def strict(nodes):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"]) for name in ("c", "z")],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.plugins", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return "InferenceError"
    return "no error"


before, after = strict([wrong, custom]), strict([custom, wrong])
print("wrong MatMul before the custom node:", before, "; after it:", after)
assert before == "InferenceError"
assert after == "no error", "strict inference goes on now"
PY
