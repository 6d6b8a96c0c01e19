"""OpenVINO takes ONNX Runtime's operator for attention, and its audit sees both products of it."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")

from l2g.artifacts.onnx_file import read_model
from l2g.export.exporter import ExportOptions, export
from l2g.export.graph import node_builder
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.openvino.backend import OpenVinoBackend, native_precisions
from tests.modeling.videomt.small import moving_frames, small_videomt

LAYERS = 4


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videomt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_builder, "PART_BYTES", 1)
        export(small_videomt(), folder / "fp32.onnx")
        export(small_videomt(), folder / "bf16.onnx", ExportOptions(precision="bf16", opset=20))
    return folder


def test_the_same_numbers_fed_back_with_a_reset(graphs):
    one = OpenVinoBackend(graphs / "fp32.onnx", precision="fp32", cached=False)
    other = OnnxRuntimeBackend(graphs / "fp32.onnx")
    clip = moving_frames(small_videomt(), streams=2, frames=4)
    for time in range(4):
        reset = np.array([time == 2, False])
        found, expected = one.step(clip[:, time], reset), other.step(clip[:, time], reset)
        np.testing.assert_allclose(found.queries, expected.queries, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            found.mask_logits, expected.mask_logits, rtol=0, atol=1e-3 * float(expected.mask_logits.std())
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_audit_counts_attention(graphs, precision):
    if precision not in native_precisions():
        pytest.skip(f"this CPU has no {precision}")
    path = graphs / f"{precision}.onnx"
    audited = OpenVinoBackend(path, cached=False).audit()
    model = read_model(path)
    counted, uncounted = count_flops(model, shapes_for_one_stream(model))
    assert uncounted == 0
    assert sum(audited.flops.values()) == sum(counted.values())
    assert audited.flops["unknown"] == 0
    assert audited.fused_attention == LAYERS
    assert audited.share > 0.99
