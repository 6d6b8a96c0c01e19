import json
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from l2g.cli.making.export import main
from l2g.contract import METADATA_KEY
from l2g.errors import ExportError
from l2g.export.exporter import ExportOptions, export, fp16_graph
from l2g.export.precision.convert import to_fp16
from l2g.export.precision.verify import FACTOR, _round, fp16_tensors, verify_fp16
from l2g.provenance import Verification
from tests.export.models import inputs, run, session
from tests.export.precision.half_models import PLANTED, contract, parsed, planted_model, single
from tests.exported import exported_model, ignore_prior_valid, small_checkpoint, swap_streams

FLOAT32 = Verification("onnxruntime", (), {}, {}, 0)


def verify(half: bytes):
    return verify_fp16(exported_model(), single(), half, contract(), FLOAT32)


def test_an_fp16_file_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "half.onnx"
    arguments = ["--ckpt", str(small_checkpoint()), "--output", str(path), "--precision", "fp16"]
    assert main([*arguments, "--fp32-blocks", "decoder.layers.0"]) == 0
    assert "FP16 emulated" in capsys.readouterr().out
    model = onnx.load(path)
    build = json.loads(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))["build"]
    assert build["precision"] == "fp16"
    assert build["fp32_blocks"] == ["decoder.layers.0"]
    verification = build["verification"]
    assert verification["float32"]["differences"]["queries"] < 1e-4
    for name, error in verification["errors"].items():
        assert error <= verification["limits"][name]
    assert verification["errors"]["queries"] > 0
    assert 0 < verification["largest_activation"][1] < 65504
    # The file runs, first frame and later ones, with NaN for the prior of a fresh stream.
    arrays = list(inputs(exported_model(), 3))
    arrays[1][0] = np.nan
    assert all(np.isfinite(array).all() for array in run(session(path), tuple(arrays)))


def scale_a_layer(model: onnx.ModelProto) -> None:
    """A tenth more of one layer's weights."""
    node = next(node for node in model.graph.node if node.name == "/encoder/layers.0/linear2/MatMul")
    weight = next(w for w in model.graph.initializer if w.name == node.input[1])
    assert weight.data_type == onnx.TensorProto.FLOAT16
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float16(1.1), weight.name))


@pytest.mark.parametrize("change", [scale_a_layer, swap_streams, ignore_prior_valid])
def test_a_wrong_graph_is_refused(change):
    proto = onnx.load_from_string(fp16_graph(single()))
    change(proto)
    with pytest.raises(ExportError, match=f"more than FP16 explains.*{FACTOR:g} times"):
        verify(proto.SerializeToString())


def test_overflow_is_named_before_anything_is_written(tmp_path):
    path = tmp_path / "half.onnx"
    with pytest.raises(ExportError, match=f"first to overflow.*--fp32-blocks {PLANTED}") as caught:
        export(planted_model(), path, ExportOptions(precision="fp16"))
    assert "/encoder/layers.0/linear1/MatMul_output_0" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_rounding_for_the_limits_is_fp16s():
    """Eleven bits, as FP16 has within its range; beyond it nothing becomes infinite or zero."""
    array = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    np.testing.assert_array_equal(_round(array), array.astype(np.float16).astype(np.float32))
    assert np.isfinite(_round(array * np.float32(2.0**30))).all()
    assert (_round(array * np.float32(2.0**-40)) != 0).all()


def test_what_is_cast_to_fp16_counts_too():
    """A float32 block before an FP16 one: the value between them must fit as well, and the reader is to blame."""
    half = parsed(single())
    to_fp16(half, keep=["encoder.layers.0.linear1"])
    found = fp16_tensors(half)
    assert found["/encoder/layers.0/Relu_output_0"] == "/encoder/layers.0/linear2/MatMul"
    assert "/encoder/layers.0/linear1/MatMul_output_0" not in found
    assert "prior_queries" not in found  # NaN where a stream is fresh


def test_the_block_kept_the_same_model_passes():
    half = ir.from_proto(onnx.load_from_string(single(planted=True)))
    to_fp16(half, keep=[PLANTED])
    half = ir.to_proto(half).SerializeToString()
    found = verify_fp16(planted_model(), single(planted=True), half, contract(), FLOAT32)
    assert found.largest_activation[1] < 65504


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--fp32-blocks", "encoder.layers.0"], "add --precision fp16"),
        (["--precision", "auto"], "add --dataset"),
        (["--precision", "auto", "--dataset", "synthetic:val", "--outputs", "detections"], "needs raw outputs"),
        (["--precision", "auto", "--fp32-blocks", "encoder"], "finds the blocks itself"),
    ],
)
def test_bad_options(arguments, text, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert main(["--ckpt", str(small_checkpoint()), "--output", str(path), *arguments]) == 2
    assert text in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
