"""The engine backend on an imagined GPU gives ONNX Runtime's numbers: its state, its streams, its captured graphs."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")  # the small graph is exported from a model
pytest.importorskip("onnxruntime")

from l2g.artifacts.records import Agreement
from l2g.engines.verification import LIMITS, DisagreementError, check_agreement, measure_agreement, verify_engine
from l2g.errors import ContractError, EngineError
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.backends.tensorrt import backend as tensorrt_backend
from l2g.runtime.backends.tensorrt.backend import TensorRTBackend
from l2g.runtime.outputs import Detections, RawOutputs
from l2g.runtime.session import VideoSession
from tests.exported import edited, ignore_prior_valid, small_graph, swap_streams
from tests.modeling.small import HEIGHT, WIDTH, frames
from tests.runtime.fake_gpu import FakePlatform, fake_engine


def pictures(time, streams=2):
    return frames(streams, seed=100 + time).numpy()


def reset(streams=2, *fresh):
    return np.isin(np.arange(streams), fresh)


class Pair:
    """The same graph in ONNX Runtime and as an imagined engine."""

    def __init__(self, folder, top_k=None, graph=None, **options):
        onnx_file = graph or small_graph(top_k)
        self.platform = FakePlatform(onnx_file)
        engine = fake_engine(folder / "model.engine", onnx_file)
        self.engine = TensorRTBackend(engine, platform=self.platform, **options)
        self.reference = OnnxRuntimeBackend(small_graph(top_k), threads=1)

    @property
    def device(self):
        return self.platform.devices[-1]

    @property
    def executor(self):
        return self.platform.executors[-1]

    def step(self, frame, fresh):
        found, expected = (backend.step(frame, fresh) for backend in (self.engine, self.reference))
        assert_equal(found, expected)
        return found


def assert_equal(found, expected):
    assert type(found) is type(expected)
    for name, array in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)


@pytest.fixture(params=[None, 4], ids=["raw", "detections"])
def pair(request, tmp_path):
    made = Pair(tmp_path, request.param)
    yield made
    made.engine.close()
    assert made.device.closed
    made.reference.close()


@pytest.mark.parametrize("streams", [1, 3])
def test_eight_frames_equal_onnx_runtime(pair, streams):
    results = [pair.step(pictures(time, streams), reset(streams, *range(streams * (time == 0)))) for time in range(8)]
    assert isinstance(results[0], RawOutputs if pair.engine.contract.output_kind == "raw" else Detections)
    # Two steps are enqueued, then one of each direction is captured, and all later ones are launches.
    assert (pair.executor.enqueued, pair.device.captures, pair.device.launches) == (4, 2, 6)
    state, expected = pair.engine.read_state(), pair.reference.read_state()
    for name in ("prior_queries", "prior_boxes"):
        np.testing.assert_array_equal(state.tensors[name], expected.tensors[name])
    assert state.valid.tolist() == [True] * streams


def test_reset_forgets_one_stream_also_in_a_captured_graph(pair):
    for time in range(9):
        pair.step(pictures(time), reset(2, 0) if time in (0, 5, 6) else reset())
    assert pair.device.launches


def test_results_are_the_callers_to_keep(pair):
    first = pair.step(pictures(0), reset(2, 0, 1))
    kept = {name: array.copy() for name, array in vars(first).items() if array is not None}
    pair.step(pictures(1), reset())
    for name, array in kept.items():
        np.testing.assert_array_equal(getattr(first, name), array)


def test_nothing_of_the_state_crosses_to_the_host_but_what_is_asked_for(tmp_path):
    pair = Pair(tmp_path, top_k=4)
    pair.step(pictures(0), reset(2, 0, 1))
    before = dict(pair.device.copies)
    found = pair.step(pictures(1), reset())
    assert pair.device.copies["up"] - before["up"] == pictures(1).nbytes + 2 * 4
    assert pair.device.copies["down"] - before["down"] == sum(x.nbytes for x in vars(found).values() if x is not None)
    assert found.masks.shape == (2, 4, HEIGHT // 4, WIDTH // 4)
    pair.engine.close()


def test_state_written_and_read_back_in_either_direction(pair):
    pair.step(pictures(0), reset(2, 0, 1))
    for time in range(1, 6):
        for backend in (pair.engine, pair.reference):
            state = backend.read_state()
            backend.write_state(state.rows([1, 0]))
        pair.step(pictures(time), reset())


def test_a_written_stream_that_is_not_valid_is_a_first_frame(pair):
    pair.step(pictures(0), reset(2, 0, 1))
    for backend in (pair.engine, pair.reference):
        state = backend.read_state()
        poison = state.changed(lambda tensor: np.full_like(tensor, np.nan))
        backend.write_state(HostState(poison.tensors, np.array([False, False])))
    pair.step(pictures(1), reset())


def test_streams_come_and_go(tmp_path):
    """B changes on the way: buffers and captured graphs are made anew, and nothing is left behind."""
    pair = Pair(tmp_path)
    spans = {"a": range(0, 9), "b": range(2, 6), "c": range(3, 12)}
    video = {name: frames(12, seed=7 + i).numpy() for i, name in enumerate(spans)}
    sessions = [VideoSession(pair.engine), VideoSession(pair.reference)]
    for time in range(12):
        outputs = []
        for session in sessions:
            for name, span in spans.items():
                if time == span.start:
                    session.join(name)
                if time == span.stop:
                    session.leave(name)
            outputs.append(session.step({name: video[name][time] for name, span in spans.items() if time in span}))
        assert outputs[0].keys() == outputs[1].keys()
        for name in outputs[0]:
            assert_equal(outputs[0][name], outputs[1][name])
    pair.engine.close()


def test_without_capture_every_step_is_enqueued(tmp_path):
    pair = Pair(tmp_path, cuda_graphs=False)
    for time in range(5):
        pair.step(pictures(time), reset(2, *(0, 1) * (time == 0)))
    assert (pair.executor.enqueued, pair.device.captures) == (5, 0)
    pair.engine.close()


def test_a_capture_that_fails_is_told_once_and_does_no_harm(tmp_path):
    pair = Pair(tmp_path)
    pair.device.capturable = False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for time in range(6):
            pair.step(pictures(time), reset(2, *(0, 1) * (time == 0)))
    assert len([each for each in told if "runs without CUDA graphs" in str(each.message)]) == 1
    assert (pair.executor.enqueued, pair.device.launches) == (6, 0)
    pair.engine.close()


def test_a_library_that_captures_itself_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.runtime.fake_gpu.FakeExecutor.captures_itself", True)
    pair = Pair(tmp_path)
    for time in range(5):
        pair.step(pictures(time), reset(2, *(0, 1) * (time == 0)))
    assert pair.device.captures == 0
    pair.engine.close()


def test_more_streams_than_the_engine_allows(pair):
    with pytest.raises(EngineError, match=r"5 streams at once, the engine was built for at most 4.*--max-streams 5"):
        pair.engine.step(pictures(0, 5), reset(5, 0))
    pair.step(pictures(0), reset(2, 0, 1))


def test_other_numbers_of_frames_and_other_shapes_are_refused(pair):
    pair.step(pictures(0), reset(2, 0, 1))
    with pytest.raises(ContractError, match="3 frames given, but the state holds 2 streams"):
        pair.engine.step(pictures(0, 3), reset(3))
    with pytest.raises(ContractError, match="'frames': found uint8"):
        pair.engine.step(pictures(0)[:, :32], reset())
    state = pair.engine.read_state()
    with pytest.raises(ContractError, match="'prior_queries': found float32"):
        pair.engine.write_state(state.changed(lambda tensor: tensor[..., :5]))


def test_an_unverified_engine_warns_and_a_verified_one_does_not(tmp_path):
    platform = FakePlatform(small_graph())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TensorRTBackend(fake_engine(tmp_path / "a.engine", small_graph()), platform=platform).close()
    engine = fake_engine(
        tmp_path / "b.engine", small_graph(), verification={"status": "unverified", "reason": "no GPU"}
    )
    with pytest.warns(UserWarning, match=r"not verified against its graph.*no GPU.*l2g verify"):
        TensorRTBackend(engine, platform=platform).close()


def test_an_engine_opens_by_its_suffix_and_says_what_is_missing(tmp_path):
    engine = fake_engine(tmp_path / "model.engine", small_graph(), library="tensorrt", library_version="10.13")
    with pytest.raises(
        EngineError, match=r"tensorrt is not installed|no GPU that CUDA can use|built by tensorrt 10\.13"
    ):
        open_backend(engine)
    with pytest.raises(EngineError, match="no such file; an engine is opened only with the sidecar"):
        open_backend(tmp_path / "other.engine")


EXACT = Agreement(0, 0, 0, 0, 0)


@pytest.mark.parametrize("top_k", [None, 4])
def test_verification_passes_for_the_graph_itself(tmp_path, top_k):
    pair = Pair(tmp_path, top_k)
    found = measure_agreement(pair.reference, pair.engine)
    assert found == EXACT
    record = check_agreement(found, "fp32", pair.engine.path, "a GPU")
    assert record.status == "verified"
    pair.engine.close()


@pytest.mark.parametrize(("max_streams", "compared"), [(1, 1), (2, 2), (4, 2)])
def test_verification_takes_as_many_streams_as_the_engine_does(tmp_path, monkeypatch, max_streams, compared):
    onnx_file = small_graph()
    platform = FakePlatform(onnx_file, max_streams=max_streams)
    monkeypatch.setattr(tensorrt_backend, "Platform", lambda: platform)
    record = verify_engine(onnx_file, fake_engine(tmp_path / "model.engine", onnx_file))
    assert (record.status, record.streams) == ("verified", compared)
    assert platform.devices[-1].closed


class Shuffled:
    """A backend whose first frames have their slots in another order, as near-ties of scores have it."""

    def __init__(self, backend):
        self.backend = backend
        self.write_state = backend.write_state

    def step(self, pictures, fresh):
        outputs = self.backend.step(pictures, fresh)
        order = np.roll(np.arange(outputs.queries.shape[1]), 3)
        state = self.backend.read_state()
        rows = [state.rows([stream]) for stream in range(len(fresh))]
        rows = [row.changed(lambda x: x[:, order]) if new else row for row, new in zip(rows, fresh, strict=True)]
        self.read_state = lambda: HostState.stacked(rows)
        given = [outputs.stream(stream) for stream in range(len(fresh))]
        given = [row.permuted(order) if new else row for row, new in zip(given, fresh, strict=True)]
        return type(outputs)(**{name: np.concatenate([getattr(r, name) for r in given]) for name in outputs.arrays()})


@pytest.mark.parametrize("top_k", [None, 4])
def test_verification_does_not_mind_the_order_of_a_first_frames_slots(tmp_path, top_k):
    pair = Pair(tmp_path, top_k)
    assert measure_agreement(pair.reference, Shuffled(pair.engine)) == EXACT
    pair.engine.close()


@pytest.mark.parametrize("spoil", [swap_streams, ignore_prior_valid])
@pytest.mark.parametrize("precision", LIMITS)
def test_verification_fails_for_an_engine_that_is_wrong_about_its_state(tmp_path, spoil, precision):
    pair = Pair(tmp_path, graph=edited(small_graph(), spoil, tmp_path / "spoilt.onnx"))
    found = measure_agreement(pair.reference, pair.engine)
    with pytest.raises(DisagreementError, match="does not give the numbers of its graph"):
        check_agreement(found, precision, pair.engine.path, None)
    pair.engine.close()
