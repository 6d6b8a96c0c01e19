#!/usr/bin/env bash
# torch.jit.trace and torch.onnx.export(dynamo=False): an open TorchDispatchMode turns convolutions into constants.
# One would expect: a dispatch mode that hands every operator on unchanged leaves a trace as it is.
# What happens: a linear layer is recorded as without the mode; of a convolution the tensor that it gave during the
#   trace is recorded, as a constant. The export succeeds; its graph holds neither the convolution nor its weights, and
#   what lies behind it no longer depends on the input.
# It matters: profilers, FLOP counters and fake modes are dispatch modes; an export below one answers every picture with
#   the result of the example. torch._convolution called instead of torch.conv2d is recorded.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2
venv/bin/python - <<'PY'
import io
import warnings

import onnx
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

warnings.simplefilter("ignore")
print("torch", torch.__version__, "onnx", onnx.__version__)


class HandsOn(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return operator(*args, **(kwargs or {}))


class Private(nn.Conv2d):
    def forward(self, x):
        pair = [1, 1]
        return torch._convolution(
            x, self.weight, self.bias, pair, [0, 0], pair, False, [0, 0], 1, False, False, True, True
        )


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(2).transpose(1, 2))


class Below(nn.Module):
    def __init__(self, layer, mode):
        super().__init__()
        self.layer, self.mode = layer, mode

    def forward(self, x):
        if not self.mode:
            return torch.relu(self.layer(x))
        with HandsOn():
            return torch.relu(self.layer(x))


def seen(layer, mode):
    """Operators of the exported graph, and whether a trace's answer moves with its input."""
    model, x, y = Below(layer, mode).eval(), torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        buffer = io.BytesIO()
        torch.onnx.export(model, (x,), buffer, dynamo=False, do_constant_folding=False)
        right = torch.allclose(traced(y), model(y), atol=1e-6)
    operators = [node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node]
    print(f"{type(layer).__name__:8} mode {mode!s:5} -> right for another input: {right!s:5} {operators}")
    return right, "Conv" in operators


torch.manual_seed(0)
assert seen(nn.Conv2d(3, 4, 3), False) == (True, True)
assert seen(nn.Conv2d(3, 4, 3), True) == (False, False)
assert seen(Private(3, 4, 3), True) == (True, True)
assert seen(Flat(3, 4), True)[0]
PY
