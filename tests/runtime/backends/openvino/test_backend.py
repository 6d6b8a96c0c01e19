"""The OpenVINO backend does what the ONNX Runtime backend does, and computes in the precision that is stated."""

import tracemalloc

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")

from l2g.contract import METADATA_KEY, GraphContract  # noqa: E402
from l2g.errors import ContractError, L2GError  # noqa: E402
from l2g.files import cache_root  # noqa: E402
from l2g.runtime.backends.base import HostState  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.backends.open import open_backend  # noqa: E402
from l2g.runtime.backends.openvino import kept as kept_models  # noqa: E402
from l2g.runtime.backends.openvino.backend import OpenVinoBackend, native_precisions  # noqa: E402
from tests.exported import edited, scale_one_weight, small_graph  # noqa: E402
from tests.runtime.backends import graph_suite as suite  # noqa: E402

# The same tests as ONNX Runtime's, with this backend in its place.
from tests.runtime.backends.graph_suite import (  # noqa: E402, F401
    assert_close,
    backend,
    model,
    pictures,
    test_a_contract_that_does_not_hold_is_refused,
    test_a_contract_that_is_no_json_is_refused,
    test_a_graph_with_other_tensors_than_its_contract_is_refused,
    test_a_graph_without_a_contract_is_refused,
    test_a_state_of_other_shape_is_refused,
    test_a_written_state_continues_as_if_it_were_its_own,
    test_arrays_belong_to_the_caller,
    test_detections_are_those_of_eager,
    test_files_that_are_no_graph,
    test_four_frames_equal_eager,
    test_frames_off_the_canvas_are_refused,
    test_other_numbers_of_streams_need_write_state,
    test_reset_forgets_one_stream_only,
    test_streams_come_and_go_as_if_each_were_alone,
    test_the_first_step_is_fresh_whatever_it_is_told,
    test_three_hundred_frames_stay_finite_and_as_lively_as_the_first,
    test_what_an_invalid_row_holds_never_shows_and_nan_in_a_valid_one_is_survived,
)

HAS_BF16 = "bf16" in native_precisions()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(suite, "GraphBackend", OpenVinoBackend)
    monkeypatch.setenv("L2G_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_results_are_there_once():
    """Left alone, the library's Python copies all of them at the end of a step."""
    backend = OpenVinoBackend(small_graph())  # noqa: F811
    backend.step(pictures(0), np.full(2, True))
    tracemalloc.start()
    outputs = backend.step(pictures(1), np.full(2, False))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.4 * sum(array.nbytes for array in outputs.arrays().values())


def test_the_state_stays_in_two_buffers_that_swap(backend):  # noqa: F811
    places = []
    for time in range(5):
        backend.step(pictures(time), np.full(2, time == 0))
        places.append(backend._current["queries"].ctypes.data)
    assert len(set(places)) == 2
    assert places[0] == places[2] == places[4] != places[1] == places[3]


def test_a_poisoned_stream_stays_poisoned_until_it_is_reset(backend):  # noqa: F811
    """OpenVINO's Relu and Max make numbers of NaN: the stream would look healthy."""
    backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state()
    state.tensors["prior_queries"][0, 0, 0] = np.nan
    backend.write_state(state)
    for time in (1, 2):
        found = backend.step(pictures(time), np.zeros(2, bool))
        assert np.isnan(found.logits[0]).all()
        assert np.isnan(found.queries[0]).all()
        assert np.isfinite(found.logits[1]).all()
    assert np.isnan(backend.read_state().tensors["prior_queries"][0]).all()
    assert np.isfinite(backend.step(pictures(3), np.array([True, False])).logits).all()


def test_detections_of_a_poisoned_stream_have_no_scores():
    backend = OpenVinoBackend(small_graph(4), threads=1)  # noqa: F811
    backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state().changed(lambda tensor: np.full_like(tensor, np.inf))
    backend.write_state(HostState(state.tensors, np.array([True, False])))
    found = backend.step(pictures(1), np.zeros(2, bool))
    assert np.isnan(found.scores[0]).all()
    assert np.isfinite(found.scores[1]).all()


def test_devices_and_threads_that_are_not_there():
    with pytest.raises(L2GError, match=r"device 'TPU' asked for, OpenVINO has CPU.* AUTO here"):
        OpenVinoBackend(small_graph(), device="tpu")
    with pytest.raises(L2GError, match="0 threads asked for"):
        OpenVinoBackend(small_graph(), threads=0)


def test_auto_runs_and_keeps_the_precision():
    automatic = OpenVinoBackend(small_graph(), device="auto", cached=False)
    assert automatic.hint == "f32"
    found = automatic.step(pictures(0), np.full(2, True))
    expected = OnnxRuntimeBackend(small_graph()).step(pictures(0), np.full(2, True))
    assert_close(found, expected)


# The cache


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """How often OpenVINO compiled, or read, a model; with a cache of one's own."""
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("L2G_KEEP_GRAPHS", raising=False)
    calls = []
    for name in ("compile_model", "read_model"):
        whole = getattr(ov.Core, name)

        def noted(core, *given, _name=name, _whole=whole):
            calls.append(_name)
            return _whole(core, *given)

        monkeypatch.setattr(ov.Core, name, noted)
    return calls


def kept():
    return {path: path.read_bytes() for path in (cache_root() / "openvino").glob("*.blob")}


def test_a_model_is_compiled_once(compiled):
    expected = OpenVinoBackend(small_graph(), cached=False).step(pictures(0), np.full(2, True))
    assert not kept()
    first = OpenVinoBackend(small_graph())
    found, blobs = first.step(pictures(0), np.full(2, True)), kept()
    assert len(blobs) == 1
    compiled.clear()
    again = OpenVinoBackend(small_graph())
    assert compiled == []
    assert kept() == blobs
    assert again.contract == first.contract
    assert again._compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    for outputs in (found, again.step(pictures(0), np.full(2, True))):
        for name, array in outputs.arrays().items():
            np.testing.assert_array_equal(array, getattr(expected, name))
    assert again.audit().share == 1.0


def test_other_threads_code_or_a_changed_graph_are_other_models(compiled, tmp_path, monkeypatch):
    OpenVinoBackend(small_graph()).close()
    OpenVinoBackend(small_graph(), threads=1).close()
    assert len(kept()) == 2
    path = tmp_path / "graph.onnx"
    path.write_bytes(small_graph().read_bytes())
    before = OpenVinoBackend(path).step(pictures(0), np.full(2, True))
    assert len(kept()) == 2  # the same bytes
    path.write_bytes(edited(path, scale_one_weight, tmp_path / "other.onnx").read_bytes())
    after = OpenVinoBackend(path).step(pictures(0), np.full(2, True))
    assert len(kept()) == 3
    assert np.abs(after.logits - before.logits).max() > 1e-3
    monkeypatch.setattr(kept_models, "_own_sum", lambda: "of other code")
    OpenVinoBackend(small_graph()).close()
    assert len(kept()) == 4
    if HAS_BF16:  # and so is another precision
        OpenVinoBackend(small_graph(), precision="bf16").close()
        assert len(kept()) == 5


def test_a_cache_that_may_only_be_read_is_used(compiled, monkeypatch):
    """One of a read-only image, or of another user."""
    first = OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True))
    compiled.clear()

    def refused(*_):
        raise PermissionError("not the owner")

    monkeypatch.setattr("l2g.runtime.backends.kept_files.os.utime", refused)
    again = OpenVinoBackend(small_graph())
    assert compiled == []
    assert_close(again.step(pictures(0), np.full(2, True)), first)


