#!/usr/bin/env bash
# OpenVINO on a CPU: a constant that several operators share is kept once for each of them, if it has an axis fewer.
# One would expect: ONNX broadcasting is for free, and an initializer of [N, C] that is added to tensors [1, N, C] in six
#   layers (positions of a transformer's tokens) is one constant in the compiled model, as it is in the file.
# What happens: compiling gives the constant its missing axis for every reader apart, and then there are as many copies
#   as readers; the exported model is larger by all of them. With [1, N, C] in the file there is one.
# It matters: six layers with positions of 8617 tokens by 256 are 42 MB more, in memory and in the cache's file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
import openvino as ov
from onnx import TensorProto, helper, numpy_helper, save

tokens, width, readers = 4096, 256, 6
positions = np.random.default_rng(0).random((tokens, width), np.float32)


def exported(shape):
    """(constants of that size in the compiled model, MB of the model as OpenVINO exports it)."""
    names = [f"x{n}" for n in range(readers)]
    nodes = [helper.make_node("Add", [name, "positions"], [f"sum_{name}"]) for name in names]
    nodes += [helper.make_node("MatMul", [f"sum_{name}", "w"], [f"out_{name}"]) for name in names]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, tokens, width]) for name in names],
        [helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, [1, tokens, 4]) for name in names],
        [
            numpy_helper.from_array(positions.reshape(shape), "positions"),
            numpy_helper.from_array(np.ones((width, 4), np.float32), "w"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
    compiled = ov.Core().compile_model("model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    count = 0
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        count += facts["layerType"].astype(str) == "Const" and int(np.prod(node.output(0).shape)) == positions.size
    return count, len(compiled.export_model().getvalue()) / 1e6


print(f"openvino {ov.__version__.split('-')[0]}: one constant of {positions.nbytes / 1e6:.1f} MB, {readers} readers")
found = {}
for shape in ((tokens, width), (1, tokens, width)):
    found[shape] = count, size = exported(shape)
    print(f"in the file {list(shape)}: {count} in the compiled model, exported {size:.1f} MB")
assert found[tokens, width][0] == readers and found[1, tokens, width][0] == 1
PY
