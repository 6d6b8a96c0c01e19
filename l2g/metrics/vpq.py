"""Video panoptic quality (VPQ, https://arxiv.org/abs/2006.11339) as VIPSeg's official evaluator computes it.

The official code loops over windows of 1, 2, 4, 6 and 8 frames and averages all five; VIPSeg's authors say that the
paper uses 1, 2, 4, 6. A report names both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.errors import DataError
from l2g.metrics.files import Json
from l2g.metrics.panoptic import (
    VOID,
    FrameOverlap,
    PanopticSet,
    notes_on_videos,
    overlaps,
    read_predictions,
    read_truth,
)

WINDOWS = (1, 2, 4, 6, 8)
NAMED_WINDOWS = ((1, 2, 4, 6), (1, 2, 4, 6, 8))


@dataclass(frozen=True)
class CategoryQuality:
    """Counts of one category over all windows of one length; `pq`, `sq`, `rq` are fractions."""

    iou: float
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float:
        return self.iou / self._weight if self._weight else 0.0

    @property
    def sq(self) -> float:
        return self.iou / self.tp if self.tp else 0.0

    @property
    def rq(self) -> float:
        return self.tp / self._weight if self._weight else 0.0

    @property
    def _weight(self) -> float:
        return self.tp + 0.5 * self.fp + 0.5 * self.fn


@dataclass(frozen=True)
class WindowQuality:
    """VPQ over all categories, over things and over stuff, in percent, for windows of one length; None where neither
    ground truth nor results have a segment to count."""

    vpq: float | None
    vpq_thing: float | None
    vpq_stuff: float | None
    sq: float | None
    rq: float | None
    per_category: dict[int, CategoryQuality]


@dataclass(frozen=True)
class VpqReport:
    """What `evaluate_vpq` found: by window length, and what the official evaluator passes over in silence."""

    windows: dict[int, WindowQuality]
    notes: tuple[str, ...]

    def mean(self, windows: Sequence[int]) -> dict[str, float | None]:
        """VPQ, VPQ_thing and VPQ_stuff in percent, each the mean over windows of these lengths; None where one of them
        has none."""
        chosen = [self.windows[length] for length in windows]
        return {
            "VPQ": _mean([window.vpq for window in chosen]),
            "VPQ_thing": _mean([window.vpq_thing for window in chosen]),
            "VPQ_stuff": _mean([window.vpq_stuff for window in chosen]),
        }

    def means(self) -> dict[str, float | None]:
        """The same by name, such as VPQ_1_2_4_6, for the two usual sets of windows, or else for those evaluated.

        Where no video is as long as the longest of them, the mean over those that fit comes besides.
        """
        sets: list[tuple[int, ...]] = [named for named in NAMED_WINDOWS if set(named) <= set(self.windows)] or [
            tuple(self.windows)
        ]
        fitting = tuple(length for length, window in self.windows.items() if window.vpq is not None)
        if fitting and not any(set(lengths) <= set(fitting) for lengths in sets):
            sets.append(fitting)
        return {
            f"{name}_{'_'.join(map(str, lengths))}": value
            for lengths in sets
            for name, value in self.mean(lengths).items()
        }

    def to_json(self) -> Json:
        windows = {}
        for length, window in self.windows.items():
            categories = {
                str(id_): {"PQ": 100 * q.pq, "SQ": 100 * q.sq, "RQ": 100 * q.rq}
                | {"iou": q.iou, "tp": q.tp, "fp": q.fp, "fn": q.fn}
                for id_, q in window.per_category.items()
            }
            windows[str(length)] = {
                "VPQ": window.vpq,
                "VPQ_thing": window.vpq_thing,
                "VPQ_stuff": window.vpq_stuff,
                "per_category": categories,
            }
        return {**self.means(), "windows": windows, "notes": list(self.notes)}

    def table(self) -> str:
        lines = [f"{'window':<14}{'VPQ':>8}{'thing':>8}{'stuff':>8}"]
        rows: dict[str, tuple[float | None, ...]] = {
            str(length): (w.vpq, w.vpq_thing, w.vpq_stuff) for length, w in self.windows.items()
        }
        means = self.means()
        for name in means:
            if name.startswith("VPQ_") and name[4].isdigit():
                lengths = name[4:]
                rows[f"mean {lengths.replace('_', ',')}"] = tuple(
                    means[f"{key}_{lengths}"] for key in ("VPQ", "VPQ_thing", "VPQ_stuff")
                )
        return "\n".join([*lines, *(f"{key:<14}" + "".join(map(_cell, row)) for key, row in rows.items())])


def _cell(value: float | None) -> str:
    return f"{'n/a':>8}" if value is None else f"{value:8.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if values and len(known) == len(values) else None


def evaluate_vpq(
    ground_truth: str | Path | Json,
    ground_truth_maps: str | Path | Mapping[str, np.ndarray],
    results: str | Path | Json,
    result_maps: str | Path | Mapping[str, np.ndarray],
    windows: Sequence[int] = WINDOWS,
) -> VpqReport:
    """VPQ of `results` for windows of the given lengths.

    Args:
        ground_truth, results: paths of JSON files in VIPSeg's layout, or the parsed JSON.
        ground_truth_maps, result_maps: folders with `<video_id>/<frame>.png`, or by video id an integer array
            [T, H, W] of ids.
        windows: lengths in frames; a video shorter than a window adds nothing to it. Where a window length leaves a
            group (all, things, stuff) without a single segment, the official evaluator divides by zero; here that
            number is None and a note says why.

    Raises:
        DataError: a file is broken or the two do not fit. The message names video and frame.
    """
    truth = read_truth(ground_truth, ground_truth_maps)
    predictions = read_predictions(results, result_maps, truth.things)
    _check_truth(truth)
    tallies = {length: {id_: _Tally() for id_ in truth.things} for length in windows}
    notes = list(notes_on_videos(truth, predictions))
    for _, frames in overlaps(truth, predictions):
        notes += _notes_on_areas(frames)
        for length, tally in tallies.items():
            for start in range(len(frames) - length + 1):
                _count_window(frames[start : start + length], tally)
    found = {length: _quality(tally, truth.things) for length, tally in tallies.items()}
    return VpqReport(found, (*notes, *_notes_on_undefined(found, max(map(len, truth.videos.values())))))


def _notes_on_undefined(windows: Mapping[int, WindowQuality], longest: int) -> Iterator[str]:
    if too_long := [str(length) for length in windows if length > longest]:
        yield f"no video has {', '.join(too_long)} frames, so VPQ of windows that long is undefined: n/a"
    fitting = [window for length, window in windows.items() if length <= longest]
    for name, values in (
        ("segment", [window.vpq for window in fitting]),
        ("segment of a thing", [window.vpq_thing for window in fitting]),
        ("segment of stuff", [window.vpq_stuff for window in fitting]),
    ):
        if None in values:
            yield f"neither ground truth nor results have a {name}, so its VPQ is undefined: n/a"


def _check_truth(truth: PanopticSet) -> None:
    for frames in truth.videos.values():
        for frame in frames:
            for segment in frame.segments:
                if segment.area is None or segment.crowd is None:
                    key = "area" if segment.area is None else "iscrowd"
                    raise DataError(f"{frame.where}, segment {segment.id}: has no '{key}', which VPQ needs")


def _notes_on_areas(frames: list[FrameOverlap]) -> list[str]:
    for frame in frames:
        drawn: Counter[int] = Counter()
        listed: Counter[int] = Counter()
        for (truth_id, _), pixels in frame.pixels.items():
            drawn[truth_id] += pixels
        for segment in frame.truths:
            listed[segment.id] += segment.area or 0
        for id_, area in listed.items():
            if area != drawn[id_]:
                return [
                    f"{frame.where}: segment {id_} has area {area} in the JSON file but {drawn[id_]} pixels in its "
                    "map; the JSON's counts, as officially (the video's first such segment)"
                ]
    return []


class _Tally:
    """Counts of one category while windows are being added."""

    def __init__(self) -> None:
        self.iou, self.tp, self.fp, self.fn = 0.0, 0, 0, 0


class _Tube:
    """One id within a window. Its category and crowd flag are those of the first frame that lists it."""

    def __init__(self, category_id: int, crowd: bool):
        self.category_id, self.crowd, self.area, self.matched = category_id, crowd, 0, False


def _count_window(frames: Sequence[FrameOverlap], tally: dict[int, _Tally]) -> None:
    truths: dict[int, _Tube] = {}
    predictions: dict[int, _Tube] = {}
    pixels: Counter[tuple[int, int]] = Counter()
    for frame in frames:
        for segment in frame.truths:
            tube = truths.setdefault(segment.id, _Tube(segment.category_id, bool(segment.crowd)))
            tube.area += segment.area or 0  # as in the file, not as in the map
        for segment in frame.predictions:
            predictions.setdefault(segment.id, _Tube(segment.category_id, False))
        for (truth_id, predicted_id), count in frame.pixels.items():
            pixels[truth_id, predicted_id] += count
            if predicted_id in predictions:
                predictions[predicted_id].area += count
    _match(truths, predictions, pixels, tally, frames[0].where)
    # Of several crowd segments of a category only the last absorbs false positives (as officially).
    crowds = {tube.category_id: id_ for id_, tube in truths.items() if tube.crowd}
    for tube in truths.values():
        if not tube.crowd and not tube.matched:
            tally[tube.category_id].fn += 1
    for id_, tube in predictions.items():
        if tube.matched:
            continue
        excused = pixels[VOID, id_]
        if tube.category_id in crowds:
            excused += pixels[crowds[tube.category_id], id_]
        if excused / tube.area <= 0.5:
            tally[tube.category_id].fp += 1


def _match(
    truths: dict[int, _Tube],
    predictions: dict[int, _Tube],
    pixels: Counter[tuple[int, int]],
    tally: dict[int, _Tally],
    where: str,
) -> None:
    """Pairs of equal category whose IoU, void apart, is above one half are true positives."""
    for (truth_id, predicted_id), inter in sorted(pixels.items()):
        truth, predicted = truths.get(truth_id), predictions.get(predicted_id)
        if truth is None or predicted is None or truth.crowd or truth.category_id != predicted.category_id:
            continue
        union = predicted.area + truth.area - inter - pixels[VOID, predicted_id]
        if union == 0:
            raise DataError(
                f"{where}: the areas of segment {truth_id} do not fit its map, its union with a prediction is empty; "
                "correct 'area' in the ground truth"
            )
        if inter / union > 0.5:
            counts = tally[truth.category_id]
            counts.tp += 1
            counts.iou += inter / union
            truth.matched = predicted.matched = True


def _quality(tally: dict[int, _Tally], things: dict[int, bool]) -> WindowQuality:
    per_category = {id_: CategoryQuality(t.iou, t.tp, t.fp, t.fn) for id_, t in tally.items()}
    seen = {id_: quality for id_, quality in per_category.items() if quality.tp + quality.fp + quality.fn}
    return WindowQuality(
        vpq=_percent([quality.pq for quality in seen.values()]),
        vpq_thing=_percent([quality.pq for id_, quality in seen.items() if things[id_]]),
        vpq_stuff=_percent([quality.pq for id_, quality in seen.items() if not things[id_]]),
        sq=_percent([quality.sq for quality in seen.values()]),
        rq=_percent([quality.rq for quality in seen.values()]),
        per_category=per_category,
    )


def _percent(shares: list[float]) -> float | None:
    return 100 * sum(shares) / len(shares) if shares else None


if __name__ == "__main__":  # a door: `python -m l2g.metrics.vpq` is `l2g metrics vpq`
    from l2g.cli.learning.vpq import main

    raise SystemExit(main())
