#!/usr/bin/env bash
# ONNX metadata: two common tools drop metadata_props, others keep it.
# One would expect: a round trip that changes nothing keeps class names and other metadata, whichever tool.
# What happens: onnx-graphsurgeon's import and export (so also what is built on it, as Polygraphy's surgeon) and
#   onnx.utils.extract_model return a model without any; onnxslim, onnx-ir and onnx.version_converter keep them.
# It matters: class names, preprocessing and state pairs travel there (Ultralytics writes them so); the graph still
#   runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnx-graphsurgeon==0.6.1 \
  onnxslim==0.1.98 onnx-ir==1.1.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir
import onnxslim
from onnx import TensorProto, helper, numpy_helper, version_converter

print(*(f"{name} {version(name)}" for name in ("onnx", "onnx-graphsurgeon", "onnxslim", "onnx-ir")))
graph = helper.make_graph(
    [helper.make_node("Mul", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    [numpy_helper.from_array(np.full(4, 2, np.float32), "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
helper.set_model_props(model, {"names": "person,car"})
onnx.save(model, "model.onnx")


def extracted():
    onnx.utils.extract_model("model.onnx", "part.onnx", ["x"], ["y"])
    return onnx.load("part.onnx")


trips = {
    "graphsurgeon": onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model)),
    "extract_model": extracted(),
    "onnxslim": onnxslim.slim("model.onnx"),
    "onnx-ir": onnx_ir.to_proto(onnx_ir.from_proto(model)),
    "version_converter": version_converter.convert_version(model, 19),
}
for name, result in trips.items():
    kept = {entry.key: entry.value for entry in result.metadata_props}
    print(f"{name}: {kept}")
    assert ("names" in kept) == (name not in ("graphsurgeon", "extract_model")), name
PY
