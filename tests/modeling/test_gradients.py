"""A loss on the second frame alone teaches every part of the model, through the state that the first frame left."""

import pytest
import torch
from torch import Tensor

from l2g.modeling.encoder import Memory
from l2g.modeling.local2global import Decoded, FrameState
from tests.modeling.small import frames, small_model

KINDS = {
    "static": {},
    "dynamic": {"aligner": {"local_position": "dynamic"}},
    "no trajectory": {"trajectory": False},
    "no aligner": {"aligner": None},
    "no aligner, no trajectory": {"aligner": None, "trajectory": False},
}


def loss_of(decoded: Decoded) -> Tensor:
    """Depends on every output of every layer, and on no two of its values alike."""
    generator = torch.Generator().manual_seed(0)
    values = [value for layer in decoded.layers for value in (layer.logits, layer.boxes, layer.mask_logits)]
    return sum((value * torch.rand(value.shape, generator=generator)).mean() for value in values)


def leaf(memory: Memory) -> Memory:
    """The memory as inputs of their own, whose gradients can be looked at."""
    tokens, mask_features = memory.tokens.detach().requires_grad_(), memory.mask_features.detach().requires_grad_()
    return Memory(tokens, memory.shapes, mask_features)


@pytest.fixture(params=KINDS)
def model(request):
    return small_model(**KINDS[request.param]).train()


@pytest.mark.parametrize("deep", [True, False])
def test_gradients_reach_every_parameter_through_two_frames(model, deep):
    first, second = (leaf(model.encode(frames(1, seed=seed))) for seed in (1, 2))
    state = model.decode(first).state
    loss_of(model.decode(second, state, deep=deep)).backward()
    parts = {"decoder": model.decoder, "heads": model.heads, "aligner": model.aligner}
    silent = [
        f"{part}.{name}"
        for part, module in parts.items()
        if module is not None
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or parameter.grad.abs().max() == 0
    ]
    assert not silent
    if model.slot_boxes is not None and (deep or model.aligner is not None):
        assert model.slot_boxes.grad.abs().max() > 0
    assert first.tokens.grad.abs().max() > 0, "the first frame's memory learns nothing from the second frame's loss"
    assert second.tokens.grad.abs().max() > 0
    assert second.mask_features.grad.abs().max() > 0


def test_the_first_frame_trains_the_decoder_through_the_state_alone(model):
    """With the second frame's own decoder frozen in a copy, what is left comes through the queries carried over."""
    twin = small_model(**{"aligner": model.config.aligner, "trajectory": model.config.trajectory}).requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        first, second = (model.encode(frames(1, seed=seed)) for seed in (1, 2))
    loss_of(twin.decode(second, model.decode(first).state)).backward()
    for name, parameter in model.decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    # Nothing but the carried queries ties the frames: no head of the first frame is asked, except for reference boxes.
    assert model.heads.class_embed.weight.grad is None
    assert model.heads.norm.weight.grad.abs().max() > 0


def test_a_reset_stops_the_gradient(model):
    first, second = (leaf(model.encode(frames(1, seed=seed))) for seed in (1, 2))
    state = model.decode(first).state
    loss_of(model.decode(second, FrameState(state.queries, state.boxes, torch.zeros(1, 1)))).backward()
    assert first.tokens.grad is None or first.tokens.grad.abs().max() == 0


def test_an_invalid_row_of_nan_does_not_poison_the_gradient(model):
    memory = leaf(model.encode(frames(1)))
    nan = torch.full((1, 10, 64), float("nan"))
    loss_of(model.decode(memory, FrameState(nan, nan[..., :4], torch.zeros(1, 1)))).backward()
    assert memory.tokens.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_whole_model_learns_from_a_clip():
    """Backbone and encoder included; only what the two-stage and denoising losses train stays without a gradient."""
    model = small_model().train()
    state = None
    for seed in (1, 2):
        decoded = model.decode(model.encode(frames(1, seed=seed)), state, deep=True)
        state = decoded.state
    loss_of(decoded).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert silent == {
        "label_embed.weight",
        *(f"proposals.{layer}.{kind}" for layer in ("output", "norm") for kind in ("weight", "bias")),
    }
    model.zero_grad()
    decoded = model.decode(model.encode(frames(1)))
    loss_of(decoded).backward(retain_graph=True)
    decoded.local.logits.mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.proposals.parameters())
