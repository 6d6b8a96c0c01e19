"""The compiled backend does what the others do: the tests of graphs, with the model behind the graph compiled."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.config import SwinConfig
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import L2GError
from l2g.progress import Progress
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.compiled import backend as module
from l2g.runtime.backends.compiled.backend import MOST_PROGRAMS, CompiledBackend
from l2g.runtime.backends.compiled.launch import Launcher
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.open import open_backend
from tests.exported import exported_model, small_checkpoint
from tests.modeling.small import frames, small_model
from tests.modeling.videomt.small import small_videomt
from tests.runtime.backends import graph_suite as suite

# The same tests as ONNX Runtime's, with this backend in its place.
from tests.runtime.backends.graph_suite import (  # noqa: F401
    assert_close,
    backend,
    model,
    pictures,
    test_a_state_of_other_shape_is_refused,
    test_a_written_state_continues_as_if_it_were_its_own,
    test_arrays_belong_to_the_caller,
    test_detections_are_those_of_eager,
    test_four_frames_equal_eager,
    test_frames_off_the_canvas_are_refused,
    test_other_numbers_of_streams_need_write_state,
    test_reset_forgets_one_stream_only,
    test_streams_come_and_go_as_if_each_were_alone,
    test_the_first_step_is_fresh_whatever_it_is_told,
    test_what_an_invalid_row_holds_never_shows_and_nan_in_a_valid_one_is_survived,
)

FRESH, GO_ON = np.array([True, True]), np.array([False, False])


class Recorded(Launcher):
    """What a CUDA graph keeps of its work: places. The work is run when it is launched, and not when it is recorded,
    and its results lie where the recording's did."""

    how = "recorded"

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.launches = 0

    def ready(self, works):
        return [partial(self._launch, work, work()) for work in works]

    def _launch(self, work, places):
        self.launches += 1
        for place, result in zip(places, work(), strict=True):
            place.copy_(result)
        return places


def behind(path: Path, threads: int = 1) -> CompiledBackend:
    """The model that a graph of the suite was exported from, with the graph's outputs."""
    contract = read_contract(read_model(path), path)
    top_k = contract.output("scores").shape[1] if contract.output_kind == "detections" else None
    return CompiledBackend(exported_model(), top_k=top_k, launcher=Recorded())


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setattr(suite, "GraphBackend", behind)


def test_the_contract_is_the_models_and_says_the_precision():
    made = CompiledBackend(exported_model(), "bf16", top_k=4)
    expected = EagerBackend(exported_model(), top_k=4).contract
    assert made.contract.build.precision == "bf16"
    assert made.contract.outputs == expected.outputs
    assert made.contract.states == expected.states


def test_a_step_is_one_launch_and_the_state_is_written_to_where_it_is_read():
    launcher = Recorded()
    made = CompiledBackend(exported_model(), launcher=launcher)
    made.warm_up(2)
    (program,) = made._programs
    places = [[tensor.data_ptr() for tensor in state] for state in program.states]
    for time in range(3):
        read, written = program.states[time % 2], program.states[1 - time % 2]
        before = read[0].clone()
        found = made.step(pictures(time), FRESH if time == 0 else GO_ON)
        assert launcher.launches == time + 1
        assert torch.equal(read[0], before)
        assert found.queries.any()
        np.testing.assert_array_equal(written[0].numpy(), found.queries)
        np.testing.assert_array_equal(written[1].numpy(), found.boxes)
    assert [[tensor.data_ptr() for tensor in state] for state in program.states] == places
    assert made._programs == [program]


def test_fewer_streams_never_wait_for_the_compiler():
    """They run in the smallest program that holds them; one of their own is made when it is asked for."""
    made = CompiledBackend(exported_model())
    alone = EagerBackend(exported_model())
    made.warm_up(4)
    for each in (made, alone):
        each.step(pictures(0, 4), np.ones(4, bool))
    for count, sizes in ((3, [4]), (1, [4]), (2, [4, 2]), (1, [4, 2]), (3, [2, 4]), (5, [2, 4, 5])):
        if count == 2:
            made.warm_up(2)
        for each in (made, alone):
            state = each.read_state()
            each.write_state(state.rows(np.arange(count) % len(state)))
        found, expected = (each.step(pictures(1, count), np.zeros(count, bool)) for each in (made, alone))
        assert_close(found, expected)
        assert len(found.logits) == count
        assert [program.streams for program in made._programs] == sizes


def test_no_streams_are_none():
    with pytest.raises(L2GError, match="0 streams asked for, at least 1 expected"):
        CompiledBackend(exported_model()).warm_up(0)


def test_only_so_many_programs_are_kept(monkeypatch):
    monkeypatch.setattr(module, "Program", lambda _, __, streams, *___: streams)
    made = CompiledBackend(exported_model())
    monkeypatch.setattr(module.CompiledBackend, "warm_up", module.CompiledBackend._add)
    for streams in range(1, 8):
        made.warm_up(streams)
    assert made._programs == [4, 5, 6, 7]
    assert MOST_PROGRAMS == 4


def test_warming_up_does_not_disturb_what_runs():
    made, alone = CompiledBackend(exported_model()), EagerBackend(exported_model())
    for each in (made, alone):
        each.step(pictures(0), FRESH)
    made.warm_up(1)
    assert_close(made.step(pictures(1), GO_ON), alone.step(pictures(1), GO_ON))


def test_stages_are_told():
    class Told(Progress):
        def __init__(self):
            self.planned, self.begun = {}, []

        def plan(self, stages):
            self.planned |= stages

        def stage(self, name):
            self.begun.append(name)

    told = Told()
    CompiledBackend(exported_model()).warm_up(2, told)
    assert told.begun == list(told.planned) == ["trace for 2 streams", "warm up for 2 streams"]


