"""YouTube-VIS matching of predictions to annotated tubes, and precision and recall from it.

Follows the official evaluator in every rule, its oddities included: an unmatched prediction is judged by its own area,
of equal IoUs the last annotation wins, and an annotation with id 0 never makes a true positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class Range:
    """Which tubes count: annotations outside either interval are ignored, predictions only by area. Ends inclusive."""

    name: str
    area: tuple[float, float] = (0.0, 1e10)
    occlusion: tuple[float, float] | None = None


AREA_RANGES = (
    Range("all"),
    Range("small", (0.0, 128.0**2)),
    Range("medium", (128.0**2, 256.0**2)),
    Range("large", (256.0**2, 1e10)),
)
OCCLUSION_RANGES = (
    Range("occ_light", occlusion=(0.0, 0.25)),
    Range("occ_medium", occlusion=(0.25, 0.5)),
    Range("occ_heavy", occlusion=(0.5, 1.0)),
)


@dataclass(frozen=True, eq=False)
class Truths:
    """G annotations of one category in one video: float64 and bool arrays [G]; `counts` is False for id 0."""

    areas: np.ndarray
    occlusions: np.ndarray
    crowd: np.ndarray
    counts: np.ndarray

    def ignored(self, range_: Range) -> np.ndarray:
        low, high = range_.area
        ignored = self.crowd | (self.areas < low) | (self.areas > high)
        if range_.occlusion:
            low, high = range_.occlusion
            ignored |= (self.occlusions < low) | (self.occlusions > high)
        return ignored


@dataclass(frozen=True, eq=False)
class Matching:
    """One category in one video. D detections in descending score, A ranges, T thresholds.

    Attributes:
        scores: float64 [D]. matched, ignored: bool [A, T, D]. positives: int64 [A], annotations that count.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


def match_in_ranges(
    ious: np.ndarray, scores: np.ndarray, areas: np.ndarray, truths: Truths, ranges: Sequence[Range]
) -> Matching:
    """Match D detections (`ious` [D, G], `scores` [D] descending, average `areas` [D]) in each of the ranges."""
    shape = (len(ranges), len(IOU_THRESHOLDS), len(scores))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    outside = np.stack([(areas < range_.area[0]) | (areas > range_.area[1]) for range_ in ranges])
    positives = np.zeros(len(ranges), np.int64)
    if not ious.shape[1]:
        ignored[:] = outside[:, None, :]
        return Matching(scores, matched, ignored, positives)
    done: dict[bytes, np.ndarray] = {}  # ranges that ignore the same annotations match alike
    for a, range_ in enumerate(ranges):
        truth_ignored = truths.ignored(range_)
        positives[a] = np.count_nonzero(~truth_ignored)
        key = truth_ignored.tobytes()
        if key not in done:
            done[key] = _match(ious, truth_ignored, truths.crowd)
        found = done[key] >= 0
        matched[a] = found & truths.counts[done[key]]
        ignored[a] = (found & truth_ignored[done[key]]) | (~matched[a] & outside[a])
    return Matching(scores, matched, ignored, positives)


