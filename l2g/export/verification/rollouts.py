"""What a graph is verified on: short rollouts of the model, with everything that a comparison has to know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch

from l2g.contract import GraphContract
from l2g.modeling.family.protocol import Decisions, Predictions, VideoModel

# (streams, frames): one stream alone, then several, of which one starts again at the second frame.
ROLLOUTS = ((1, 3), (3, 2))


@dataclass(frozen=True)
class Step:
    """One frame of B streams: what went in (in the contract's order) and what the model made of it.

    state: the next one, of the model's own class. decisions: None where the model only computes. normed: see
    `l2g.modeling.family.protocol.VideoModel`.
    """

    streams: int
    frame: int
    inputs: tuple[np.ndarray, ...]
    output: Predictions
    state: Any
    decisions: Decisions | None
    normed: bool = True

    def size(self, output: str) -> float:
        """What differences of an output are counted in: 1, or where a model has no norm its root mean square."""
        holder = self.output if hasattr(self.output, output) else self.state
        if self.normed or not hasattr(holder, output):
            return 1.0
        return max(1.0, float(getattr(holder, output).square().mean().sqrt()))

    def rows(self, streams: np.ndarray) -> Step:
        """The same of some streams, bool [B]."""
        inputs = tuple(array[streams] for array in self.inputs)
        chosen = (_rows(value, torch.from_numpy(streams)) for value in (self.output, self.state, self.decisions))
        output, state, decisions = chosen
        return Step(int(streams.sum()), self.frame, inputs, output, state, decisions, self.normed)


def rollouts(model: VideoModel, contract: GraphContract, seed: int = 0) -> Iterator[Step]:
    """The steps of `ROLLOUTS` over moving random pictures; the model's own state is every next step's prior.

    The prior of a fresh stream is NaN, which must stay without effect. The stream that goes alone is the first of the
    several ones, so that the model computes what they share once.
    """
    (_, alone), (streams, together) = ROLLOUTS
    several: list[Step] = []
    state = _nothing(model, contract, streams)
    for frame, pictures in enumerate(random_video(streams, alone, contract.height, contract.width, seed)):
        if frame == together:
            state = _rows(state, torch.arange(streams) == 0)
        if frame < together:
            prior = _fresh(state, stream=1) if frame == 1 else state
            several.append(_step(model, contract, pictures, prior, frame))
            step = several[-1].rows(np.arange(streams) == 0)
            state = several[-1].state
        else:
            step = _step(model, contract, pictures[:1], state, frame)
            state = step.state
        yield step
    yield from several


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


def _nothing(model: VideoModel, contract: GraphContract, streams: int) -> Any:
    """The state of fresh streams, full of NaN."""
    priors = {pair.output: torch.full(contract.input(pair.input).sized(streams), torch.nan) for pair in contract.states}
    return model.State(**priors, valid=torch.zeros(streams, 1))


def _fresh(state: Any, stream: int) -> Any:
    tensors = {field.name: getattr(state, field.name).clone() for field in fields(state)}
    for name, tensor in tensors.items():
        tensor[stream] = 0 if name == "valid" else torch.nan
    return replace(state, **tensors)


def _rows(value: Any, streams: torch.Tensor) -> Any:
    """Of every tensor [B, ...] in a dataclass the rows of some streams, bool [B]."""
    if isinstance(value, torch.Tensor):
        return value[streams]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _rows(getattr(value, field.name), streams) for field in fields(value)})


@torch.no_grad()
def _step(model: VideoModel, contract: GraphContract, frames: np.ndarray, prior: Any, frame: int) -> Step:
    output, state, decisions = model.explained_step(torch.from_numpy(frames), prior)
    priors = [getattr(prior, pair.output).numpy() for pair in contract.states]
    return Step(len(frames), frame, (frames, *priors, prior.valid.numpy()), output, state, decisions, model.normed)
