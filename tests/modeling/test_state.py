"""The state contract: streams do not mix, resets forget, and what an invalid row holds never reaches a result."""

import itertools

import pytest
import torch

from l2g import FrameState
from l2g.modeling.local2global import FrameOutput
from tests.modeling.small import CONFIG, frames, join, small_model

KINDS = {
    "static": {},
    "dynamic": {"aligner": {"local_position": "dynamic"}},
    "no trajectory": {"trajectory": False},
    "no aligner": {"aligner": None},
    "the head's boxes": {"state_box": "head"},
    "marked slots": {"slot_marks": 0.03},
}
EXACT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return small_model(**KINDS[request.param])


def fresh_state(filling: float = 0.0, streams: int = 1) -> FrameState:
    shape = (streams, CONFIG.num_queries)
    return FrameState(
        torch.full((*shape, CONFIG.hidden_dim), filling), torch.full((*shape, 4), filling), torch.zeros(streams, 1)
    )


def same(one: FrameOutput, two: FrameOutput, **tolerance) -> None:
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), **tolerance)
    # Logits of masks are ten times as large as the others.
    scaled = {**tolerance, "atol": 10 * tolerance["atol"]} if tolerance.get("atol") else tolerance
    torch.testing.assert_close(one.mask_logits, two.mask_logits, **scaled)


def pick(output: FrameOutput, stream: int) -> FrameOutput:
    index = slice(stream, stream + 1)
    return FrameOutput(output.logits[index], output.boxes[index], output.mask_logits[index])


@pytest.mark.parametrize("running", list(itertools.product((False, True), repeat=2)))
def test_two_streams_in_one_batch_equal_each_alone(model, running):
    """Streams with one frame behind them or none, then three frames together; each is also run alone."""
    with torch.inference_mode():
        alone = []
        for stream, has_past in enumerate(running):
            alone.append(model.step(frames(1, seed=40 + stream))[1] if has_past else fresh_state())
        together = join(*alone)
        for time in range(3):
            pictures = frames(2, seed=50 + time)
            batch, together = model.step(pictures, together)
            for stream in range(2):
                index = slice(stream, stream + 1)
                output, alone[stream] = model.step(pictures[index], alone[stream])
                same(pick(batch, stream), output, **EXACT)
                torch.testing.assert_close(together.queries[index], alone[stream].queries, **EXACT)
                torch.testing.assert_close(together.boxes[index], alone[stream].boxes, **EXACT)


def test_resetting_one_stream_leaves_the_other_untouched(model):
    with torch.inference_mode():
        _, state = model.step(frames(2, seed=1))
        pictures = frames(2, seed=2)
        kept, kept_state = model.step(pictures, state)
        reset, reset_state = model.step(pictures, FrameState(state.queries, state.boxes, torch.tensor([[0.0], [1.0]])))
        first, _ = model.step(pictures)
    same(pick(kept, 1), pick(reset, 1), atol=0, rtol=0)
    assert torch.equal(kept_state.queries[1], reset_state.queries[1])
    assert torch.equal(kept_state.boxes[1], reset_state.boxes[1])
    same(pick(reset, 0), pick(first, 0), atol=0, rtol=0)
    assert (kept.logits[0] - reset.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("filling", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.5])
def test_what_an_invalid_prior_holds_never_reaches_the_result(model, filling):
    with torch.inference_mode():
        expected, expected_state = model.step(frames(2, seed=3))
        found, found_state = model.step(frames(2, seed=3), fresh_state(filling, streams=2))
        _, running = model.step(frames(1, seed=4))
        mixed, mixed_state = model.step(frames(2, seed=3), join(running, fresh_state(filling)))
    same(found, expected, atol=0, rtol=0)
    assert torch.equal(found_state.queries, expected_state.queries)
    assert torch.equal(found_state.boxes, expected_state.boxes)
    same(pick(mixed, 1), pick(expected, 1), **EXACT)
    assert mixed_state.queries.isfinite().all()


def test_a_state_changes_the_answer(model):
    """The tests above would hold for a model without memory."""
    with torch.inference_mode():
        _, state = model.step(frames(1, seed=5))
        with_past, _ = model.step(frames(1, seed=6), state)
        without, _ = model.step(frames(1, seed=6))
    assert (with_past.logits - without.logits).abs().max() > 1e-2


def test_state_is_not_written_to(model):
    with torch.inference_mode():
        _, state = model.step(frames(1, seed=5))
        copies = [tensor.clone() for tensor in (state.queries, state.boxes, state.valid)]
        model.step(frames(1, seed=6), state)
    assert all(torch.equal(a, b) for a, b in zip(copies, (state.queries, state.boxes, state.valid), strict=True))


def constant_masks(logit: float, box_init: str, **changes):
    """A model whose every mask pixel of every slot has this logit."""
    model = small_model(box_init=box_init, **changes)
    with torch.no_grad():
        for module in (model.encoder.mask_features, model.heads.mask_embed.layers[-1]):
            module.weight.zero_()
        model.encoder.mask_features.bias.fill_(1)
        model.heads.mask_embed.layers[-1].bias.fill_(logit / CONFIG.encoder.mask_dim)
    return model


