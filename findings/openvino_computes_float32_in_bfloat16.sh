#!/usr/bin/env bash
# OpenVINO: a float32 model is computed in bfloat16 on a CPU that can do it, unasked.
# One would expect: a float32 graph is computed in float32; lower precision is a request.
# What happens: on a CPU with AVX512-BF16 or AMX the default is bfloat16 (8 bits of mantissa); the same file is
#   float32 on another machine. EXECUTION_MODE_HINT=ACCURACY or INFERENCE_PRECISION_HINT=f32 keeps float32. Without
#   such a CPU this script can only show float32.
# It matters: a box head in pixels of a 1920-wide picture is off by whole pixels, and the laptop's parity test does
#   not see it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
import openvino
from onnx import TensorProto, helper, numpy_helper

print("openvino", openvino.__version__)
random = np.random.default_rng(0)
weight = ((random.random((256, 4)) - 0.5) / 4).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["s", "width"], ["y"]),
    ],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [100, 256])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [100, 4])],
    [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(1920), "width")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
x = random.random((100, 256)).astype(np.float32)
exact = 1920 / (1 + np.exp(-(x.astype(np.float64) @ weight.astype(np.float64))))
core = openvino.Core()
able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def error(config):
    compiled = core.compile_model(core.read_model(model), "CPU", config)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return used, float(np.abs(compiled({"x": x})[0] - exact).max())


print("the CPU can do bfloat16:", able, " largest coordinate:", round(float(exact.max())))
for name, config in (
    ("default", {}),
    ("f32", {"INFERENCE_PRECISION_HINT": "f32"}),
    ("ACCURACY", {"EXECUTION_MODE_HINT": "ACCURACY"}),
):
    used, far = error(config)
    print(f"{name}: says {used}, off by at most {far:.4f} pixels")
    if name == "default" and able:
        assert used == "bf16"
        assert far > 1
    else:
        assert far < 0.01
PY
