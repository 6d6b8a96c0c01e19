"""What every model family offers to the rest of the package: to its exporter, its backends, its commands.

Local2Global and VidEoMT fulfil it. What differs between them is asked of the model or stands in its contract; nothing
outside a family's own room knows which of them it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from l2g.contract import GraphContract

if TYPE_CHECKING:
    import numpy as np

    from l2g.modeling.proposals import LocalQueries


class Predictions(Protocol):
    """What a step says of N slots: logits [B, N, K], mask_logits [B, N, h, w]; a family may say more. Where its
    scoring is "softmax" the logits have a last class more, "no object"."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def mask_logits(self) -> Tensor: ...


@dataclass(frozen=True)
class Decisions:
    """Where a step decided rather than computed: which tokens became local queries, by `token_scores` float32 [B, S].

    box_init: how the boxes of their masks are drawn; state_box: where the next state's boxes come from.
    """

    local: LocalQueries
    token_scores: Tensor
    box_init: str
    state_box: str

    @property
    def slots(self) -> int:
        """N, the model's queries."""
        return self.local.indices.shape[1]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the chosen tokens int64 [B, N], and the boxes of their masks float32 [B, N, 4]."""
        return self.local.indices.numpy(), self.local.boxes.numpy()


class FamilyConfig(Protocol):
    """What is asked of any family's configuration. input_size: (height, width) of the canvas unless told otherwise."""

    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def num_queries(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def association(self) -> str: ...

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the contract."""


class VideoModel(nn.Module, ABC):
    """A model of video instance segmentation, a pure function of a frame and the state.

    family: its name, by which `l2g.checkpoint` finds what loads and saves it. normed: whether the queries come out of a
    norm, so that numbers have one size in every checkpoint; where not, what a graph may differ by is relative to the
    size of each output. State: a frozen dataclass with a tensor [B, ...] for each state pair of the contract, named as
    the pair's output, and `valid` float32 [B, 1]; rows where `valid` is 0 are never read, whatever they hold.
    """

    family: ClassVar[str]
    normed: ClassVar[bool]
    State: ClassVar[type[Any]]
    config: FamilyConfig

    @abstractmethod
    def step(self, frames: Tensor, state: Any | None = None) -> tuple[Predictions, Any]:
        """Segment one frame of B streams, uint8 [B, H, W, 3] RGB on the canvas, and return the state for their next.
        No `state`: every stream is fresh."""

    @abstractmethod
    def explained_step(self, frames: Tensor, state: Any) -> tuple[Predictions, Any, Decisions | None]:
        """The same, and what it decided on the way; None in a family that only computes."""

    @abstractmethod
    def contract(self, canvas: tuple[int, int] | None = None, top_k: int | None = None) -> GraphContract:
        """What crosses the boundary of its graph. canvas: (height, width), `input_size` unless given; top_k: slots
        chosen in the graph, at most all, None for raw outputs. Raises ConfigError for a canvas that it cannot take."""

    def forward(self, frames: Tensor, state: Any | None = None) -> tuple[Predictions, Any]:
        """The same as `step`."""
        return self.step(frames, state)
