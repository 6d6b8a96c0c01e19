"""What the paper leaves open about the aligner, as changes of the code while a variant is trained and scored; clips of
`crossing` in place of the training split's; and what is left of a trained model when its aligner is kept from the
present."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from ablation_insight import OWN, ious
from torch import Tensor

from l2g.data.dataset import VideoDataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.modeling.aligner import Aligner, AlignerLayer
from l2g.modeling.layers import attend
from l2g.modeling.local2global import FrameState, Local2Global
from l2g.training import optimiser, trainer
from l2g.training.config import DataConfig
from l2g.training.dataset import SYNTHETIC_FRAMES
from l2g.training.loss.objectives import ClipObjective
from l2g.training.loss.targets import FrameTargets
from l2g.training.start import quiet_aligner

Change = Callable[[], AbstractContextManager]


def _norm_first() -> AbstractContextManager:
    def forward(self, queries, position, keys, values):
        normed = self.norm1(queries)
        queries = queries + attend(self.self_attn, normed + position, normed + position, normed)
        queries = queries + attend(self.cross_attn, self.norm2(queries) + position, keys, values)
        return queries + self.linear2(torch.relu(self.linear1(self.norm3(queries))))

    return mock.patch.object(AlignerLayer, "forward", forward)


def _starts_as_nothing() -> AbstractContextManager:
    """Every layer hands its queries on at first, normalised as they are: what it adds begins at zero, whatever the
    image segmenter's aligner has learned."""
    begin = trainer.build_start

    def build(*given):
        start = begin(*given)
        quiet_aligner(start.model)
        return start

    return mock.patch.object(trainer, "build_start", build)


def _places_in_values() -> AbstractContextManager:
    """Values are what keys are: local queries with the embedding of their boxes."""

    def forward(self, queries, position, local, local_position=None):
        placed = local + local_position
        for layer in self.layers:
            queries = layer(queries, position, placed, placed)
        return queries

    return mock.patch.object(Aligner, "forward", forward)


def _detached() -> AbstractContextManager:
    """No gradient goes from a frame to the one before."""
    whole = Local2Global.next_state

    def next_state(self, queries, output) -> FrameState:
        return whole(self, queries, output).detach()

    return mock.patch.object(Local2Global, "next_state", next_state)


def _faster(factor: float) -> Change:
    def build(objective, config, phase):
        built = optimiser.build_optimiser(objective, config, phase)
        mine = {id(parameter) for parameter in objective.model.aligner.parameters()}
        for group in list(built.param_groups):
            new = [parameter for parameter in group["params"] if id(parameter) in mine]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in mine]
            if new:
                rate = group["peak"] * factor
                rest = {key: value for key, value in group.items() if key not in ("params", "lr", "peak")}
                built.add_param_group({**rest, "params": new, "lr": rate, "peak": rate})
        return built

    return lambda: mock.patch.object(trainer, "build_optimiser", build)


@contextmanager
def _told_where_to_look() -> Iterator[None]:
    """On clips there is one more term: every layer of the aligner is to look at the local query whose box overlaps its
    slot's object most. Nothing else differs, and where it looks when it is scored is its own."""
    looks: list[Tensor] = []  # [B, N, N] of every layer in every frame of a window
    seen: dict[str, Any] = {}
    whole, roll, choose = ClipObjective.forward, ClipObjective._roll, ClipObjective._slots

    def forward(self, queries, position, keys, values):
        q = queries + position
        queries = self.norm1(queries + attend(self.self_attn, q, q, queries))
        found, weights = self.cross_attn(queries + position, keys, values)
        looks.append(weights)
        queries = self.norm2(queries + found)
        return self.feed_forward(queries, self.norm3)

    def objective(self, batch):
        looks.clear()
        with mock.patch.object(AlignerLayer, "forward", forward):
            terms = whole(self, batch)
        layers = torch.stack(looks).unflatten(0, (batch.frames.shape[1], -1)).transpose(0, 1).flatten(1, 2)
        terms["look"] = looking(layers, seen["boxes"], seen["targets"], seen["slots"])
        looks.clear()
        return terms

    def rolled(self, memory, local, state, streams):
        seen["boxes"] = local.boxes.detach()
        return roll(self, memory, local, state, streams)

    def chosen(self, outputs, targets, slots):
        seen.update(targets=targets, slots=choose(self, outputs, targets, slots))
        return seen["slots"]

    with ExitStack() as stack:
        for name, change in (("forward", objective), ("_roll", rolled), ("_slots", chosen)):
            stack.enter_context(mock.patch.object(ClipObjective, name, change))
        yield


def looking(looks: Tensor, boxes: Tensor, targets: FrameTargets, slots: Tensor) -> Tensor:
    """Mean of -log of what the local query of its object gets from a slot: its entropy is log N where all get alike.

    looks: [L, F, N, M], rows sum to 1. boxes: [F, M, 4], of the local queries. slots: int64 [F, I], -1 for none.
    """
    overlap, own = ious(targets.boxes, boxes).max(-1)
    frame, instance = (targets.present & (slots >= 0) & (overlap >= OWN)).nonzero(as_tuple=True)
    shares = looks[:, frame, slots[frame, instance], own[frame, instance]]
    return -shares.clamp(min=1e-6).log().sum() / max(1, shares.numel())


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "norm before each part": _norm_first,
        "aligner starts as nothing": _starts_as_nothing,
        "places in values too": _places_in_values,
        "no gradient between frames": _detached,
        "aligner learns 5 times as fast": _faster(5),
        "told where to look": _told_where_to_look,
    }
)

# The fields of the model that a change needs.
_PLACED = {"aligner": {"local_position": "dynamic"}}
MODELS = MappingProxyType({"places in values too": _PLACED, "told where to look": _PLACED})


def clips_of_crossing() -> AbstractContextManager:
    """Everything is learned from 100,000 videos of the split `crossing`, none of which is scored."""

    def open_dataset(data: DataConfig) -> VideoDataset:
        size = data.augment.canvas
        return synthetic_dataset("crossing", seed=1000, videos=100_000, frames=SYNTHETIC_FRAMES, size=size)

    return mock.patch.object(trainer, "open_dataset", open_dataset)


def _silent() -> AbstractContextManager:
    def forward(self, queries: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = queries + position
        queries = self.norm2(self.norm1(queries + attend(self.self_attn, q, q, queries)))
        return self.feed_forward(queries, self.norm3)

    return mock.patch.object(AlignerLayer, "forward", forward)


def _of_another_video() -> AbstractContextManager:
    whole = AlignerLayer.forward

    def forward(self, queries: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return whole(self, queries, position, keys.roll(1, 0), values.roll(1, 0))

    return mock.patch.object(AlignerLayer, "forward", forward)


# What the aligner of a trained model sees of the present. "another video's": of the stream beside it.
SIGHTS: Mapping[str, Change] = MappingProxyType(
    {"its local queries": nullcontext, "nothing": _silent, "another video's": _of_another_video}
)
