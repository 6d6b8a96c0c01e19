"""The eager backend: the model's own numbers, a state that stays in place, arrays that belong to the caller."""

import numpy as np
import pytest
import torch

from l2g.errors import ContractError
from l2g.modeling.local2global import FrameState
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.outputs import Detections, RawOutputs
from tests.modeling.small import CONFIG, HEIGHT, WIDTH, frames, small_model

FRESH = np.array([True, True])
GO_ON = np.array([False, False])


@pytest.fixture(scope="module")
def model():
    return small_model()


def pictures(time: int, streams: int = 2) -> np.ndarray:
    return frames(streams, seed=time).numpy()


def fields(result) -> dict[str, np.ndarray]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def assert_equal(one, two, rows=slice(None)) -> None:
    for name, array in fields(one).items():
        np.testing.assert_array_equal(array[rows], getattr(two, name)[rows], err_msg=name)


def test_three_frames_equal_the_models_own_steps(model):
    backend, state = EagerBackend(model), None
    assert backend.read_state() is None
    for time in range(3):
        found = backend.step(pictures(time), FRESH if time == 0 else GO_ON)
        with torch.inference_mode():
            output, state = model.step(torch.from_numpy(pictures(time)), state)
        assert isinstance(found, RawOutputs)
        for name in ("logits", "mask_logits"):
            np.testing.assert_array_equal(getattr(found, name), getattr(output, name).numpy(), err_msg=name)
        # The contract's outputs `queries` and `boxes` are the next priors.
        for name in ("queries", "boxes"):
            np.testing.assert_array_equal(getattr(found, name), getattr(state, name).numpy(), err_msg=name)
        assert (state.boxes - output.boxes).abs().max() > 0.1
        held = backend.read_state()
        np.testing.assert_array_equal(held.tensors["prior_queries"], state.queries.numpy())
        np.testing.assert_array_equal(held.tensors["prior_boxes"], state.boxes.numpy())
        assert held.valid.tolist() == [True, True]


@pytest.mark.parametrize("top_k", [None, 4])
def test_outputs_keep_the_contract(model, top_k):
    backend = EagerBackend(model, top_k=top_k)
    found = backend.step(pictures(0), FRESH)
    for spec in backend.contract.outputs:
        # The boxes of the next state stay on the device when instances are chosen there.
        if top_k is None or spec.name != "boxes":
            spec.check(getattr(found, spec.name))
    assert backend.contract.output_kind == ("raw" if top_k is None else "detections")
    assert (backend.contract.height, backend.contract.width) == (HEIGHT, WIDTH)
    assert backend.contract.model == CONFIG.to_dict()
    assert backend.contract.class_names == CONFIG.class_names


def test_detections_are_the_raw_outputs_best(model):
    raw, best = (EagerBackend(model, top_k=k).step(pictures(0), FRESH) for k in (None, 4))
    assert isinstance(best, Detections)
    score = (1 / (1 + np.exp(-raw.logits.astype(np.float64)))).max(-1)
    for stream in range(2):
        slots = np.argsort(-score[stream])[:4]
        assert best.slots[stream].tolist() == slots.tolist()
        assert best.labels[stream].tolist() == raw.logits[stream, slots].argmax(-1).tolist()
        np.testing.assert_allclose(best.scores[stream], score[stream, slots], atol=1e-6)
        probability = 255 / (1 + np.exp(-raw.mask_logits[stream, slots].astype(np.float64)))
        assert np.abs(best.masks[stream] - probability).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(best.queries, raw.queries)


def test_more_detections_than_slots_are_all_slots(model):
    found = EagerBackend(model, top_k=500).step(pictures(0), FRESH)
    assert sorted(found.slots[0].tolist()) == list(range(CONFIG.num_queries))


def test_reset_forgets_one_stream_only(model):
    kept, reset = EagerBackend(model), EagerBackend(model)
    for backend in (kept, reset):
        backend.step(pictures(0), FRESH)
    one, two = kept.step(pictures(1), GO_ON), reset.step(pictures(1), np.array([True, False]))
    first = EagerBackend(model).step(pictures(1), FRESH)
    assert_equal(two, one, slice(1, 2))
    assert_equal(two, first, slice(0, 1))
    assert np.abs(one.logits[0] - two.logits[0]).max() > 1e-3


