"""Identities that follow their objects from slot to slot, in a model that carries its slots itself.

`Handover` steps in only where one slot takes an object away from another, or shows another one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from l2g.contract import GraphContract
from l2g.runtime.arrays import Array, BoolArray, DoubleArray, FloatArray, IntArray
from l2g.runtime.identity.assignment import best_assignment
from l2g.runtime.identity.slots import unit_vectors
from l2g.runtime.outputs import FrameOutputs

Outputs = TypeVar("Outputs", bound=FrameOutputs)

# What a slot shows with less confidence in a frame is nobody's object.
MIN_SCORE = 0.05
# A mask is the shadow of another slot's when more than this share of it lies in that one's, and that slot is so many
# times as sure of what it shows.
SHADOW_SHARE, SHADOW_RATIO = 0.5, 1.5
# A slot that shows what is more like an identity's object than this may be the object wherever it is, and is then worth
# to the identity what one of its class that overlaps its last mask by the second would be.
MIN_LIKENESS, RETURN = 0.5, 0.2
# To its own slot an identity is held by what the slot is worth, times the first, plus the second: slots that show the
# same do not trade.
HOLD = 1.1, 0.005
# What an identity keeps of its age, class and look from frame to frame: half is forgotten after 69 frames.
MEMORY = 0.99


class Handover:
    """Lets one stream's identities follow their objects from slot to slot.

    In crowded scenes two slots can come to lie on one object, and over some frames one takes it from the other, which
    goes elsewhere; and an object that was out of sight often comes back in another slot. So every frame the identities
    (the outputs' slot index as it comes out of `link`) are assigned to the slots anew, where all together they find
    most of their objects. A slot is worth to an identity the likeness of what they show, times the IoU of the slot's
    mask with the identity's of the last frame and the probability of the identity's class, or times `RETURN` if that is
    more and the likeness above `MIN_LIKENESS`; that times the root of the identity's age; and a little more if the slot
    is the identity's own (`HOLD`). The likeness is the cosine between the slot's query and the mean of the identity's,
    both without what the stream's queries have in common. An identity's age is the sum of its scores, its class that of
    the largest sum of probabilities; all fade, so that over a long stream a slot can serve many objects.

    A slot whose object is out of sight shows, with little confidence, what some other slot shows: a shadow, which
    counts for nothing here. The masks of shadows come out of `link` empty, and so do those below `MIN_SCORE`; scores
    stay.
    The state that the model carries is not touched.

    contract: of the model; with any association but "propagate" `link` changes nothing.
    """

    def __init__(self, contract: GraphContract):
        self._active = contract.association == "propagate"
        self._classes = len(contract.class_names)
        self._history: _History | None = None

    def reset(self) -> None:
        """Forget the stream's history: every slot is its own identity again."""
        self._history = None

    def memory(self) -> dict[str, Array]:
        """All that is known of the stream, as arrays by name, for `recall`; nothing before its first frame."""
        if self._history is None:
            return {}
        history = vars(self._history) | {"frames": np.array(self._history.frames)}
        masks = history.pop("masks")
        history["shown"] = np.array(list(masks), np.int64)
        history["masks"] = np.stack(list(masks.values())) if masks else np.zeros((0, 0), bool)
        return history

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Know what `memory` told."""
        if not memory:
            self.reset()
            return
        masks = dict(zip(memory["shown"].tolist(), memory["masks"], strict=True))
        slot_of, age, votes, looks, common = (memory[name] for name in ("slot_of", "age", "votes", "looks", "common"))
        self._history = _History(slot_of, age, votes, looks, common, float(memory["frames"]), masks)

    def link(self, outputs: Outputs) -> Outputs:
        """The outputs of one frame (B = 1) with identities in place of slots; in a first frame they are the slots."""
        if not self._active:
            return outputs
        slots, probabilities, masks = _shown(outputs, self._classes)
        outputs = outputs.with_masks_of(slots)
        if self._history is None:
            self._history = _History.of_nothing(outputs.queries.shape[1], outputs.queries.shape[2], self._classes)
        history = self._history
        looks = history.look(outputs.queries[0])[slots]
        history.hand_over(slots, probabilities, masks, looks)
        history.remember(slots, probabilities, masks, looks)
        return outputs.permuted(history.slot_of)


@dataclass
class _History:
    """What is known of a stream's N identities.

    slot_of: int64 [N]. age: float64 [N]. votes: float64 [N, K], sums of probabilities, each times the frame's score.
    looks: float64 [N, C], sums of what the slots showed, each times the frame's score. common: float64 [C], sum of the
    frames' mean queries, of so many `frames`. masks: of the last frame, bool [h * w], by identity.
    """

    slot_of: IntArray
    age: DoubleArray
    votes: DoubleArray
    looks: DoubleArray
    common: DoubleArray
    frames: float = 0.0
    masks: dict[int, BoolArray] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls, count: int, channels: int, classes: int) -> _History:
        zeros = np.zeros(count), np.zeros((count, classes)), np.zeros((count, channels)), np.zeros(channels)
        return cls(np.arange(count), *zeros)

    def look(self, queries: FloatArray) -> DoubleArray:
        """What tells slots apart: float32 [N, C] -> unit vectors float64 [N, C] from the mean query of the stream."""
        finite = np.isfinite(queries).all(1, keepdims=True)
        clean = np.where(finite, queries, 0).astype(np.float64)
        self.common = MEMORY * self.common + clean.mean(0)
        self.frames = MEMORY * self.frames + 1
        return unit_vectors(clean - self.common / self.frames)

    def hand_over(self, slots: IntArray, probabilities: FloatArray, masks: BoolArray, looks: DoubleArray) -> None:
        """slots int64 [M], their class probabilities float32 [M, K], masks bool [M, h * w] and looks float64 [M, C]."""
        count = len(self.slot_of)
        overlaps = np.zeros((count, len(slots)))
        if self.masks and len(slots):
            overlaps[list(self.masks)] = _mask_iou(np.stack(list(self.masks.values())), masks)
        believed = probabilities[:, self.votes.argmax(1)].T
        likeness = np.maximum(unit_vectors(self.looks) @ looks.T, 0)
        worth = np.zeros((count, count))
        worth[:, slots] = likeness * np.maximum(overlaps * believed, RETURN * (likeness > MIN_LIKENESS))
        own = np.arange(count), self.slot_of
        worth[own] = HOLD[0] * worth[own] + HOLD[1]
        # One of no age is held, too, by a hair.
        worth *= np.sqrt(self.age + 1e-6)[:, None]
        self.slot_of = best_assignment(worth)

    def remember(self, slots: IntArray, probabilities: FloatArray, masks: BoolArray, looks: DoubleArray) -> None:
        """What the identities show now, in the slots that they have now; the past fades."""
        identities, scores = np.argsort(self.slot_of)[slots], probabilities.max(1)
        self.age *= MEMORY
        self.votes *= MEMORY
        self.looks *= MEMORY
        self.age[identities] += scores
        self.votes[identities] += scores[:, None] * probabilities
        self.looks[identities] += scores[:, None] * looks
        self.masks = dict(zip(identities.tolist(), masks, strict=True))


def _shown(outputs: FrameOutputs, classes: int) -> tuple[IntArray, FloatArray, BoolArray]:
    """The slots of a frame (B = 1) with at least `MIN_SCORE` that are no shadows: (slots [M], class probabilities
    [M, K], masks bool [M, h * w])."""
    slots, probabilities = outputs.slot_probabilities(classes)
    scores = probabilities.max(1)
    kept = np.flatnonzero(scores >= MIN_SCORE)
    masks = outputs.binary_masks(kept)
    covers = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    solid = ~_shadows(scores[kept], covers)
    return slots[kept][solid], probabilities[kept][solid], covers[solid]


def _shadows(scores: FloatArray, masks: BoolArray) -> BoolArray:
    """float32 [M] and bool [M, S] -> bool [M]: whose mask is the shadow of another one's."""
    areas = masks.astype(np.float32)
    inside = areas @ areas.T > SHADOW_SHARE * areas.sum(1)[:, None]
    shadows: BoolArray = (inside & (scores > SHADOW_RATIO * scores[:, None])).any(1)
    return shadows


def _mask_iou(one: BoolArray, other: BoolArray) -> FloatArray:
    """bool [P, S], bool [M, S] -> float32 [P, M]; 0 where both are empty."""
    ones, others = one.astype(np.float32), other.astype(np.float32)
    common = ones @ others.T
    iou: FloatArray = common / np.maximum(ones.sum(1)[:, None] + others.sum(1)[None] - common, 1)
    return iou
