"""What the paper leaves open about the aligner, as changes of the code while a variant is trained and scored; clips of
`crossing` in place of the training split's; and what is left of a trained model when its aligner is kept from the
present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from unittest import mock

import torch
from torch import Tensor

from l2g.data.dataset import VideoDataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.modeling.aligner import Aligner, AlignerLayer
from l2g.modeling.layers import attend
from l2g.modeling.local2global import FrameState, Local2Global
from l2g.training import optimiser, trainer
from l2g.training.config import DataConfig
from l2g.training.dataset import SYNTHETIC_FRAMES
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


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "norm before each part": _norm_first,
        "aligner starts as nothing": _starts_as_nothing,
        "places in values too": _places_in_values,
        "no gradient between frames": _detached,
        "aligner learns 5 times as fast": _faster(5),
    }
)

# The fields of the model that a change needs.
MODELS = MappingProxyType({"places in values too": {"aligner": {"local_position": "dynamic"}}})


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
