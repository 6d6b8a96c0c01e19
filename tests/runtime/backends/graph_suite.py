"""The tests of every library that runs an exported graph: it gives what the PyTorch model gives and refuses strangers.

A module of tests imports them and puts the class of its backend in the place of `GraphBackend`.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from l2g.contract import METADATA_KEY  # noqa: E402
from l2g.errors import ContractError, L2GError  # noqa: E402
from l2g.runtime.backends.base import HostState  # noqa: E402
from l2g.runtime.backends.eager import EagerBackend  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.outputs import Detections, RawOutputs  # noqa: E402
from l2g.runtime.session import VideoSession  # noqa: E402
from tests.exported import edited, exported_model, set_contract, small_graph  # noqa: E402
from tests.modeling.small import HEIGHT, WIDTH, frames  # noqa: E402

GraphBackend = OnnxRuntimeBackend

# Kernels of two libraries, float32; the boxes are those of masks and agree to the pixel.
TOLERANCE = {"queries": 1e-4, "boxes": 1e-5, "logits": 1e-4, "mask_logits": 1e-3}


@pytest.fixture(scope="module")
def model():
    return exported_model()


@pytest.fixture
def backend():
    opened = GraphBackend(small_graph(), threads=1)
    yield opened
    opened.close()


def pictures(time, streams=2):
    return frames(streams, seed=100 + time).numpy()


def contract_text(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}[METADATA_KEY]


def assert_close(found, expected, rows=slice(None)):
    for name, tolerance in TOLERANCE.items():
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one[rows], other[rows], atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_four_frames_equal_eager(model, backend, streams):
    eager = EagerBackend(model)
    assert backend.read_state() is None
    for time in range(4):
        reset = np.full(streams, time == 0)
        found, expected = (b.step(pictures(time, streams), reset) for b in (backend, eager))
        assert isinstance(found, RawOutputs)
        assert_close(found, expected)
        for spec in backend.contract.outputs:
            spec.check(getattr(found, spec.name))
    held = backend.read_state()
    np.testing.assert_array_equal(held.tensors["prior_queries"], found.queries)
    np.testing.assert_array_equal(held.tensors["prior_boxes"], found.boxes)
    assert held.valid.tolist() == [True] * streams


def test_reset_forgets_one_stream_only(backend):
    one = GraphBackend(small_graph(), threads=1)
    for each in (one, backend):
        each.step(pictures(0), np.array([True, True]))
    kept = one.step(pictures(1), np.array([False, False]))
    reset = backend.step(pictures(1), np.array([True, False]))
    fresh = GraphBackend(small_graph(), threads=1).step(pictures(1), np.array([True, True]))
    assert_close(reset, kept, slice(1, 2))
    assert_close(reset, fresh, slice(0, 1))
    assert np.abs(kept.logits[0] - reset.logits[0]).max() > 1e-3


def test_the_first_step_is_fresh_whatever_it_is_told(backend):
    told = GraphBackend(small_graph(), threads=1).step(pictures(0), np.array([True, True]))
    assert_close(backend.step(pictures(0), np.array([False, False])), told)


def test_what_an_invalid_row_holds_never_shows_and_nan_in_a_valid_one_is_survived(backend):
    expected = backend.step(pictures(0), np.array([True, True]))
    for poison in (np.nan, 1e30, -np.inf):
        state = backend.read_state().changed(lambda tensor, poison=poison: np.full_like(tensor, poison))
        backend.write_state(HostState(state.tensors, np.zeros(2, bool)))
        np.testing.assert_array_equal(backend.step(pictures(0), np.array([False, False])).logits, expected.logits)
    state = backend.read_state()
    for tensor in state.tensors.values():
        tensor[0] = np.nan
    backend.write_state(state)
    found = backend.step(pictures(1), np.array([False, False]))
    assert np.isnan(found.logits[0]).all()
    assert np.isfinite(found.logits[1]).all()
    # A reset heals the stream.
    assert np.isfinite(backend.step(pictures(0), np.array([True, False])).logits).all()


def test_a_written_state_continues_as_if_it_were_its_own(backend):
    source = GraphBackend(small_graph(), threads=1)
    source.step(pictures(0), np.array([True, True]))
    state = source.read_state()
    backend.write_state(state.rows([1, 0]))
    expected = source.step(pictures(1), np.zeros(2, bool))
    found = backend.step(pictures(1)[::-1], np.zeros(2, bool))
    assert_close(RawOutputs(**{name: array[::-1] for name, array in vars(found).items()}), expected)


def test_a_state_of_other_shape_is_refused(backend):
    backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state()
    expected = r"'prior_queries': found float32 \[2, 10, 63\], expected float32 \[B, 10, 64\]"
    with pytest.raises(ContractError, match=expected):
        backend.write_state(state.changed(lambda tensor: tensor[:, :, :63]))
    double = {**state.tensors, "prior_boxes": state.tensors["prior_boxes"].astype(np.float64)}
    with pytest.raises(ContractError, match="'prior_boxes': found float64"):
        backend.write_state(HostState(double, state.valid))
    with pytest.raises(ContractError, match=r"holds \['prior_boxes'\], the contract carries .*prior_queries"):
        backend.write_state(HostState({"prior_boxes": state.tensors["prior_boxes"]}, state.valid))


def test_streams_come_and_go_as_if_each_were_alone(model):
    """Three streams that start at different frames and end at different frames, against eager and each alone."""
    spans = {"a": range(0, 6), "b": range(2, 5), "c": range(3, 9)}
    video = {name: frames(9, seed=7 + i).numpy() for i, name in enumerate(spans)}
    alone = {}
    for name, span in spans.items():
        with VideoSession(EagerBackend(model)) as session:
            session.join(name)
            alone[name] = [session.step({name: video[name][t]})[name] for t in span]
    with VideoSession(GraphBackend(small_graph(), threads=1)) as session:
        for time in range(9):
            for name, span in spans.items():
                if time == span.start:
                    session.join(name)
            running = {name: video[name][time] for name, span in spans.items() if time in span}
            for name, found in session.step(running).items():
                assert_close(found, alone[name][time - spans[name].start])
            for name, span in spans.items():
                if time == span.stop - 1:
                    session.leave(name)


def test_arrays_belong_to_the_caller(backend):
    first = backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state()
    copies = {name: array.copy() for name, array in vars(first).items()}
    given = pictures(1)
    second = backend.step(given, np.zeros(2, bool))
    backend.step(pictures(2), np.zeros(2, bool))
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, copies[name], err_msg=name)
    # Neither may a caller who scribbles over what it was given disturb the next frame.
    other = GraphBackend(small_graph(), threads=1)
    outputs = other.step(pictures(0), np.array([True, True]))
    held = other.read_state()
    for array in (*vars(outputs).values(), *held.tensors.values(), held.valid):
        array[...] = 0
    assert_close(other.step(given, np.zeros(2, bool)), second)
    assert not np.array_equal(state.tensors["prior_queries"], second.queries)


def test_other_numbers_of_streams_need_write_state(backend):
    backend.step(pictures(0), np.array([True, True]))
    with pytest.raises(ContractError, match="3 frames given, but the state holds 2 streams; re-arrange"):
        backend.step(pictures(1, 3), np.zeros(3, bool))
    state = backend.read_state()
    backend.write_state(state.rows([1]))
    assert backend.step(pictures(1)[1:], np.zeros(1, bool)).logits.shape[0] == 1


@pytest.mark.parametrize("bad", [np.zeros((1, HEIGHT, WIDTH + 32, 3), np.uint8), np.zeros((1, HEIGHT, WIDTH, 3))])
def test_frames_off_the_canvas_are_refused(backend, bad):
    with pytest.raises(ContractError, match=r"tensor 'frames': found .* expected uint8 \[B, 64, 96, 3\]"):
        backend.step(bad, np.array([True]))


def test_detections_are_those_of_eager(model):
    found, expected = GraphBackend(small_graph(4), threads=1), EagerBackend(model, top_k=4)
    for time in range(3):
        one, other = (b.step(pictures(time), np.full(2, time == 0)) for b in (found, expected))
        assert isinstance(one, Detections)
        assert found.contract.output_kind == "detections"
        for name in ("slots", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.queries, other.queries, atol=1e-4)
        assert np.abs(one.masks.astype(int) - other.masks).max() <= 1


def test_three_hundred_frames_stay_finite_and_as_lively_as_the_first():
    backend = GraphBackend(small_graph(), threads=1)
    spread = []
    for time in range(300):
        found = backend.step(pictures(time, 1), np.array([time == 0]))
        assert all(np.isfinite(array).all() for array in vars(found).values())
        spread.append(found.logits.std())
    assert 0.5 < np.mean(spread[-50:]) / np.mean(spread[:50]) < 2


# What is refused, and what the message tells to do.


def _refused(path, match):
    with pytest.raises(ContractError, match=match) as caught:
        GraphBackend(path)
    assert f"l2g export --ckpt CKPT --output {path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_without_a_contract_is_refused(tmp_path):
    path = edited(small_graph(), set_contract(None), tmp_path / "bare.onnx")
    _refused(path, r"carries no 'l2g\.contract'")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema_version": 99}, "schema version 99 found, 1, 2, 3, 4 expected"),
        ({"states": [{"input": "prior_queries"}]}, "incomplete or damaged"),
        ({"output_kind": "panoptic"}, "output_kind: 'panoptic' found, expected one of raw, detections"),
        ({"output_kind": "detections"}, "names no tensor 'labels'"),
        ({"valid_input": "valid"}, "valid_input: 'valid' found"),
        ({"valid_input": "prior_boxes"}, r"'prior_boxes': the contract has float32 .* expected float32 \[\*, 1\]"),
        ({"height": 96}, r"'frames': the contract has uint8 \[\*, 64, 96, 3\], expected uint8 \[\*, 96, 96, 3\]"),
        ({"states": [{"input": "prior_queries", "output": "queries"}]}, r"no state feeds .*'prior_boxes'"),
        (
            {
                "states": [
                    {"input": "prior_queries", "output": "boxes"},
                    {"input": "prior_boxes", "output": "queries"},
                ]
            },
            "cannot be fed",
        ),
        (
            {
                "states": [
                    {"input": "prior_queries", "output": "queries", "initial": "ones"},
                    {"input": "prior_boxes", "output": "boxes"},
                ]
            },
            "initial: 'ones' found",
        ),
    ],
)
def test_a_contract_that_does_not_hold_is_refused(tmp_path, change, match):
    text = json.dumps(json.loads(contract_text(small_graph())) | change)
    _refused(edited(small_graph(), set_contract(text), tmp_path / "odd.onnx"), match)


def test_a_graph_that_was_changed_after_its_export_is_refused(tmp_path):
    """Also where one bit of one weight is another, which every library runs without a word."""
    content = bytearray(small_graph().read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.onnx").write_bytes(content)
    _refused(tmp_path / "flipped.onnx", "the graph was changed after its export")


def test_a_contract_that_is_no_json_is_refused(tmp_path):
    _refused(edited(small_graph(), set_contract("{"), tmp_path / "odd.onnx"), "not a JSON object")


def test_a_graph_with_other_tensors_than_its_contract_is_refused(tmp_path):
    contract = json.loads(contract_text(small_graph()))
    for kind, index, key, value, match in (
        ("inputs", 1, "shape", ["B", 10, 32], r"'prior_queries': the graph has float32 \[\*, 10, 64\], .*10, 32\]"),
        ("inputs", 0, "dtype", "float32", "'frames': the graph has uint8 .* says float32"),
        ("outputs", 2, "name", "classes", "'classes': the graph has none of that name"),
        ("outputs", 3, "shape", [1, 10, 16, 24], r"'mask_logits': the graph has float32 \[\*, .* float32 \[1,"),
    ):
        odd = json.loads(json.dumps(contract))
        odd[kind][index][key] = value
        _refused(edited(small_graph(), set_contract(json.dumps(odd)), tmp_path / "odd.onnx"), match)
    del contract["outputs"][3]
    _refused(edited(small_graph(), set_contract(json.dumps(contract)), tmp_path / "odd.onnx"), "none of that name")


def test_files_that_are_no_graph(tmp_path):
    with pytest.raises(L2GError, match="no such file; export a checkpoint"):
        GraphBackend(tmp_path / "absent.onnx")
    for content in (b"", b"nothing of the kind", small_graph().read_bytes()[:5000]):
        path = tmp_path / "odd.onnx"
        path.write_bytes(content)
        with pytest.raises(L2GError) as caught:
            GraphBackend(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
