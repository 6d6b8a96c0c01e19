"""What a step gives back, by the contract's output kind; the runtime asks all kinds the same questions.

A further kind is one more class here and one more line in `OUTPUT_KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from l2g.runtime.arrays import Array, BoolArray, ByteArray, FloatArray, IntArray
from l2g.runtime.picture.logits import probability_logits, sigmoid

if TYPE_CHECKING:
    from typing_extensions import Self

# What a mask that is not shown reads as: nowhere.
NOWHERE = np.float32(-10)


class BestSlots(NamedTuple):
    """Slots of a frame, best first: scores float32 [M], labels int [M] (the best class), slots int [M]."""

    scores: FloatArray
    labels: Array
    slots: Array


class FrameOutputs(ABC):
    """One frame of B streams. Every kind tells of slots in rows: raw outputs of all N in their order, detections of the
    best M.

    But for `stream`, the methods are of one stream's outputs, B = 1. The fields of a kind are named as the contract's
    outputs, and all have B rows. Every kind has the queries, float32 [B, N, C]: the slots' embeddings after the
    decoder, by which slots are known again.
    """

    queries: FloatArray

    # Of a dataclass; told here for type checkers.
    __dataclass_fields__: dict[str, Any]

    def stream(self, index: int) -> Self:
        """One stream's row of a batch's outputs, with B = 1; views, not copies."""
        row = slice(index, index + 1)
        return type(self)(**{name: value[row] for name, value in vars(self).items()})

    def finite(self) -> bool:
        """Whether no stream's outputs hold NaN or infinity."""
        # A sum is finite only where every element is; one pass without a mask as large as the tensor.
        with np.errstate(invalid="ignore", over="ignore"):
            return all(np.isfinite(array.sum(dtype=np.float64)) for array in vars(self).values())

    @abstractmethod
    def permuted(self, order: IntArray) -> Self:
        """The slots renamed: new slot i is old slot `order[i]`, int64 [N]."""

    @abstractmethod
    def with_masks_of(self, slots: IntArray) -> Self:
        """The masks of `slots`, int64 [M]; those of the others are empty."""

    @abstractmethod
    def slot_probabilities(self, classes: int) -> tuple[IntArray, FloatArray]:
        """Of every row the slot, int64 [M], and its class probabilities, float32 [M, classes]."""

    @abstractmethod
    def binary_masks(self, rows: IntArray) -> BoolArray:
        """Masks of some rows: int64 [R] -> bool [R, H/4, W/4]."""

    @abstractmethod
    def best(self, top_k: int) -> BestSlots:
        """The `top_k` slots of highest score (all, where there are fewer); equal scores in the order of their slots."""

    @abstractmethod
    def mask_logits_of(self, slot: int) -> FloatArray:
        """float32 [H/4, W/4], > 0 where the slot's mask is; of a slot that the outputs tell of."""


@dataclass(frozen=True)
class RawOutputs(FrameOutputs):
    """Everything the model says of one frame of B streams (N slots, K classes, masks at a quarter of the canvas).

    queries: float32 [B, N, C], the slots' embeddings after the decoder (also the next state).
    boxes: float32 [B, N, 4], (cx, cy, w, h) in 0..1 of the canvas (also the next state).
    logits: float32 [B, N, K], before the sigmoid.
    mask_logits: float32 [B, N, H/4, W/4], before the sigmoid; a pixel belongs to the mask where it is > 0.
    """

    queries: FloatArray
    boxes: FloatArray
    logits: FloatArray
    mask_logits: FloatArray

    def probabilities(self) -> FloatArray:
        """float32 [B, N, K] in 0..1."""
        return sigmoid(self.logits)

    def permuted(self, order: IntArray) -> Self:
        if _is_identity(order):
            return self
        return type(self)(**{name: value[:, order] for name, value in vars(self).items()})

    def with_masks_of(self, slots: IntArray) -> Self:
        masks = np.full_like(self.mask_logits, NOWHERE)
        masks[0, slots] = self.mask_logits[0, slots]
        return replace(self, mask_logits=masks)

    def slot_probabilities(self, classes: int) -> tuple[IntArray, FloatArray]:
        return np.arange(self.logits.shape[1]), self.probabilities()[0]

    def binary_masks(self, rows: IntArray) -> BoolArray:
        masks: BoolArray = self.mask_logits[0, rows] > 0
        return masks

    def best(self, top_k: int) -> BestSlots:
        best = self.logits[0].max(axis=1)
        slots = np.argsort(-best, kind="stable")[:top_k]
        return BestSlots(sigmoid(best[slots]), self.logits[0].argmax(axis=1)[slots], slots)

    def mask_logits_of(self, slot: int) -> FloatArray:
        mask: FloatArray = self.mask_logits[0, slot]
        return mask


@dataclass(frozen=True)
class Detections(FrameOutputs):
    """The best M slots of one frame of B streams, best first, chosen on the device.

    scores: float32 [B, M], best class probability of the slot. labels: int32 [B, M], that class.
    slots: int32 [B, M], the slot's index. masks: uint8 [B, M, H/4, W/4], probability x 255.
    queries: float32 [B, N, C] of all N slots, as in RawOutputs.
    """

    scores: FloatArray
    labels: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    masks: ByteArray
    queries: FloatArray

    def permuted(self, order: IntArray) -> Self:
        if _is_identity(order):
            return self
        new_slot = np.empty_like(order)
        new_slot[order] = np.arange(len(order))
        return replace(self, slots=new_slot[self.slots].astype(np.int32), queries=self.queries[:, order])

    def with_masks_of(self, slots: IntArray) -> Self:
        masks = self.masks.copy()
        masks[0, ~np.isin(self.slots[0], slots)] = 0
        return replace(self, masks=masks)

    def slot_probabilities(self, classes: int) -> tuple[IntArray, FloatArray]:
        """The best class is all that is known of a slot; the others have 0."""
        probabilities = self.scores[0][:, None] * (self.labels[0][:, None] == np.arange(classes))
        return self.slots[0].astype(np.int64), probabilities

    def binary_masks(self, rows: IntArray) -> BoolArray:
        masks: BoolArray = self.masks[0, rows] > 127
        return masks

    def best(self, top_k: int) -> BestSlots:
        return BestSlots(self.scores[0, :top_k], self.labels[0, :top_k], self.slots[0, :top_k])

    def mask_logits_of(self, slot: int) -> FloatArray:
        (row,) = np.flatnonzero(self.slots[0] == slot)
        return probability_logits(self.masks[0, row])


# By the contract's output kind.
OUTPUT_KINDS: dict[str, type[FrameOutputs]] = {"raw": RawOutputs, "detections": Detections}


def _is_identity(order: IntArray) -> bool:
    return bool((order == np.arange(len(order))).all())
