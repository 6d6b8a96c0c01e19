#!/usr/bin/env bash
# tensorrt_lean: Runtime(logger) without a usable driver raises nothing and returns an object that looks whole.
# One would expect: an exception, or None, as the Python interfaces of such libraries give when they cannot start.
# What happens: the constructor logs "CUDA initialization failure with error: 35" and returns a Runtime whose dir()
#   lists its methods. It is of no use, and no "except" can tell: work with it does not end in a Python error.
# It matters: a guard of the form "try: Runtime(...)" passes where there is no GPU, or an old driver, and a service that
#   is to fall back to another library does not. What helps is to ask for the device first, by other means, or to look
#   at what the logger was told.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tensorrt-lean==11.4.0.106
cat >use.py <<'PY'
import os

import tensorrt_lean as trt

said = []


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        said.append(message)


runtime = trt.Runtime(Logger())
print("TensorRT lean", trt.__version__, "gives", type(runtime).__name__, "after:", said[0][:70], flush=True)
expected = runtime is not None and "CUDA initialization failure" in " ".join(said)
os._exit(0 if expected else 1)
PY
CUDA_VISIBLE_DEVICES="" venv/bin/python use.py
