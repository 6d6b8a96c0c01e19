"""One frame of two backends: how far apart their numbers are, and whether they see the same objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2g.runtime.backend import RawOutputs
from l2g.runtime.linking import match_queries
from l2g.runtime.postprocess import sigmoid

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
    """A candidate's frame against the reference's, slot by slot.

    first: a first frame, whose slots were brought in line before they were compared. finite: neither side holds NaN or
    infinity. A slot counts where its best class reaches the confidence on either side. mask_iou: mean over the slots
    that count, at the resolution of the mask maps (two empty masks: 1), NaN where none counts; worst_iou: the least.
    agreeing: slots that count and hold the same object: same class, masks that overlap by `SAME_OBJECT_IOU`.
    score: largest difference of a counting slot's class probability.
    """

    first: bool
    finite: bool
    queries: TensorDifference
    boxes: TensorDifference
    logits: TensorDifference
    mask_logits: TensorDifference
    counting: int
    agreeing: int
    mask_iou: float
    worst_iou: float
    score: float


def compare_frame(reference: RawOutputs, candidate: RawOutputs, confidence: float, first: bool) -> FrameDifference:
    """Compare one stream's outputs (B = 1) whose slots are in line."""
    counts = counting_slots(reference, confidence) | counting_slots(candidate, confidence)
    ious = _mask_ious(reference.mask_logits[0, counts], candidate.mask_logits[0, counts])
    same_label = reference.logits[0, counts].argmax(1) == candidate.logits[0, counts].argmax(1)
    scores = np.abs(sigmoid(reference.logits[0, counts]) - sigmoid(candidate.logits[0, counts]))
    return FrameDifference(
        first=first,
        finite=is_finite(reference) and is_finite(candidate),
        queries=_difference(reference.queries[0], candidate.queries[0]),
        boxes=_difference(reference.boxes[0], candidate.boxes[0]),
        logits=_difference(reference.logits[0], candidate.logits[0]),
        mask_logits=_difference(reference.mask_logits[0], candidate.mask_logits[0]),
        counting=int(counts.sum()),
        agreeing=int((same_label & (ious >= SAME_OBJECT_IOU)).sum()),
        mask_iou=float(ious.mean()) if ious.size else float("nan"),
        worst_iou=float(ious.min()) if ious.size else float("nan"),
        score=float(scores.max()) if scores.size else 0.0,
    )


def counting_slots(outputs: RawOutputs, confidence: float) -> np.ndarray:
    """bool [N]: slots whose best class probability reaches `confidence` (B = 1)."""
    return sigmoid(outputs.logits[0]).max(axis=1) >= confidence


def slot_order(reference: RawOutputs, candidate: RawOutputs) -> np.ndarray:
    """order int64 [N]: slot `order[i]` of the candidate's first frame is slot i of the reference's (B = 1).

    A first frame's slots are the best tokens in order of score: near-ties swap slots between two implementations that
    agree in everything else. The embeddings say which is which.
    """
    if not (np.isfinite(reference.queries).all() and np.isfinite(candidate.queries).all()):
        return np.arange(reference.queries.shape[1])
    return match_queries(reference.queries[0], candidate.queries[0])


def is_finite(outputs: RawOutputs) -> bool:
    # A sum is finite only where every element is; one pass without a mask as large as the tensor.
    with np.errstate(invalid="ignore", over="ignore"):
        return all(np.isfinite(array.sum(dtype=np.float64)) for array in vars(outputs).values())


def _difference(one: np.ndarray, other: np.ndarray) -> TensorDifference:
    """float [N, ...] each."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - other).reshape(len(one), -1)
    if not np.isfinite(gap.sum(dtype=np.float64)):
        return TensorDifference(float("inf"), float("inf"), float("inf"))
    per_slot = gap.max(axis=1)
    return TensorDifference(float(per_slot.max()), float(gap.mean(dtype=np.float64)), float(np.median(per_slot)))


def _mask_ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [M] of mask logits [M, h, w]; 1 where both are empty."""
    one, other = one > 0, other > 0
    union = (one | other).sum(axis=(1, 2))
    return np.where(union > 0, (one & other).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)
