#!/usr/bin/env bash
# torch.onnx.export(dynamo=False): adding into repeated places keeps only the last addition.
# One would expect: index_put(accumulate=True) sums in the graph as in eager, as scatter_add does.
# What happens: the graph scatters into zeros and adds once, so of several values for one place the last one stays.
#   Opsets 16 to 18, although ScatterND has had reduction="add" since 16. index_add does the same, with a warning;
#   index_put has none.
# It matters: histograms, votes and splats of points into a mask or a grid, where places repeat by nature.
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


class Votes(torch.nn.Module):
    def __init__(self, scatter):
        super().__init__()
        self.scatter = scatter

    def forward(self, place, value):
        votes = torch.zeros(4)
        if self.scatter:
            return votes.scatter_add(0, place, value)
        return votes.index_put((place,), value, accumulate=True)


def in_graph(module, args, opset):
    file = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(module, args, file, dynamo=False, opset_version=opset, input_names=["place", "value"])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    feeds = {"place": args[0].numpy(), "value": args[1].numpy()}
    return session.run(None, feeds)[0].tolist(), [str(w.message) for w in caught if "duplicate" in str(w.message)]


args = (torch.tensor([1, 1, 1, 2]), torch.tensor([5.0, 6.0, 7.0, 1.0]))
assert Votes(False)(*args).tolist() == [0, 18, 1, 0]
for opset in (16, 17, 18):
    got, said = in_graph(Votes(False), args, opset)
    print(f"opset {opset}: eager [0, 18, 1, 0], graph {got}, warnings about repeated places: {said}")
    assert got == [0, 7, 1, 0], "repeated places are summed now"
    assert not said
assert in_graph(Votes(True), args, 17)[0] == [0, 18, 1, 0]
print("scatter_add: right")
PY
