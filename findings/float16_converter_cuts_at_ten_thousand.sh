#!/usr/bin/env bash
# onnxconverter-common: float16 conversion changes constants that float16 holds exactly.
# One would expect: values up to 65504 are kept, only larger ones are cut; and ONNX Runtime's copy of the converter
#   does the same.
# What happens: everything beyond 10000 becomes 10000, and everything below 1e-7 becomes 1e-7 (float16 goes down to
#   6e-8), with one warning for the first of each tensor. onnxruntime.transformers.float16 keeps both.
# It matters: flat indices, token counts and pixel coordinates beyond 10000 kept as floats, and scales, all point
#   elsewhere.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxconverter-common==1.16.0 \
  onnxruntime==1.32.0
venv/bin/python - <<'PY'
import warnings
from importlib.metadata import version

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16 as converter_common
from onnxruntime.transformers import float16 as runtime_copy

print("onnxconverter-common", version("onnxconverter-common"), "onnxruntime", version("onnxruntime"))
warnings.simplefilter("ignore")
values = np.array([8192, 12288, 20000, 61440, 2.0**-24], np.float32)
assert np.array_equal(values.astype(np.float16).astype(np.float32), values)  # all of them are float16 numbers


def converted(converter):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = numpy_helper.to_array(converter.convert_float_to_float16(model).graph.initializer[0])
    assert result.dtype == np.float16
    return result.astype(np.float32)


cut, kept = converted(converter_common), converted(runtime_copy)
print("weights", values.tolist(), "\nonnxconverter-common", cut.tolist(), "\nONNX Runtime's copy", kept.tolist())
assert cut[:4].tolist() == [8192, 10000, 10000, 10000]
assert cut[4] > values[4]
assert np.array_equal(kept, values)
PY
