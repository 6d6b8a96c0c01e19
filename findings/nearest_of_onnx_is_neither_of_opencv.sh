#!/usr/bin/env bash
# Resize: "nearest" of ONNX and OpenVINO is a third one, beside the two of OpenCV.
# One would expect: nearest means the corner rule (OpenCV INTER_NEAREST, PyTorch) or the centre rule
#   (INTER_NEAREST_EXACT, Pillow).
# What happens: the default of ONNX's Resize, and RESIZE_NEAREST of OpenVINO's preprocessing, takes the pixel centre
#   and rounds ties down: at a factor of 2 it is the corner rule, at 64 -> 30 the centre rule, at 64 -> 48 neither.
# It matters: a label map checked at half size agrees to the pixel, and is off along every edge at the size that is
#   shipped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 \
  openvino==2026.4.1 opencv-python-headless==5.0.0.93 pillow==13.0.0
venv/bin/python - <<'PY'
import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm
from PIL import Image

print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "opencv", cv2.__version__)
WIDTH = 64
row = np.arange(WIDTH, dtype=np.float32)[None].repeat(4, 0)
core = openvino.Core()


def model(op, width, inputs, initializers=(), **attributes):
    source = WIDTH if op == "Resize" else width
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, source])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, width])],
        list(initializers),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def by_onnx(width):
    sizes = numpy_helper.from_array(np.array([1, 1, 4, width], np.int64), "sizes")
    data = model("Resize", width, ["x", "", "", "sizes"], [sizes], mode="nearest")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": row[None, None]})[0][0, 0, 0]


def by_openvino(width):
    steps = PrePostProcessor(core.read_model(model("Identity", width, ["x"])))
    steps.input().tensor().set_layout(openvino.Layout("NCHW")).set_shape([1, 1, 4, WIDTH])
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().resize(ResizeAlgorithm.RESIZE_NEAREST)
    compiled = core.compile_model(steps.build(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(row[None, None])[0][0, 0, 0]


for width, corner_agrees, centre_agrees in ((32, True, False), (30, False, True), (48, False, False)):
    ours, vino = by_onnx(width), by_openvino(width)
    corner = cv2.resize(row, (width, 4), interpolation=cv2.INTER_NEAREST)[0]
    centre = cv2.resize(row, (width, 4), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    pillow = np.asarray(Image.fromarray(row).resize((width, 4), Image.Resampling.NEAREST))[0]
    others = {"OpenVINO": vino, "INTER_NEAREST": corner, "INTER_NEAREST_EXACT": centre, "Pillow": pillow}
    shares = [f"{name} {np.mean(ours == other):.0%}" for name, other in others.items()]
    print(f"64 -> {width}: columns that ONNX Runtime shares with", ", ".join(shares))
    assert np.array_equal(ours, vino)
    assert np.array_equal(ours, corner) == corner_agrees
    assert np.array_equal(ours, centre) == centre_agrees
PY
