#!/usr/bin/env bash
# OpenVINO: a model made stateful with a free batch axis answers nothing, without an error.
# One would expect: the state starts as zeros of the first input's batch, or infer() raises.
# What happens: the state starts with a batch of 0. A batch of 1 broadcasts against it, so every output has 0 rows,
#   for ever, and reset_state() changes nothing; a batch of 3 is an error. With the batch fixed before, all is right.
# It matters: "no objects found" is a valid answer of a video model: nobody sees that the stream never started.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper
from openvino._offline_transformations import apply_make_stateful_transformation

print("openvino", openvino.__version__)


def request(batch):
    shape = [batch, 2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "state"], ["new"]), helper.make_node("Identity", ["new"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "state")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("new", "y")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    core = openvino.Core()
    model = core.read_model(proto.SerializeToString())
    apply_make_stateful_transformation(model, {"state": "new"})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled.create_infer_request()


def answers(running, batch, frames=3):
    return [running.infer({"x": np.ones((batch, 2), np.float32)})["y"].copy() for _ in range(frames)]


free, fixed = request("batch"), request(1)
right = answers(fixed, 1)
print("batch fixed to 1:", [y.tolist() for y in right])
assert [y.tolist() for y in right] == [[[1, 1]], [[2, 2]], [[3, 3]]]
wrong = answers(free, 1)
free.reset_state()
wrong += answers(free, 1, 1)
print("batch free, one row given: shapes", [y.shape for y in wrong])
assert [y.shape for y in wrong] == [(0, 2)] * 4, "the state starts otherwise now"
try:
    answers(request("batch"), 3, 1)
except RuntimeError as error:
    print("batch free, three rows given: RuntimeError,", str(error).strip().splitlines()[-1][:80])
else:
    raise SystemExit("three rows are taken now")
PY
