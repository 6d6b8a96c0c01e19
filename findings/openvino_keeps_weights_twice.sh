#!/usr/bin/env bash
# OpenVINO on a CPU: a compiled model holds its weights twice, and where the second copy lies depends on the cache.
# One would expect: a model of 201 MB of float32 weights takes about that much once it is compiled, since the weights
#   that the kernels read have been packed and the others are read no more; and a cache changes the start, not the
#   memory.
# What happens: beside the packed weights the original ones stay for as long as the compiled model lives. Compiled
#   from the ONNX file they are anonymous memory, which nobody can take back. Opened from the cache (CACHE_DIR) they are
#   the cache's file, mapped and resident whole: the same number in `ps`, half of it is the page cache's.
# It matters: a limit of memory counts the first kind in full; the second kind can be given back by madvise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

random, layers, nodes, weights = np.random.default_rng(0), 12, [], []
for n in range(layers):
    weights.append(numpy_helper.from_array((random.random((2048, 2048), np.float32) - 0.5) / 50, f"w{n}"))
    nodes.append(helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"m{n}"]))
    nodes.append(helper.make_node("Relu", [f"m{n}"], [f"h{n + 1}"]))
graph = helper.make_graph(
    nodes,
    "g",
    [helper.make_tensor_value_info("h0", TensorProto.FLOAT, [64, 2048])],
    [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, [64, 2048])],
    weights,
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
PY
cat > resident.py <<'PY'
import ctypes
import sys

import numpy as np
import openvino

config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
if len(sys.argv) > 1:
    config["CACHE_DIR"] = sys.argv[1]


def megabytes(field):
    with open("/proc/self/status") as lines:
        return int(dict(line.split(":") for line in lines)[field].split()[0]) * 1024 / 1e6


before = megabytes("RssAnon")
request = openvino.Core().compile_model("model.onnx", "CPU", config).create_infer_request()
for _ in range(3):
    request.infer([np.ones((64, 2048), np.float32)])
ctypes.CDLL(None).malloc_trim(0)
cached, counts = 0, False
with open("/proc/self/smaps") as lines:
    for line in lines:
        if line[0] in "0123456789abcdef":
            counts = line.rstrip().endswith(".blob")
        elif counts and line.startswith("Rss:"):
            cached += int(line.split()[1]) * 1024 / 1e6
print(f"{megabytes('RssAnon') - before:.0f} {cached:.0f}")
PY
fresh=$(venv/bin/python resident.py)
venv/bin/python resident.py cache > first
again=$(venv/bin/python resident.py cache)
echo "openvino 2026.4.1, 201 MB of weights; MB of anonymous memory that it added, MB of the cache's file in memory"
echo "compiled from the file: $fresh"
echo "opened from the cache:  $again"
venv/bin/python - $fresh $again <<'PY'
import sys

anonymous, mapped, anonymous_again, mapped_again = map(int, sys.argv[1:])
assert anonymous > 1.7 * 201 and mapped == 0, "the weights are there twice, both as anonymous memory"
assert anonymous_again < 1.3 * 201 and mapped_again > 0.9 * 201, "one of the two is the cache's file"
PY
