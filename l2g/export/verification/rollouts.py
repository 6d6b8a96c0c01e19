"""What a graph is verified on: short rollouts of the model, with everything that a comparison has to know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from l2g.modeling.local2global import FrameOutput, FrameState, Local2Global
from l2g.modeling.proposals import LocalQueries

# (streams, frames): one stream alone, then several, of which one starts again at the second frame.
ROLLOUTS = ((1, 3), (3, 2))


@dataclass(frozen=True)
class Step:
    """One frame of B streams: what went in (in the contract's order) and what the model made of it.

    token_scores: float32 [B, S], by which the local queries were chosen.
    """

    streams: int
    frame: int
    inputs: tuple[np.ndarray, ...]
    output: FrameOutput
    state: FrameState
    local: LocalQueries
    token_scores: Tensor


def rollouts(model: Local2Global, height: int, width: int, seed: int = 0) -> Iterator[Step]:
    """The steps of `ROLLOUTS` over moving random pictures; the model's own state is every next step's prior.

    The prior of a fresh stream is NaN, which must stay without effect.
    """
    for number, (streams, frames) in enumerate(ROLLOUTS):
        state = None
        for frame, pictures in enumerate(random_video(streams, frames, height, width, seed + number)):
            prior = _prior(model, state, streams)
            if frame == 1 and streams > 1:
                prior = _fresh(prior, stream=1)
            step = _step(model, pictures, prior, frame)
            state = step.state
            yield step


def random_video(streams: int, frames: int, height: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Frames uint8 [B, H, W, 3]: smooth random colours that drift by a few pixels a frame, under a little noise."""
    rng = np.random.default_rng(seed)
    margin = 4 * frames
    canvases = []
    for _ in range(streams):
        coarse = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
        canvases.append(cv2.resize(coarse, (width + margin, height + margin), interpolation=cv2.INTER_CUBIC))
    for frame in range(frames):
        shift = 4 * frame
        views = np.stack([canvas[shift : shift + height, shift : shift + width] for canvas in canvases])
        noise = rng.integers(-12, 13, views.shape)
        yield np.clip(views + noise, 0, 255).astype(np.uint8)


def _prior(model: Local2Global, state: FrameState | None, streams: int) -> FrameState:
    if state is not None:
        return state
    slots, width = model.config.num_queries, model.config.hidden_dim
    nothing = torch.full((streams, slots, width + 4), torch.nan)
    return FrameState(nothing[..., :width].contiguous(), nothing[..., width:].contiguous(), torch.zeros(streams, 1))


def _fresh(state: FrameState, stream: int) -> FrameState:
    queries, boxes, valid = state.queries.clone(), state.boxes.clone(), state.valid.clone()
    queries[stream], boxes[stream], valid[stream] = torch.nan, torch.nan, 0
    return FrameState(queries, boxes, valid)


@torch.no_grad()
def _step(model: Local2Global, frames: np.ndarray, prior: FrameState, frame: int) -> Step:
    features = []
    hook = model.proposals.norm.register_forward_hook(lambda _, __, result: features.append(result))
    try:
        decoded = model.decode(model.encode(torch.from_numpy(frames)), prior)
    finally:
        hook.remove()
    scores = model.heads.class_embed(features[0]).amax(dim=-1)
    inputs = (frames, prior.queries.numpy(), prior.boxes.numpy(), prior.valid.numpy())
    return Step(len(frames), frame, inputs, decoded.output, decoded.state, decoded.local, scores)
