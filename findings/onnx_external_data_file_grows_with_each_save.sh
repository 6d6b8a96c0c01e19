#!/usr/bin/env bash
# onnx.save: saving a model with external data again neither replaces the data file nor is refused.
# One would expect: the weights file is overwritten, as the .onnx beside it is; or FileExistsError.
# What happens: the check for an existing file looks in the current folder, not beside the model. Saved there, it is
#   FileExistsError; saved to another folder, the weights are appended, and the file grows by a whole model each time.
# It matters: a loop of export and save (a sweep of precisions, a CI cache) fills the disk with dead weights, and what
#   is shipped is several times as large. Nothing warns, and every check of values passes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2
venv/bin/python - <<'PY'
import copy
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__)
weight = numpy_helper.from_array(np.ones(4096, np.float32), "w")
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
    [weight],
)
model = helper.make_model(graph)


def save(path):
    onnx.save_model(copy.deepcopy(model), path, save_as_external_data=True, location="model.data", size_threshold=0)


save("model.onnx")
try:
    save("model.onnx")
except FileExistsError as error:
    print("in the current folder, second time:", error)
else:
    raise SystemExit("saving twice in the current folder is taken now")
os.remove("model.data")

os.mkdir("out")
sizes = []
for _ in range(3):
    save("out/model.onnx")
    sizes.append(os.path.getsize("out/model.data"))
loaded = onnx.load("out/model.onnx", load_external_data=False).graph.initializer[0]
where = {entry.key: entry.value for entry in loaded.external_data}
print(
    "in another folder: bytes of weights: 16384; of the file after 1, 2, 3 saves:",
    sizes,
    " the model reads from",
    where["offset"],
)
assert sizes == [16384, 32768, 49152], "the data file is replaced now"
assert int(where["offset"]) == 32768
assert numpy_helper.to_array(onnx.load("out/model.onnx").graph.initializer[0]).sum() == 4096
PY
