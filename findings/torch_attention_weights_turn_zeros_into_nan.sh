#!/usr/bin/env bash
# torch.nn.MultiheadAttention: need_weights decides whether a fully masked query is zeros or NaN.
# One would expect: need_weights=True returns the weights besides, and the same output.
# What happens: without weights a query that may look at nothing gives the output projection's bias; with weights (the
#   default) NaN. With a bool mask, self-attention, eval() and no_grad() it is NaN without weights as well, in the
#   fast path that training never takes.
# It matters: one NaN query that is carried over poisons a stream; asking for weights to debug it moves the fault.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
x, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)


def masked_query(query, keys, mask, weights, training):
    attention.train(training)
    with torch.set_grad_enabled(training):
        out = attention(query, keys, keys, attn_mask=mask, need_weights=weights)[0][0]
    assert not out[0].isnan().any()
    return "NaN" if out[1].isnan().all() else "bias" if torch.allclose(out[1], attention.out_proj.bias) else "other"


def masks(length):
    forbidden = torch.zeros(3, length, dtype=torch.bool)
    forbidden[1] = True
    return {"bool": forbidden, "float": torch.zeros(3, length).masked_fill(forbidden, float("-inf"))}


seen = {}
for kind, keys in (("self", x), ("cross", memory)):
    for name, mask in masks(keys.shape[1]).items():
        for training in (True, False):
            for weights in (True, False):
                case = (kind, name, "train" if training else "eval", weights)
                seen[case] = masked_query(x, keys, mask, weights, training)
                print("{:5} {:5} mask, {:5}, need_weights={!s:5} ->".format(*case), seen[case])
for case, got in seen.items():
    fast_path = case[:3] == ("self", "bool", "eval")
    assert got == ("NaN" if case[3] or fast_path else "bias"), case
PY