def test_where_torch_cannot_compile_it_runs_without_and_says_so(monkeypatch):
    def broken(_, **__):
        def call(*_):
            raise RuntimeError("no compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    made = CompiledBackend(exported_model(), fuse=True)
    with pytest.warns(UserWarning, match=r"runs without torch\.compile \(no compiler found\)$"):
        found = made.step(pictures(0), FRESH)
    assert_close(found, EagerBackend(exported_model()).step(pictures(0), FRESH))
    assert made.facts()["between products"] == "PyTorch's operators"


def test_what_torch_compile_makes_is_what_runs(monkeypatch):
    calls = []

    def compiled(traced, **how):
        assert how == {"fullgraph": True, "dynamic": False}
        return lambda *given: calls.append(1) or traced(*given)

    monkeypatch.setattr(torch, "compile", compiled)
    made = CompiledBackend(exported_model(), fuse=True)
    made.step(pictures(0), FRESH)
    before = len(calls)
    made.step(pictures(1), GO_ON)
    assert len(calls) == before + 1
    assert made.facts()["between products"] == "joined by torch.compile"


SWIN = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "network",
    [
        lambda: small_model(state_box="head", trajectory=False),
        lambda: small_model(aligner=None, backbone=SWIN),
        small_videomt,
    ],
    ids=["other switches", "swin", "videomt"],
)
def test_other_models(network, precision):
    """Detections, over frames with a history. In 16 bits the scores move by their rounding."""
    network = network()
    made, eager = CompiledBackend(network, precision, top_k=3), EagerBackend(network, top_k=3)
    height, width = eager.contract.height, eager.contract.width
    for time in range(3):
        frame = frames(1, seed=time, height=height, width=width).numpy()
        found, expected = (each.step(frame, np.array([time == 0])) for each in (made, eager))
        if precision == "fp32":
            assert found.slots.tolist() == expected.slots.tolist()
            np.testing.assert_allclose(found.queries, expected.queries, atol=1e-4)
            assert np.abs(found.masks.astype(int) - expected.masks).max() <= 1
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_poisoned_stream_stays_poisoned_until_it_is_reset(precision):
    """In 16 bits too: NaN in, NaN out, and the other stream knows nothing of it."""
    made = CompiledBackend(exported_model(), precision)
    made.step(pictures(0), FRESH)
    state = made.read_state()
    made.write_state(
        HostState(
            {
                name: np.where(np.arange(2)[:, None, None] == 0, np.float32(np.nan), tensor)
                for name, tensor in state.tensors.items()
            },
            state.valid,
        )
    )
    for time in (1, 2):
        found = made.step(pictures(time), GO_ON)
        assert np.isnan(found.logits[0]).all()
        assert np.isfinite(found.logits[1]).all()
        assert np.isfinite(found.mask_logits[1]).all()
    assert made.step(pictures(3), np.array([True, False])).finite()


def test_thirty_frames_of_the_shipped_model_are_eagers():
    """From its own state, at the shipped model's canvas: 1e-4 in the scores, queries and boxes, 1e-3 in the masks."""
    video = synthetic_video("val", 0, frames=30, size=(96, 160)).frames
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = open_backend("l2g_tiny", top_k=None, compile=True, device="cpu")
    eager = open_backend("l2g_tiny", top_k=None)
    for time, frame in enumerate(video):
        reset = np.array([time == 0])
        found, expected = made.step(frame[None], reset), eager.step(frame[None], reset)
        for name, tolerance in {"logits": 1e-4, "queries": 1e-4, "boxes": 1e-4, "mask_logits": 1e-3}.items():
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=tolerance, err_msg=name)


# What is refused, and what the message tells to do.


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"compile": True, "library": "openvino"}, "library given, which only an exported graph takes; leave it away$"),
        ({"precision": "fp16"}, "precision given, which only an exported graph takes; leave it away, or add --compile"),
        ({"fp32_blocks": ["decoder"]}, "fp32 blocks given, which only a compiled checkpoint takes; add --compile"),
        ({"compile": True, "device": "tpu"}, "device 'tpu' asked for, PyTorch has cpu"),
        ({"compile": True, "device": "cuda:7"}, "device 'cuda:7' asked for, PyTorch has cpu"),
        ({"compile": True, "device": "cpu", "precision": "int8"}, "precision 'int8' found, one of fp32, fp16, bf16"),
        ({"compile": True, "device": "cpu", "fp32_blocks": ["encodr"]}, "no block 'encodr'; it has backbone.stem, "),
    ],
)
@pytest.mark.filterwarnings("ignore:.*--compile is for GPUs")
def test_what_does_not_go_together(how, match):
    with pytest.raises(L2GError, match=match):
        open_backend(small_checkpoint(), **how)


def test_an_exported_graph_is_not_compiled():
    with pytest.raises(L2GError, match="--compile given, which only a checkpoint takes; leave it away"):
        open_backend("some.onnx", compile=True)


def test_on_a_cpu_it_says_what_it_is():
    with pytest.warns(UserWarning, match=r"--compile is for GPUs; on this CPU .* l2g export$"):
        made = open_backend(small_checkpoint(), top_k=None, compile=True, device="cpu")
    assert made.facts() == {
        "deformable attention": "PyTorch's operators",
        "between products": "PyTorch's operators",
        "a step": "one operator after another",
    }
    assert made.step(frames(1).numpy(), np.array([True])).logits.shape == (1, 10, 8)
