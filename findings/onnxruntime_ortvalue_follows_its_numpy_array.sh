#!/usr/bin/env bash
# ONNX Runtime: OrtValue.ortvalue_from_numpy on the CPU is the array, not a copy of it.
# One would expect: the value is set at that moment, as its counterpart for a GPU does it by copying.
# What happens: writing into the array afterwards changes what the next run reads.
# It matters: one frame buffer filled again by the decoder changes every value made from it; queued frames all turn
#   into the last.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__)
graph = helper.make_graph(
    [helper.make_node("Neg", ["x"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

buffer, queue = np.zeros(2, np.float32), []
for frame in (1.0, 2.0, 3.0):
    buffer[:] = frame
    queue.append(onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
binding, seen = session.io_binding(), []
for value in queue:
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    seen.append(binding.copy_outputs_to_cpu()[0].tolist())
print("frames 1, 2, 3 queued; negated by the graph:", seen)
assert seen == [[-3.0, -3.0]] * 3, "the values are copies now"
PY
