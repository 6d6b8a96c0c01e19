#!/usr/bin/env bash
# Triton's Python backend (server 2.51, the release 24.10): with NumPy 2 in its Python every output arrives empty.
# One would expect: the outputs, or an error of the model; the same model.py answers with NumPy 1.26.
# What happens: the response is a success, names, types and shapes are right, and each tensor has no bytes. Inputs are
#   read well, and the server's log says nothing. The stub reads an array's structure as NumPy 1 laid it out.
# It matters: pip install of almost any package into the server's image brings NumPy 2; what fails is the client, far
#   away, with "cannot reshape array of size 0". Later releases are built for both.
set -euo pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
pip=(venv/bin/pip install --quiet --disable-pip-version-check)
"${pip[@]}" nvidia-pytriton==0.7.0 tritonclient==2.73.0 numpy==1.26.4
site=$(venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
version=$(venv/bin/python -c "import sys; print('%d.%d' % sys.version_info[:2])")
libraries=$(venv/bin/python -c "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")
triton="$site/pytriton/tritonserver"
mkdir -p backends models/count/1
cp -r "$triton/backends/python" backends/
cp "$triton/python_backend_stubs/$version/triton_python_backend_stub" backends/python/
cat >models/count/config.pbtxt <<'PBTXT'
backend: "python"
input { name: "N" data_type: TYPE_INT32 dims: 1 }
output { name: "COUNT" data_type: TYPE_INT32 dims: -1 }
instance_group { kind: KIND_CPU }
PBTXT
cat >models/count/1/model.py <<'PY'
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            n = int(pb.get_input_tensor_by_name(request, "N").as_numpy()[0])
            answers.append(pb.InferenceResponse([pb.Tensor("COUNT", np.arange(n, dtype=np.int32))]))
        return answers
PY
cat >ask.py <<'PY'
import importlib.metadata
import sys
import time

import numpy as np
import tritonclient.grpc as client

port, expected = sys.argv[1:]
triton = client.InferenceServerClient(f"127.0.0.1:{port}")
for _ in range(300):
    try:
        if triton.is_server_ready():
            break
    except client.InferenceServerException:
        pass
    time.sleep(0.2)
number = client.InferInput("N", [1], "INT32")
number.set_data_from_numpy(np.array([5], np.int32))
answer = triton.infer("count", [number]).get_response()
shape, found = list(answer.outputs[0].shape), len(answer.raw_output_contents[0])
numpy = importlib.metadata.version("numpy")
print(f"server {triton.get_server_metadata().version}, NumPy {numpy}: COUNT has the shape {shape} and {found} bytes")
assert (shape, found) == ([5], int(expected)), f"{expected} bytes expected"
PY
serve() { # PORT
  LD_LIBRARY_PATH="$site/nvidia_pytriton.libs:$libraries" PATH="$work/venv/bin:$PATH" "$triton/bin/tritonserver" \
    --model-repository models --backend-directory backends --grpc-address 127.0.0.1 --grpc-port "$1" \
    --allow-http false --allow-metrics false >"log-$1" 2>&1 &
  server=$!
}
port() { venv/bin/python -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"; }
first=$(port)
serve "$first"
venv/bin/python ask.py "$first" 20
kill "$server" && wait "$server" || true
"${pip[@]}" --no-deps numpy==2.4.6
second=$(port)
serve "$second"
venv/bin/python ask.py "$second" 0
echo "lines of the server's log that speak of an error of the model: $(grep -c "Failed to process" "log-$second" || true)"
