"""Segmentation and tracking quality (STQ, https://arxiv.org/abs/2102.11859) as VIPSeg's official evaluator computes it.

STQ = sqrt(AQ SQ) over the whole set: association quality of thing tubes and mean class IoU.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l2g.metrics.files import Json
from l2g.metrics.panoptic import (
    FrameOverlap,
    Segment,
    notes_on_videos,
    overlaps,
    read_predictions,
    read_truth,
)


@dataclass(frozen=True)
class SequenceQuality:
    """Of one video, or of all: fractions 0..1; `frames` and annotated thing `tubes` are counts."""

    stq: float
    aq: float
    sq: float
    frames: int
    tubes: int


# (category, place of its id); (annotated category, predicted category or None) -> pixels.
Tube = tuple[int, int]
Confusion = Counter[tuple[int, int | None]]


@dataclass(frozen=True)
class StqReport:
    """What `evaluate_stq` found. `total` is over the whole set, not a mean of the videos'."""

    total: SequenceQuality
    per_video: dict[str, SequenceQuality]
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """STQ, AQ, SQ in percent, and the same per video."""
        videos = {str(id_): {**_percent(quality), "frames": quality.frames} for id_, quality in self.per_video.items()}
        return {**_percent(self.total), "per_video": videos, "notes": list(self.notes)}

    def table(self) -> str:
        return "\n".join(f"{name:<14}{value:.2f}" for name, value in _percent(self.total).items())


def _percent(quality: SequenceQuality) -> dict[str, float]:
    return {"STQ": 100 * quality.stq, "AQ": 100 * quality.aq, "SQ": 100 * quality.sq}


def evaluate_stq(
    ground_truth: str | Path | Json,
    ground_truth_maps: str | Path | Mapping[str, np.ndarray],
    results: str | Path | Json,
    result_maps: str | Path | Mapping[str, np.ndarray],
) -> StqReport:
    """STQ of `results`; arguments as of `evaluate_vpq`.

    As officially the order of `segments_info` matters: the id that a video of the ground truth lists first, if it is a
    thing, is taken for a crowd and left out of AQ. A note names such videos.

    Raises:
        DataError: a file is broken or the two do not fit; the message names video and frame.
    """
    truth = read_truth(ground_truth, ground_truth_maps)
    predictions = read_predictions(results, result_maps, truth.things)
    notes = list(notes_on_videos(truth, predictions))
    confusion: Confusion = Counter()
    per_video, association, tubes, frames_in_all = {}, 0.0, 0, 0
    for video_id, frames in overlaps(truth, predictions):
        counts = _count_video(frames, truth.things)
        aq_sum, sq = _association(counts), _mean_iou(counts.confusion)
        tube_count = len(counts.truth_sizes)
        aq = aq_sum / max(tube_count, 1e-15)
        per_video[video_id] = SequenceQuality(math.sqrt(aq * sq), aq, sq, len(frames), tube_count)
        association, tubes, frames_in_all = association + aq_sum, tubes + tube_count, frames_in_all + len(frames)
        confusion.update(counts.confusion)
        if counts.crowd is not None:
            notes.append(
                f"video '{video_id}': the first segment that the ground truth lists is thing {counts.crowd}; it is "
                "taken for a crowd, as officially, and left out of AQ"
            )
    aq, sq = association / max(tubes, 1e-15), _mean_iou(confusion)
    total = SequenceQuality(math.sqrt(aq * sq), aq, sq, frames_in_all, tubes)
    return StqReport(total, per_video, tuple(notes))


@dataclass(eq=False)
class _Counts:
    """Pixels of one video. A tube is (category, place of its id in order of first listing); None is void.

    confusion: (annotated category, predicted category or None). overlap: (annotated tube, predicted tube), both things.
    crowd: the id that is taken for a crowd, None if there is none.
    """

    confusion: Confusion = field(default_factory=Counter)
    truth_sizes: Counter[Tube] = field(default_factory=Counter)
    predicted_sizes: Counter[Tube] = field(default_factory=Counter)
    overlap: Counter[tuple[Tube, Tube]] = field(default_factory=Counter)
    crowd: int | None = None


def _count_video(frames: list[FrameOverlap], things: dict[int, bool]) -> _Counts:
    counts = _Counts()
    truth_places: dict[int, int] = {}
    predicted_places: dict[int, int] = {}
    for frame in frames:
        truths, predictions = _tubes(frame.truths, truth_places), _tubes(frame.predictions, predicted_places)
        for (truth_id, predicted_id), pixels in frame.pixels.items():
            truth, predicted = truths.get(truth_id), predictions.get(predicted_id)
            if truth is not None:
                counts.confusion[truth[0], predicted[0] if predicted else None] += pixels
            thing = truth if truth is not None and things[truth[0]] else None
            predicted_thing = predicted if predicted is not None and things[predicted[0]] else None
            if thing is not None and thing[1] == 0:
                counts.crowd = truth_id
                continue
            if thing is not None:
                counts.truth_sizes[thing] += pixels
            if predicted_thing is not None:
                counts.predicted_sizes[predicted_thing] += pixels
            if thing is not None and predicted_thing is not None:
                counts.overlap[thing, predicted_thing] += pixels
    return counts


def _tubes(segments: tuple[Segment, ...], places: dict[int, int]) -> dict[int, tuple[int, int]]:
    """id -> tube of one frame's segments; ids not met before are given the next place."""
    return {segment.id: (segment.category_id, places.setdefault(segment.id, len(places))) for segment in segments}


def _association(counts: _Counts) -> float:
    """Sum over annotated tubes g of 1/|g| sum_p TPA^2 / |p or g| with TPA = |p and g|."""
    inner: dict[tuple[int, int], float] = dict.fromkeys(counts.truth_sizes, 0.0)
    for (truth, predicted), both in counts.overlap.items():
        inner[truth] += both * (both / (counts.predicted_sizes[predicted] + counts.truth_sizes[truth] - both))
    return sum(value / counts.truth_sizes[truth] for truth, value in inner.items())


def _mean_iou(confusion: Confusion) -> float:
    """Mean IoU over the classes that occur on annotated pixels; predicted void is one of them, with IoU 0."""
    inter: Counter[int | None] = Counter()
    rows: Counter[int | None] = Counter()
    columns: Counter[int | None] = Counter()
    for (truth, predicted), pixels in confusion.items():
        rows[truth] += pixels
        columns[predicted] += pixels
        if truth == predicted:
            inter[truth] += pixels
    classes = rows.keys() | columns.keys()
    return sum(inter[c] / (rows[c] + columns[c] - inter[c]) for c in classes) / max(len(classes), 1)


if __name__ == "__main__":  # a door: `python -m l2g.metrics.stq` is `l2g metrics stq`
    from l2g.cli.learning.stq import main

    raise SystemExit(main())