def _match(ious: np.ndarray, truth_ignored: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Greedy assignment in score order, int64 [T, D]: index of the annotation, -1 for none.

    Each detection takes the free annotation of highest IoU at or above the threshold; one that counts before any that
    is ignored; a crowd stays free.
    """
    thresholds = [min(threshold, 1 - 1e-10) for threshold in IOU_THRESHOLDS.tolist()]
    assigned = np.full((len(thresholds), len(ious)), -1, np.int64)
    if not ious.size:
        return assigned
    order = np.argsort(truth_ignored, kind="stable")
    ranked = [(int(g), bool(truth_ignored[g])) for g in order]
    stays_free = crowd.tolist()
    best = ious.max(axis=1)
    taken = [[False] * len(ranked) for _ in thresholds]
    for d in np.flatnonzero(best >= thresholds[0]).tolist():
        row, highest = ious[d].tolist(), best[d]
        for t, threshold in enumerate(thresholds):
            if highest < threshold:
                break
            g = _choose(row, threshold, ranked, taken[t])
            if g >= 0:
                assigned[t, d] = g
                taken[t][g] = not stays_free[g]
    return assigned


def _choose(row: list[float], threshold: float, ranked: list[tuple[int, bool]], taken: list[bool]) -> int:
    chosen, highest, chosen_counts = -1, threshold, False
    for g, is_ignored in ranked:
        if taken[g]:
            continue
        if is_ignored and chosen_counts:
            break
        if row[g] >= highest:
            chosen, highest, chosen_counts = g, row[g], not is_ignored
    return chosen


def accumulate(matchings: Sequence[Matching], ranges: int) -> tuple[np.ndarray, np.ndarray]:
    """One category over its videos, in ascending video id: precision [T, R, A, M] and recall [T, A, M], float64.

    R recall thresholds, A `ranges`, M `MAX_DETECTIONS`. -1 throughout a range that no annotation counts in.
    """
    shape = (len(IOU_THRESHOLDS), ranges, len(MAX_DETECTIONS))
    precision, recall = -np.ones((shape[0], len(RECALL_THRESHOLDS), *shape[1:])), -np.ones(shape)
    if not matchings:
        return precision, recall
    positives = np.sum([matching.positives for matching in matchings], axis=0)
    for m, limit in enumerate(MAX_DETECTIONS):
        scores = np.concatenate([matching.scores[:limit] for matching in matchings])
        order = np.argsort(-scores, kind="stable")
        matched = np.concatenate([matching.matched[..., :limit] for matching in matchings], axis=2)[..., order]
        ignored = np.concatenate([matching.ignored[..., :limit] for matching in matchings], axis=2)[..., order]
        true, false = np.cumsum(matched & ~ignored, axis=2), np.cumsum(~matched & ~ignored, axis=2)
        for a in np.flatnonzero(positives).tolist():
            precision[:, :, a, m], recall[:, a, m] = _curves(true[a], false[a], positives[a])
    return precision, recall


def average_precision_of_draws(matchings: Sequence[Matching], counts: np.ndarray) -> np.ndarray:
    """One category's AP over all thresholds, in the first range and with all detections, of S data sets that hold each
    video so often as drawn: float64 [S], NaN where no annotation counts.

    matchings: of V videos. counts: int64 [S, V].
    """
    positives = counts @ np.array([matching.positives[0] for matching in matchings])
    video = np.repeat(np.arange(len(matchings)), [len(matching.scores) for matching in matchings])
    order = np.argsort(-np.concatenate([matching.scores for matching in matchings]), kind="stable")
    matched = np.concatenate([matching.matched[0] for matching in matchings], axis=1)[:, order]
    ignored = np.concatenate([matching.ignored[0] for matching in matchings], axis=1)[:, order]
    true, false = matched & ~ignored, ~matched & ~ignored
    found = np.full(len(counts), np.nan)
    for draw in np.flatnonzero(positives).tolist():
        times = counts[draw, video[order]]
        precision, _ = _curves(np.cumsum(true * times, axis=1), np.cumsum(false * times, axis=1), positives[draw])
        found[draw] = precision.mean()
    return found


def _curves(true: np.ndarray, false: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision [T, R] and final recall [T] from running counts int64 [T, D]."""
    precision = np.zeros((len(true), len(RECALL_THRESHOLDS)))
    if not true.shape[1]:
        return precision, np.zeros(len(true))
    recall = true / positives
    raw = true / (false + true + np.spacing(1))
    envelope = np.maximum.accumulate(raw[:, ::-1], axis=1)[:, ::-1]
    for t in range(len(true)):
        reached = np.searchsorted(recall[t], RECALL_THRESHOLDS, side="left")
        inside = reached < true.shape[1]
        precision[t, inside] = envelope[t, reached[inside]]
    return precision, recall[:, -1]
