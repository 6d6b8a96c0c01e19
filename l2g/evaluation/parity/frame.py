"""One frame of two backends: how far apart their numbers are, and whether they see the same objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from l2g.metrics.panoptic import count_pairs
from l2g.runtime.arrays import Array, BoolArray, DoubleArray, IntArray
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.panoptic.segmentation import Segmentation

# Two masks are the same object from this IoU on, as in the matching of every tracking metric.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class TensorDifference:
    """Absolute differences of one tensor of a frame: over all elements the largest and the mean, and the largest of the
    median slot, which one odd slot among many does not move. Infinite where either side is not finite."""

    max: float
    mean: float
    typical: float


@dataclass(frozen=True)
class FrameDifference:
    """A candidate's frame against the reference's, slot by slot; `boxes` is None for models that have none.

    first: a first frame, whose slots were brought in line before they were compared. finite: neither side holds NaN or
    infinity. A slot counts where its best class reaches the confidence on either side. mask_iou: mean over the slots
    that count, at the resolution of the mask maps (two empty masks: 1), NaN where none counts; worst_iou: the least.
    agreeing: slots that count and hold the same object: same class, masks that overlap by `SAME_OBJECT_IOU`.
    score: largest difference of a counting slot's class probability.
    """

    first: bool
    finite: bool
    queries: TensorDifference
    boxes: TensorDifference | None
    logits: TensorDifference
    mask_logits: TensorDifference
    counting: int
    agreeing: int
    mask_iou: float
    worst_iou: float
    score: float


def compare_frame(reference: RawOutputs, candidate: RawOutputs, confidence: float, first: bool) -> FrameDifference:
    """Compare one stream's outputs (B = 1) whose slots are in line."""
    counts, ious, alike = _counting(reference, candidate, confidence)
    scores = np.abs(reference.probabilities()[0, counts] - candidate.probabilities()[0, counts])
    return FrameDifference(
        first=first,
        finite=reference.finite() and candidate.finite(),
        queries=_difference(reference.queries[0], candidate.queries[0]),
        boxes=None
        if reference.boxes is None or candidate.boxes is None
        else _difference(reference.boxes[0], candidate.boxes[0]),
        logits=_difference(reference.logits[0], candidate.logits[0]),
        mask_logits=_difference(reference.mask_logits[0], candidate.mask_logits[0]),
        counting=int(counts.sum()),
        agreeing=int(alike.sum()),
        mask_iou=float(ious.mean()) if ious.size else float("nan"),
        worst_iou=float(ious.min()) if ious.size else float("nan"),
        score=float(scores.max()) if scores.size else 0.0,
    )


class SegmentAgreement(NamedTuple):
    """One frame's maps: segments of both sides, and those of them that have their like on the other side."""

    counting: int
    agreeing: int


def compare_segments(one: Segmentation, other: Segmentation) -> SegmentAgreement:
    """Segments are the same where their classes are and they overlap by more than one half, as in panoptic quality;
    whether a thing goes on being the same one is a matter of identities."""
    sides = [{segment.id: segment for segment in found.segments} for found in (one, other)]
    same = 0
    for (first, second), pixels in count_pairs(one.ids, other.ids, "parity").items():
        mine, theirs = sides[0].get(first), sides[1].get(second)
        if mine and theirs and mine.label == theirs.label:
            same += pixels > SAME_OBJECT_IOU * (mine.area + theirs.area - pixels)
    return SegmentAgreement(len(one.segments) + len(other.segments), 2 * same)


def counting_slots(outputs: RawOutputs, confidence: float) -> BoolArray:
    """bool [N]: slots whose best class probability reaches `confidence` (B = 1)."""
    return outputs.probabilities()[0].max(axis=1) >= confidence


