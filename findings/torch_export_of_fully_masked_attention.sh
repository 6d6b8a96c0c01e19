#!/usr/bin/env bash
# torch.onnx.export: a query that may look at nothing gives zeros in PyTorch, and a mean or NaN in the graph.
# One would expect: NaN on both sides (the softmax of nothing), or the same on both sides.
# What happens: scaled_dot_product_attention answers 0. Exported, a float mask of -inf gives NaN with both exporters;
#   a bool mask gives 0 with the legacy exporter and the mean of all values, also the forbidden ones, with the dynamo
#   exporter.
# It matters: masked attention of Mask2Former-like decoders meets empty masks in every video; dummy masks of a parity
#   test do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 \
  onnxscript==0.7.2
venv/bin/python - <<'PY'
import io
import logging
import os
import warnings

import onnxruntime
import torch

os.environ["TORCH_LOGS"] = "-all"
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)


class Attention(torch.nn.Module):
    def forward(self, x, mask):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def in_graph(args, dynamo):
    if dynamo:
        torch.onnx.export(
            Attention(), args, "m.onnx", dynamo=True, opset_version=18, verbose=False, external_data=False
        )
        model = "m.onnx"
    else:
        file = io.BytesIO()
        torch.onnx.export(Attention(), args, file, dynamo=False, opset_version=17)
        model = file.getvalue()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


torch.manual_seed(0)
x = torch.randn(1, 1, 4, 2)
allowed = torch.ones(1, 1, 4, 4, dtype=torch.bool)
allowed[..., 1, :] = False  # query 1 may look at nothing
added = torch.zeros(1, 1, 4, 4).masked_fill(~allowed, float("-inf"))
mean = x.mean(2)[0, 0]
for kind, mask in (("bool", allowed), ("float", added)):
    eager = Attention()(x, mask)
    legacy, dynamo = in_graph((x, mask), False), in_graph((x, mask), True)
    for name, got in (("eager", eager), ("legacy", legacy), ("dynamo", dynamo)):
        print(f"{kind:5} mask, {name:6}: query 1 -> {got[0, 0, 1].tolist()}")
        rest = [0, 2, 3]
        assert torch.allclose(got[0, 0, rest], eager[0, 0, rest], atol=1e-5)
    assert eager[0, 0, 1].abs().max() == 0
    if kind == "bool":
        assert legacy[0, 0, 1].abs().max() == 0
        assert torch.allclose(dynamo[0, 0, 1], mean, atol=1e-5)
    else:
        assert legacy[0, 0, 1].isnan().all()
        assert dynamo[0, 0, 1].isnan().all()
PY