@pytest.mark.parametrize("box_init", ["mask2box", "bitmask"])
def test_empty_masks_carry_the_box_heads_boxes(box_init):
    model = constant_masks(-1.0, box_init)
    with torch.inference_mode():
        decoded = model.decode(model.encode(frames(1)))
    assert decoded.output.mask_logits.lt(0).all()
    assert torch.equal(decoded.state.boxes, decoded.output.boxes)
    assert decoded.output.boxes.std() > 0
    # The proposals have no box head's box to fall back to: Mask DINO's arithmetic gives these.
    expected = {"mask2box": [1.0, 1.0, 0.0, 0.0], "bitmask": [0.0, 0.0, 0.0, 0.0]}[box_init]
    assert torch.equal(decoded.local.boxes, torch.tensor(expected).expand(1, 10, 4))


@pytest.mark.parametrize(
    ("box_init", "expected"),
    [("mask2box", (23 / 48, 15 / 32, 23 / 24, 15 / 16)), ("bitmask", (0.5, 0.5, 1.0, 1.0))],
)
def test_full_masks_carry_the_full_box(box_init, expected):
    model = constant_masks(1.0, box_init)
    with torch.inference_mode():
        output, state = model.step(frames(1))
    assert output.mask_logits.gt(0).all()
    torch.testing.assert_close(state.boxes, torch.tensor(expected).expand(1, 10, 4))
    assert (state.boxes - output.boxes).abs().max() > 1e-2


def test_state_box_says_which_box_goes_on():
    """The same weights and frame: the box head's own prediction, or the corners of the mask, on its pixels' grid."""
    with torch.inference_mode():
        by_mask, by_head = small_model(), small_model(state_box="head")
        picture = frames(1, seed=3)
        output, state = by_head.step(picture)
        assert torch.equal(state.boxes, output.boxes)
        cornered, on_grid = by_mask.step(picture)
        assert torch.equal(cornered.boxes, output.boxes)
    full = cornered.mask_logits.flatten(2).amax(-1) > 0
    assert full.any()
    corners = (on_grid.boxes[..., :2] - on_grid.boxes[..., 2:] / 2)[full] * torch.tensor([24, 16])
    torch.testing.assert_close(corners, corners.round(), atol=1e-4, rtol=0)
    head = (state.boxes[..., :2] - state.boxes[..., 2:] / 2)[full] * torch.tensor([24, 16])
    assert (head - head.round()).abs().max() > 1e-2


def test_the_heads_box_is_steady_where_the_masks_is_not():
    """A mask logit that is all but zero: another sign moves the mask's box by pixels, and the head's not at all."""
    moved = {}
    prior = fresh_state(0.5)
    prior.valid.fill_(1)
    for kind in ("mask", "head"):
        boxes = []
        for logit in (1e-6, -1e-6):
            model = constant_masks(logit, "mask2box", state_box=kind)
            with torch.inference_mode():
                boxes.append(model.step(frames(1), prior)[1].boxes)
        moved[kind] = (boxes[0] - boxes[1]).abs().max().item()
    assert moved["mask"] > 1e-2
    assert moved["head"] == 0


def alike(model) -> FrameState:
    """A state in which every slot holds the same, as slots without an object come to."""
    state = model.step(frames(1, seed=4))[1]
    return FrameState(*(x[:, :1].expand(-1, CONFIG.num_queries, -1) for x in (state.queries, state.boxes)), state.valid)


def test_marks_tell_slots_apart_that_hold_the_same():
    """Without them nothing does but rounding; with them they part, by the marks' size, the same way every time."""
    spread = {}
    for size in (0.0, 0.03):
        with torch.inference_mode():
            model = small_model(slot_marks=size)
            queries = model.step(frames(1, seed=5), alike(model))[1].queries
        spread[size] = (queries - queries[:, :1]).abs().max().item()
    assert spread[0.0] < 1e-5
    assert 1e-3 < spread[0.03] < 1


def test_marks_are_nobodys_business_but_the_priors():
    """Weights and first frames are as without; a marked prior is one that had the marks in it before."""
    plain, marked = small_model(), small_model(slot_marks=0.5)
    marks = marked.slot_marks
    assert marks.std().item() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(marks, small_model(seed=9, slot_marks=0.5).slot_marks)
    with torch.inference_mode():
        first, state = plain.step(frames(2, seed=6))
        same(first, marked.step(frames(2, seed=6))[0], atol=0, rtol=0)
        shifted = FrameState(state.queries + marks, state.boxes, state.valid)
        same(plain.step(frames(2, seed=7), shifted)[0], marked.step(frames(2, seed=7), state)[0], atol=0, rtol=0)
        marked.marked = False
        same(plain.step(frames(2, seed=7), state)[0], marked.step(frames(2, seed=7), state)[0], atol=0, rtol=0)
