"""What a step gives back, by the contract's output kind; the runtime asks all kinds the same questions.

A further kind is one more class here and one more line in `OUTPUT_KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from l2g.contract import GraphContract
from l2g.runtime.arrays import Array, BoolArray, ByteArray, FloatArray, IntArray
from l2g.runtime.picture.logits import probability_logits, sharpened, sigmoid

if TYPE_CHECKING:
    from typing_extensions import Self

# Outputs that some models do not have.
OPTIONAL = ("boxes", "weights")
# What a mask that is not shown reads as: nowhere.
NOWHERE = np.float32(-10)


class BestSlots(NamedTuple):
    """Slots of a frame, best first: scores float32 [M], labels int [M] (the best class), slots int [M]."""

    scores: FloatArray
    labels: Array
    slots: Array


class Contenders(NamedTuple):
    """Slots that ask for pixels, in order of row: slots int64 [M], labels int64 [M] (the best class), scores float [M]
    (its probability), weights float [M] (what a pixel's mask probability is multiplied with)."""

    slots: IntArray
    labels: IntArray
    scores: Array
    weights: Array


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
        return self._replaced(**{name: value[row] for name, value in self.arrays().items()})

    def arrays(self) -> dict[str, Array]:
        """Its arrays by name; without boxes, where the model has none."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def _replaced(self, **arrays: Array) -> Self:
        return type(self)(**{**vars(self), **arrays})

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """From the contract's outputs by name; what the model does not give is None."""
        return cls(**{name: arrays.get(name) for name in cls.__dataclass_fields__})

    @classmethod
    def required(cls) -> list[str]:
        """The outputs that every model of this kind gives."""
        return [name for name in cls.__dataclass_fields__ if name not in OPTIONAL]

    def finite(self) -> bool:
        """Whether no stream's outputs hold NaN or infinity."""
        # A sum is finite only where every element is; one pass without a mask as large as the tensor.
        with np.errstate(invalid="ignore", over="ignore"):
            return all(np.isfinite(array.sum(dtype=np.float64)) for array in self.arrays().values())

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
        """Masks of some rows: int64 [R] -> bool [R, h, w]."""

    @abstractmethod
    def best(self, top_k: int) -> BestSlots:
        """The `top_k` slots of highest score (all, where there are fewer); equal scores in the order of their slots."""

    @abstractmethod
    def contenders(self, temperature: float) -> Contenders:
        """The slots that may become segments of a panoptic map: all that the outputs tell of, but for those which are
        rather nothing than any class. temperature: of the weights, see `sharpened`."""

    @abstractmethod
    def mask_logits_of(self, slot: int) -> FloatArray:
        """float32 [h, w], > 0 where the slot's mask is; of a slot that the outputs tell of."""


@dataclass(frozen=True)
class RawOutputs(FrameOutputs):
    """Everything the model says of one frame of B streams (N slots, K classes, masks at a quarter of the canvas).

    queries: float32 [B, N, C], the slots' embeddings after the decoder (also the next state).
    boxes: float32 [B, N, 4], (cx, cy, w, h) in 0..1 of the canvas (also the next state); None where the model has none.
    logits: float32 [B, N, K], before the sigmoid.
    mask_logits: float32 [B, N, h, w], before the sigmoid; a pixel belongs to the mask where it is > 0.
    """

    queries: FloatArray
    boxes: FloatArray | None
    logits: FloatArray
    mask_logits: FloatArray

    def class_logits(self) -> FloatArray:
        """float32 [B, N, K], of which the class probabilities are the sigmoid."""
        return self.logits

    def probabilities(self) -> FloatArray:
        """float32 [B, N, K] in 0..1."""
        return sigmoid(self.class_logits())

    def permuted(self, order: IntArray) -> Self:
        if _is_identity(order):
            return self
        return self._replaced(**{name: value[:, order] for name, value in self.arrays().items()})

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
        logits = self.class_logits()[0]
        best = logits.max(axis=1)
        slots = np.argsort(-best, kind="stable")[:top_k]
        return BestSlots(sigmoid(best[slots]), logits.argmax(axis=1)[slots], slots)

    def contenders(self, temperature: float) -> Contenders:
        probabilities = self.probabilities()[0]
        labels = self.class_logits()[0].argmax(axis=1)
        best = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
        return Contenders(np.arange(len(best)), labels, best, sharpened(probabilities, temperature).max(axis=1))

    def mask_logits_of(self, slot: int) -> FloatArray:
        mask: FloatArray = self.mask_logits[0, slot]
        return mask


@dataclass(frozen=True)
class SoftmaxOutputs(RawOutputs):
    """Raw outputs whose logits, float32 [B, N, K + 1], are those of a softmax; its last class is "no object"."""

    def class_logits(self) -> FloatArray:
        """float32 [B, N, K], the log-odds of the softmax's probabilities, exact where these are close to 1."""
        top = self.logits.argmax(axis=-1)[..., None]
        exponentials = np.exp(self.logits - np.take_along_axis(self.logits, top, axis=-1))
        others = exponentials.sum(axis=-1, keepdims=True) - exponentials
        # Of the largest itself the difference would leave rounding: its sum is taken without it.
        rest = exponentials.copy()
        np.put_along_axis(rest, top, 0, axis=-1)
        np.put_along_axis(others, top, rest.sum(axis=-1, keepdims=True), axis=-1)
        with np.errstate(divide="ignore"):
            odds: FloatArray = np.log(exponentials) - np.log(others)
        return odds[..., :-1]

    def contenders(self, temperature: float) -> Contenders:
        """The weights are the scores: a softmax is sharp enough."""
        objects = np.flatnonzero(self.logits[0].argmax(axis=1) < self.logits.shape[2] - 1)
        probabilities, labels = self.probabilities()[0, objects], self.logits[0, objects, :-1].argmax(axis=1)
        best = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
        return Contenders(objects, labels, best, best)


@dataclass(frozen=True)
class Detections(FrameOutputs):
    """The best M slots of one frame of B streams, best first, chosen on the device.

    scores: float32 [B, M], best class probability of the slot. labels: int32 [B, M], that class.
    slots: int32 [B, M], the slot's index. masks: uint8 [B, M, h, w], probability x 255.
    queries: float32 [B, N, C] of all N slots, as in RawOutputs. weights: float32 [B, M], of models that know stuff:
    what each slot's mask probability is multiplied with where slots compete for pixels; None of others.
    """

    scores: FloatArray
    labels: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    masks: ByteArray
    queries: FloatArray
    weights: FloatArray | None = None

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

    def contenders(self, temperature: float) -> Contenders:
        """The weights are those that the graph gives, whose temperature was fixed when it was exported; the scores
        where it gives none or the temperature is 0."""
        weights = self.scores if self.weights is None or not temperature else self.weights
        slots, labels = self.slots[0].astype(np.int64), self.labels[0].astype(np.int64)
        return Contenders(slots, labels, self.scores[0], weights[0])

    def mask_logits_of(self, slot: int) -> FloatArray:
        (row,) = np.flatnonzero(self.slots[0] == slot)
        return probability_logits(self.masks[0, row])


# By the contract's output kind, and of that by its scoring.
OUTPUT_KINDS: dict[str, dict[str, type[FrameOutputs]]] = {
    "raw": {"sigmoid": RawOutputs, "softmax": SoftmaxOutputs},
    "detections": {"sigmoid": Detections, "softmax": Detections},
}


def outputs_class(contract: GraphContract) -> type[FrameOutputs]:
    """What a step of the contract's model gives back."""
    return OUTPUT_KINDS[contract.output_kind][contract.scoring]


def _is_identity(order: IntArray) -> bool:
    return bool((order == np.arange(len(order))).all())
