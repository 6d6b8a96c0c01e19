#!/usr/bin/env bash
# tensorrt_lean: Runtime(logger) without a usable driver returns an object, and whatever is done with it ends the process.
# One would expect: an exception, or None, as the Python interfaces of such libraries give when they cannot start.
# What happens: the constructor logs "CUDA initialization failure with error: 35" and returns an object that looks
#   whole (dir() lists its methods); reading an attribute, opening an engine or letting the object go is a segmentation
#   fault, which no "except" sees. A guard of the form "try: Runtime(...)" passes and the process dies a line later.
# It matters: a service that falls back to another library where there is no GPU, or an old driver, does not fall back:
#   it is gone, without a traceback. What helps is to ask for the device first, by other means.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tensorrt-lean==11.4.0.106
cat >use.py <<'PY'
import os
import sys

import tensorrt_lean as trt

said = []


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        said.append(message)


try:
    runtime = trt.Runtime(Logger())
except Exception as error:
    sys.exit(f"an exception, as one would expect: {error}")
print("TensorRT lean", trt.__version__, "gives", type(runtime).__name__, "after:", said[0][:70], flush=True)
assert runtime is not None and "CUDA initialization failure" in " ".join(said), said
if sys.argv[1] == "leave":
    os._exit(0)  # without freeing it
if sys.argv[1] == "ask":
    runtime.engine_host_code_allowed
if sys.argv[1] == "open":
    runtime.deserialize_cuda_engine(b"x" * 1000)
if sys.argv[1] == "free":
    del runtime
os._exit(0)
PY
export CUDA_VISIBLE_DEVICES=
for what in leave ask open free; do
  code=0
  venv/bin/python use.py "$what" || code=$?
  echo "$what: exit code $code"
  if [ "$what" = leave ]; then expected=0; else expected=139; fi
  [ "$code" -eq "$expected" ] || { echo "expected $expected"; exit 1; }
done