def test_the_first_step_is_fresh_whatever_it_is_told(model):
    assert_equal(EagerBackend(model).step(pictures(0), GO_ON), EagerBackend(model).step(pictures(0), FRESH))


def test_a_written_state_continues_as_if_it_were_its_own(model):
    source, target = EagerBackend(model), EagerBackend(model)
    source.step(pictures(0), FRESH)
    state = source.read_state()
    target.write_state(state.rows([1, 0]))
    expected = source.step(pictures(1), GO_ON)
    found = target.step(pictures(1)[::-1].copy(), GO_ON)
    for name in ("logits", "boxes", "mask_logits"):
        np.testing.assert_allclose(getattr(found, name)[::-1], getattr(expected, name), atol=1e-4, err_msg=name)


def test_an_invalid_row_of_a_written_state_is_fresh(model):
    backend = EagerBackend(model)
    backend.step(pictures(0), FRESH)
    state = backend.read_state()
    state.tensors["prior_queries"][0] = np.nan
    backend.write_state(HostState(state.tensors, np.array([False, True])))
    assert backend.read_state().valid.tolist() == [False, True]
    found = backend.step(pictures(1), GO_ON)
    assert_equal(found, EagerBackend(model).step(pictures(1), FRESH), slice(0, 1))
    assert np.isfinite(found.logits).all()


def test_arrays_belong_to_the_caller(model):
    backend = EagerBackend(model)
    first = backend.step(pictures(0), FRESH)
    state = backend.read_state()
    copies = {name: array.copy() for name, array in fields(first).items()}
    second = backend.step(pictures(1), GO_ON)
    for name, array in fields(first).items():
        np.testing.assert_array_equal(array, copies[name], err_msg=name)
    # Neither may a caller who scribbles over what it was given disturb the next frame.
    reference = EagerBackend(model)
    reference.step(pictures(0), FRESH)
    state.tensors["prior_queries"][:] = 0
    assert_equal(second, reference.step(pictures(1), GO_ON))
    for array in fields(second).values():
        array[:] = 0
    assert_equal(backend.step(pictures(2), GO_ON), reference.step(pictures(2), GO_ON))


def test_streams_come_and_go_through_write_state(model):
    backend = EagerBackend(model)
    backend.step(pictures(0), FRESH)
    with pytest.raises(ContractError, match="3 frames given, but the state holds 2 streams; re-arrange"):
        backend.step(pictures(1, streams=3), np.zeros(3, bool))
    state = backend.read_state()
    grown = HostState.stacked([state, HostState.empty(backend.contract, 1)])
    backend.write_state(grown)
    found = backend.step(pictures(1, streams=3), np.zeros(3, bool))
    with torch.inference_mode():
        arrays = (*grown.tensors.values(), np.float32([[1], [1], [0]]))
        padded = FrameState(*map(torch.from_numpy, arrays))
        expected = model.step(torch.from_numpy(pictures(1, streams=3)), padded)[0]
    np.testing.assert_array_equal(found.logits, expected.logits.numpy())


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, HEIGHT, WIDTH + 32, 3), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    ],
)
def test_frames_off_the_canvas_are_refused(model, bad):
    with pytest.raises(ContractError, match=r"tensor 'frames': found .* expected uint8 \[B, 64, 96, 3\]"):
        EagerBackend(model).step(bad, np.array([True]))


def test_another_canvas(model):
    backend = EagerBackend(model, canvas=(96, 64))
    found = backend.step(frames(1, height=96, width=64).numpy(), np.array([True]))
    assert found.mask_logits.shape == (1, CONFIG.num_queries, 24, 16)


def test_closing_frees_the_state(model):
    backend = EagerBackend(model)
    backend.step(pictures(0), FRESH)
    backend.close()
    assert backend.read_state() is None


def test_no_product_is_rounded_to_tf32(model, monkeypatch):
    """On a GPU cuDNN would do that to convolutions; whoever else uses PyTorch keeps what they had set."""
    seen = []
    step = model.step
    monkeypatch.setattr(model, "step", lambda *a: seen.append(torch.backends.cudnn.allow_tf32) or step(*a))
    before = torch.backends.cudnn.allow_tf32
    EagerBackend(model).step(pictures(0), FRESH)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before
    assert torch.backends.cudnn.enabled