def test_what_cannot_be_kept_is_compiled_once(compiled, monkeypatch):
    monkeypatch.setattr(kept_models, "keep", lambda made: bool(made.discard()))
    OpenVinoBackend(small_graph()).close()
    assert compiled.count("compile_model") == 1


def test_nothing_is_kept_where_nothing_shall_be(compiled, monkeypatch):
    monkeypatch.setenv("L2G_KEEP_GRAPHS", "0")
    OpenVinoBackend(small_graph()).close()
    assert not cache_root().exists()


def test_a_damaged_cache_is_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    first = OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True))
    (blob,) = kept()
    whole = blob.read_bytes()
    for damaged in (whole[:200], whole[:-1], b"", whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:]):
        blob.write_bytes(damaged)
        assert_close(OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True)), first)
        assert blob.read_bytes() != damaged
    monkeypatch.setenv("L2G_CACHE", "/proc/nowhere")
    assert_close(OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True)), first)


# Opening


def test_open_backend_takes_the_library(monkeypatch):
    assert isinstance(open_backend(small_graph(), library="openvino", device="CPU"), OpenVinoBackend)
    assert isinstance(open_backend(small_graph(), library="onnxruntime", device="cpu"), OnnxRuntimeBackend)
    with pytest.raises(L2GError, match="library 'tflite' found, one of onnxruntime, openvino expected"):
        open_backend(small_graph(), library="tflite")
    with pytest.raises(L2GError, match="precision given, which ONNX Runtime takes from the graph"):
        open_backend(small_graph(), precision="bf16")
    with pytest.raises(L2GError, match="library given, which only an exported graph takes"):
        open_backend("l2g_tiny", library="openvino")
    monkeypatch.delitem(__import__("sys").modules, "l2g.runtime.backends.openvino.backend")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(L2GError, match=r"'openvino' is not installed; install it with: pip install 'l2g\[openvino\]'"):
        open_backend(small_graph(), library="openvino")


def test_onnxruntime_says_what_runs_a_bf16_graph(bf16_graph):
    with pytest.raises(L2GError, match="ONNX Runtime's CPU has no BF16; run it with --library openvino"):
        OnnxRuntimeBackend(bf16_graph["bf16"], providers=["CPUExecutionProvider"])


def test_the_contract_says_nothing_of_the_library():
    text = {prop.key: prop.value for prop in onnx.load(small_graph()).metadata_props}[METADATA_KEY]
    assert OpenVinoBackend(small_graph()).contract.to_json() == GraphContract.from_json(text).to_json()
    with pytest.raises(ContractError):
        OpenVinoBackend(small_graph()).step(np.zeros((1, 8, 8, 3), np.uint8), np.full(1, True))
