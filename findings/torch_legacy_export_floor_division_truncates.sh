#!/usr/bin/env bash
# torch.onnx.export(dynamo=False): `//` and `>>` of negative numbers come out as other numbers.
# One would expect: -3 // 2 is -2 in the graph as in eager; if not, the exporter refuses.
# What happens: the graph holds a plain division, which cuts towards zero: -1. `//`, torch.floor_divide and `>>` are
#   concerned, integers and floats; torch.div(..., rounding_mode="floor") is right. No warning names it.
# It matters: offsets from a centre, relative positions, tile indices left of zero. A parity test on positive values
#   passes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PY'
import io
import warnings

import onnxruntime
import torch

print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
warnings.simplefilter("ignore")


class Apply(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def in_graph(function, x):
    file = io.BytesIO()
    torch.onnx.export(Apply(function), (x,), file, dynamo=False, opset_version=17, input_names=["x"])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0].tolist()


x = torch.tensor([-3, -1, 1, 3])
for name, function, value, wrong in (
    ("x // 2", lambda x: x // 2, x, [-1, 0, 0, 1]),
    ("x // 2.0", lambda x: x // 2.0, x.float(), [-1.0, 0.0, 0.0, 1.0]),
    ("floor_divide", lambda x: torch.floor_divide(x, 2), x, [-1, 0, 0, 1]),
    ("x >> 1", lambda x: x >> 1, x, [-1, 0, 0, 1]),
):
    got = in_graph(function, value)
    print(f"{name:13} eager {function(value).tolist()}  graph {got}")
    assert function(value).tolist() == [-2, -1, 0, 1]
    assert got == wrong
right = in_graph(lambda x: torch.div(x, 2, rounding_mode="floor"), x)
print("torch.div(rounding_mode='floor') in the graph:", right)
assert right == [-2, -1, 0, 1]
PY