class NewcomerNames:
    """Names a candidate's slots, frame after frame of one stream, like the reference's with the same newcomers.

    A newcomer takes whichever slot of nobody fits it best. Which one that is hangs on what is left in such slots, where
    differences too small to matter for any object add up; and no object is another one for it. So in the frame in which
    both sides are confident of it, in slots of nobody, the candidate's slot trades its name with the reference's. From
    then on the name stays, through thick and thin, as a first frame's do, until neither side has been confident of the
    slot for as many frames as end a track in `l2g.runtime.identity.tracks`.
    """

    def __init__(self, confidence: float):
        self.confidence = confidence
        # By slot, from the first frame on.
        self._order = np.arange(0)
        self._somebodys = np.zeros(0, bool)
        self._unseen = np.zeros(0, int)  # frames in a row in which a slot has not counted on either side

    def rename(self, reference: RawOutputs, candidate: RawOutputs) -> RawOutputs:
        """The candidate's next frame (B = 1) with its slots in the order of their names."""
        if not len(self._order):
            slots = reference.queries.shape[1]
            self._order, self._somebodys, self._unseen = np.arange(slots), np.zeros(slots, bool), np.zeros(slots, int)
        candidate = candidate.permuted(self._order)
        order = self._newcomers(reference, candidate)
        candidate, self._order = candidate.permuted(order), self._order[order]
        counts, _, alike = _counting(reference, candidate, self.confidence)
        # While only one side is confident, another slot of the other side may still come to be the newcomer's.
        both = counting_slots(reference, self.confidence) & counting_slots(candidate, self.confidence)
        self._somebodys[np.flatnonzero(counts)[alike]] |= both[counts][alike]
        self._unseen = np.where(counts, 0, self._unseen + 1)
        self._somebodys &= self._unseen <= TrackParameters.max_age
        return candidate

    def _newcomers(self, reference: RawOutputs, candidate: RawOutputs) -> IntArray:
        """order int64 [N] that puts newcomers that are alike in slots of one name."""
        order = np.arange(len(self._order))
        rows = np.flatnonzero(counting_slots(reference, self.confidence) & ~self._somebodys)
        columns = np.flatnonzero(counting_slots(candidate, self.confidence) & ~self._somebodys)
        pairs = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        ious, alike = _alike(reference, candidate, pairs[:, 0], pairs[:, 1])
        worth = (alike * ious).reshape(len(rows), len(columns))
        for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if worth[row, column] > 0:
                there = np.flatnonzero(order == columns[column])[0]
                order[[rows[row], there]] = order[[there, rows[row]]]
        return order


def _difference(one: Array, other: Array) -> TensorDifference:
    """float [N, ...] each."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - other).reshape(len(one), -1)
    if not np.isfinite(gap.sum(dtype=np.float64)):
        return TensorDifference(float("inf"), float("inf"), float("inf"))
    per_slot = gap.max(axis=1)
    return TensorDifference(float(per_slot.max()), float(gap.mean(dtype=np.float64)), float(np.median(per_slot)))


def _counting(
    reference: RawOutputs, candidate: RawOutputs, confidence: float
) -> tuple[BoolArray, DoubleArray, BoolArray]:
    """bool [N]: the slots that count on either side; of those mask IoU float64 [M], and bool [M]: same object."""
    counts = counting_slots(reference, confidence) | counting_slots(candidate, confidence)
    slots = np.flatnonzero(counts)
    return counts, *_alike(reference, candidate, slots, slots)


def _alike(
    reference: RawOutputs, candidate: RawOutputs, slots: IntArray, others: IntArray
) -> tuple[DoubleArray, BoolArray]:
    """float64 [M] mask IoU, and bool [M] whether the reference's `slots` [M] hold the objects of the candidate's
    `others` [M]; two empty masks have an IoU of 1."""
    one, other = reference.mask_logits[0, slots] > 0, candidate.mask_logits[0, others] > 0
    union = (one | other).sum(axis=(1, 2))
    ious = np.where(union > 0, (one & other).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)
    same_label = reference.class_logits()[0, slots].argmax(1) == candidate.class_logits()[0, others].argmax(1)
    return ious, same_label & (ious >= SAME_OBJECT_IOU)
