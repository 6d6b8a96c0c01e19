"""Histograms over a recording, and the error of a graph on it, against plain runs."""

import numpy as np
import onnx
import pytest

from l2g.artifacts.onnx_file import read_contract
from l2g.calibration.observation import Observed, observe
from l2g.calibration.recording import Recording, Sample, write_samples
from l2g.calibration.sensitivity import output_error, references
from l2g.errors import ExportError
from tests.export.models import inputs, run, session
from tests.exported import edited, exported_model, scale_one_weight, small_graph

NAMES = ("frames", "prior_queries", "prior_boxes", "prior_valid")
TENSOR = "/backbone/res2/res2.0/Relu_1_output_0"


def samples(video):
    found = []
    for time in range(2):
        arrays = inputs(exported_model(), 1, seed=10 * video + time, valid=[time])
        found.append(Sample(dict(zip(NAMES, arrays, strict=True)), "later" if time else "first", video, time))
    return found


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for video in range(2):
        write_samples(folder / f"video_{video:04d}.npz", samples(video))
    return Recording(folder)


def test_an_interrupted_observation_counts_every_frame_once(recording, tmp_path):
    model, tensors = onnx.load(small_graph()), frozenset([TENSOR])
    whole = observe(model, tensors, recording, tmp_path / "whole.npz", progress=False)[TENSOR]
    half = Recording(recording.folder)
    half.files = half.files[:1]
    observe(model, tensors, half, tmp_path / "pieces.npz", progress=False)
    pieces = observe(model, tensors, recording, tmp_path / "pieces.npz", progress=False)[TENSOR]
    np.testing.assert_array_equal(pieces.to_array(), whole.to_array())
    exposed = onnx.load(small_graph())
    exposed.graph.output.append(onnx.helper.make_tensor_value_info(TENSOR, onnx.TensorProto.FLOAT, None))
    plain = session(exposed.SerializeToString())
    values = [run(plain, tuple(sample.inputs.values()))[-1] for sample in recording]
    assert whole.counts.sum() == sum(array.size for array in values)
    assert whole.high == max(array.max() for array in values)
    # A damaged cache is observed anew.
    (tmp_path / "pieces.npz").write_bytes(b"PK")
    again = observe(model, tensors, recording, tmp_path / "pieces.npz", progress=False)[TENSOR]
    np.testing.assert_array_equal(again.to_array(), whole.to_array())


def test_the_state_matters_only_behind_it(recording, tmp_path):
    """Zeros in the state's place: the backbone sees what it saw, the aligner does not."""
    model = onnx.load(small_graph())
    behind = next(n.input[0] for n in model.graph.node if n.name == "/aligner/layers.0/self_attn/MatMul_2")
    tensors = frozenset([TENSOR, behind])
    found = {
        state: observe(model, tensors, recording, tmp_path / f"{state}.npz", state, progress=False)
        for state in ("rollout", "zeros", "random")
    }
    for state in ("zeros", "random"):
        np.testing.assert_array_equal(found[state][TENSOR].to_array(), found["rollout"][TENSOR].to_array())
        assert (found[state][behind].to_array() != found["rollout"][behind].to_array()).any()


def test_ranges_by_method(recording, tmp_path):
    model = onnx.load(small_graph())
    histograms = observe(model, frozenset([TENSOR]), recording, tmp_path / "cache.npz", progress=False)
    observed = Observed(histograms, symmetric=False, percentile=99.0)
    assert observed.interval(TENSOR, "max").high == histograms[TENSOR].high
    assert observed.interval(TENSOR, "percentile").high < histograms[TENSOR].high
    assert observed.interval(TENSOR, "auto") == observed.interval(TENSOR, observed.method_of(TENSOR, "auto"))


def test_a_graph_that_breaks_is_named(recording, tmp_path):
    def infinite(model):
        scale_one_weight(model, float("inf"))

    model = onnx.load(edited(small_graph(), infinite, tmp_path / "broken.onnx"))
    with pytest.raises(ExportError, match=f"tensor '{TENSOR}' holds .* video 0, frame 0: the FP32 graph itself"):
        observe(model, frozenset([TENSOR]), recording, tmp_path / "cache.npz", progress=False)


def test_the_error_of_a_graph(recording, tmp_path):
    """Nothing for the graph itself, also with its first frame's slots in another order; more for more."""
    model = onnx.load(small_graph())
    contract = read_contract(model, small_graph())
    wanted = references(model.SerializeToString(), contract, recording)
    assert len(wanted) == 4
    assert output_error(model.SerializeToString(), contract, wanted) < 1e-3
    errors = []
    for factor in (1.01, 1.3):
        path = edited(small_graph(), lambda m, f=factor: scale_one_weight(m, f), tmp_path / f"{factor}.onnx")
        errors.append(output_error(path.read_bytes(), contract, wanted))
    assert 1e-4 < errors[0] < errors[1]


def behind(operator, outputs, constant):
    """A change that puts `operator` with a constant behind some of the graph's outputs."""

    def change(model):
        model.graph.initializer.append(onnx.numpy_helper.from_array(constant, "changed_by"))
        for name in outputs:
            for node in model.graph.node:
                node.output[:] = [f"{name}_before" if output == name else output for output in node.output]
                node.input[:] = [f"{name}_before" if source == name else source for source in node.input]
            attributes = {"axis": 1} if operator == "Gather" else {}
            model.graph.node.append(
                onnx.helper.make_node(operator, [f"{name}_before", "changed_by"], [name], **attributes)
            )

    return change


def test_only_a_first_frames_slots_are_brought_in_line(recording, tmp_path):
    model = onnx.load(small_graph())
    contract = read_contract(model, small_graph())
    outputs = ("queries", "boxes", "logits", "mask_logits")
    swapped = edited(small_graph(), behind("Gather", outputs, np.arange(10)[::-1].copy()), tmp_path / "swapped.onnx")
    for kind, low, high in (("first", 0, 1e-3), ("later", 0.05, 10)):
        wanted = references(
            model.SerializeToString(), contract, [sample for sample in recording if sample.kind == kind]
        )
        assert low <= output_error(swapped.read_bytes(), contract, wanted) < high


def test_each_kind_of_output_counts(recording, tmp_path):
    model = onnx.load(small_graph())
    contract = read_contract(model, small_graph())
    wanted = references(model.SerializeToString(), contract, recording)
    for output in ("queries", "logits", "mask_logits"):
        path = edited(small_graph(), behind("Mul", [output], np.array(1.5, np.float32)), tmp_path / f"{output}.onnx")
        assert output_error(path.read_bytes(), contract, wanted) > 0.01
