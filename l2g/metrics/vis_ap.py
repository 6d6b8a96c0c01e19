"""Average precision and recall of video instance segmentation, equal to the official YouTube-VIS and OVIS evaluators.

Public implementations: youtubevos/cocoapi (YouTube-VIS) and qjy981010/cocoapi (OVIS), whose integers are
restored from one `pycocotools.mask.iou` call per frame and category in place of two merges and two areas per pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.errors import DataError
from l2g.metrics.files import Json, no_collection
from l2g.metrics.tubes import Tubes, tube_ious
from l2g.metrics.vis_files import (
    GroundTruth,
    Prediction,
    TruthTube,
    measure_predictions,
    measure_truth,
    read_ground_truth,
    read_results,
)
from l2g.metrics.vis_matching import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    OCCLUSION_RANGES,
    Matching,
    Range,
    Truths,
    accumulate,
    average_precision_of_draws,
    match_in_ranges,
)

# Statistic -> (IoU threshold or None for the mean over all, range, detections per video and category).
# By name: (IoU threshold or None for all, name of a range, detections a video and category).
_Stats = dict[str, tuple[float | None, str, int]]
_AP: _Stats = {"AP": (None, "all", 100), "AP50": (0.5, "all", 100), "AP75": (0.75, "all", 100)}
_AP_SIZES: _Stats = {
    "APs": (None, "small", 100),
    "APm": (None, "medium", 100),
    "APl": (None, "large", 100),
}
_AR: _Stats = {f"AR{limit}": (None, "all", limit) for limit in MAX_DETECTIONS}
_AR_SIZES: _Stats = {
    "ARs": (None, "small", 100),
    "ARm": (None, "medium", 100),
    "ARl": (None, "large", 100),
}
_AP_OCCLUSIONS: _Stats = {f"AP_{r.name}": (None, r.name, 100) for r in OCCLUSION_RANGES}
_AR_OCCLUSIONS: _Stats = {f"AR_{r.name}": (None, r.name, 100) for r in OCCLUSION_RANGES}
# Both in the order of the official evaluators.
YOUTUBE_VIS_STATS = _AP | _AP_SIZES | _AR | _AR_SIZES
OVIS_STATS = _AP | _AP_SIZES | _AP_OCCLUSIONS | _AR | _AR_SIZES | _AR_OCCLUSIONS


@dataclass(frozen=True, eq=False)
class VisReport:
    """What `evaluate_vis` found.

    Attributes:
        stats: name -> fraction 0..1, in official order, -1 where no annotation counts. 12 of them, 18 for OVIS.
        ap_per_iou: AP at each of the ten IoU thresholds 0.5, 0.55 .. 0.95, fractions or -1.
        per_category: category id -> AP, AP50, AP75, AR1, AR10, AR100, fractions or -1.
        category_names: category id -> name.
        precision: float64 [T, R, K, A, M]: IoU and recall thresholds, categories, ranges, detection limits.
        recall: float64 [T, K, A, M].
        ranges: names of the A ranges.
        ious: (video id, category id) -> float64 [D, G], detections in score order, annotations in file order; empty
            unless `all_ious` was asked for.
        notes: what the official evaluator passes over in silence and you may want to know.
    """

    stats: dict[str, float]
    ap_per_iou: tuple[float, ...]
    per_category: dict[int, dict[str, float]]
    category_names: dict[int, str]
    precision: np.ndarray
    recall: np.ndarray
    ranges: tuple[str, ...]
    ious: dict[tuple[int, int], np.ndarray]
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """Statistics in percent by name (AP, AP50, ..., null where undefined), then per category and per IoU."""
        categories = [
            {"id": id_, "name": self.category_names[id_], **{key: _percent(value) for key, value in stats.items()}}
            for id_, stats in self.per_category.items()
        ]
        ap_per_iou = {f"{iou:.2f}": _percent(value) for iou, value in zip(IOU_THRESHOLDS, self.ap_per_iou, strict=True)}
        return {
            **{name: _percent(value) for name, value in self.stats.items()},
            "AP_per_IoU": ap_per_iou,
            "per_category": categories,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The statistics in percent, one a line."""
        return "\n".join(
            f"{name:<14}{'n/a' if value < 0 else f'{100 * value:.2f}'}" for name, value in self.stats.items()
        )


def evaluate_vis(
    ground_truth: str | Path | Json,
    results: str | Path | list[Json],
    ovis: bool = False,
    allow_empty: bool = False,
    all_ious: bool = False,
) -> VisReport:
    """AP and AR of `results` against `ground_truth`, each a path or the parsed JSON, which is left untouched.

    Args:
        ground_truth: YouTube-VIS annotations; masks per frame null, RLE (either form) or polygons.
        results: list of {video_id, category_id, score, segmentations}, compressed RLE or null per frame. Equal scores
            rank in file order.
        ovis: 18 statistics with occlusion ranges; needs `occlusion` in the annotations and equally long tubes.
        allow_empty: score an empty list instead of refusing it as the official evaluator does.
        all_ious: also report the IoU of every pair; without, pairs that cannot reach 0.5 are given up early.

    Raises:
        DataError: a file is broken or the two do not fit; the message names the entry, video and frame.
    """
    with no_collection():
        truth = read_ground_truth(ground_truth, ovis)
        predictions = read_results(results, truth, allow_empty)
        ranges = AREA_RANGES + OCCLUSION_RANGES if ovis else AREA_RANGES
        evaluation = _Evaluation(truth, ranges, ovis, all_ious)
        for video_id in truth.video_ids:
            evaluation.add_video(video_id, predictions.pop(video_id, []))
        return evaluation.report(OVIS_STATS if ovis else YOUTUBE_VIS_STATS)


def ap_of_draws(ground_truth: str | Path | Json, results: str | Path | list[Json], counts: np.ndarray) -> np.ndarray:
    """AP of S data sets that hold the videos of this one so often as drawn: what the bootstrap over videos needs.

    Args:
        ground_truth, results: as for `evaluate_vis`; no results at all are scored.
        counts: int64 [S, V], how often each of the V videos is drawn, in ascending id.

    Returns:
        float64 [S], fractions 0..1, NaN where nothing that is annotated was drawn. A row of ones gives AP.

    Raises:
        DataError: as `evaluate_vis`, and for counts of another number of videos.
    """
    with no_collection():
        truth = read_ground_truth(ground_truth, False)
        if counts.ndim != 2 or counts.shape[1] != len(truth.video_ids):
            raise DataError(
                f"counts {list(counts.shape)} found, [draws, {len(truth.video_ids)}] expected: one for each video"
            )
        predictions = read_results(results, truth, True)
        evaluation = _Evaluation(truth, AREA_RANGES[:1], False, False)
        places: dict[int, list[int]] = {id_: [] for id_ in truth.category_ids}  # the matchings' videos
        for place, video_id in enumerate(truth.video_ids):
            evaluation.add_video(video_id, predictions.pop(video_id, []))
            for category, matchings in evaluation.matchings.items():
                places[category] += [place] * (len(matchings) - len(places[category]))
    per_category = [
        average_precision_of_draws(matchings, counts[:, places[category]])
        for category, matchings in evaluation.matchings.items()
        if matchings
    ]
    defined = np.array(per_category).reshape(-1, len(counts))
    there = ~np.isnan(defined)
    return np.where(there.any(axis=0), np.nansum(defined, axis=0) / np.maximum(there.sum(axis=0), 1), np.nan)


class _Evaluation:
    """Videos go in one by one, in ascending id, so that only one video's masks are being measured at a time."""

    def __init__(self, truth: GroundTruth, ranges: tuple[Range, ...], ovis: bool, all_ious: bool):
        self.truth, self.ranges, self.ovis, self.all_ious = truth, ranges, ovis, all_ious
        self.matchings: dict[int, list[Matching]] = {id_: [] for id_ in truth.category_ids}
        self.ious: dict[tuple[int, int], np.ndarray] = {}
        self.unknown_category: list[Prediction] = []
        self.other_length: list[Prediction] = []
        self.mismatched_frames: dict[int, int] = {}

    def add_video(self, video_id: int, predictions: list[Prediction]) -> None:
        measured = measure_predictions(predictions)
        length = self.truth.video_lengths[video_id]
        rows: dict[int, list[int]] = {}
        for row, prediction in enumerate(predictions):
            if length is not None and len(prediction.masks) != length:
                self.other_length.append(prediction)
            if prediction.category_id in self.matchings:
                rows.setdefault(prediction.category_id, []).append(row)
            else:
                self.unknown_category.append(prediction)
        for category_id in self.truth.category_ids:
            tubes = self.truth.tubes.get((video_id, category_id), ())
            chosen = rows.get(category_id, [])
            if tubes or chosen:
                self._add_category(video_id, category_id, predictions, measured, np.array(chosen, np.int64), tubes)

    def _add_category(
        self,
        video_id: int,
        category_id: int,
        predictions: list[Prediction],
        measured: Tubes,
        rows: np.ndarray,
        tubes: tuple[TruthTube, ...],
    ) -> None:
        scores = np.array([predictions[row].score for row in rows], np.float64)
        best = np.argsort(-scores, kind="stable")[: MAX_DETECTIONS[-1]]
        detections, scores = measured.select(rows[best]), scores[best]
        ious = np.zeros((len(scores), len(tubes)))
        truth_tubes = measure_truth(tubes)
        if ious.size:
            if self.ovis:
                self._check_lengths([predictions[row] for row in rows[best]], tubes)
            ious, mismatched = tube_ious(detections, truth_tubes, 0.0 if self.all_ious else float(IOU_THRESHOLDS[0]))
            if self.all_ious:
                self.ious[video_id, category_id] = ious
            if mismatched:
                self.mismatched_frames[video_id] = self.mismatched_frames.get(video_id, 0) + mismatched
        truths = Truths(
            areas=np.array([tube.average_area for tube in tubes]),
            occlusions=np.array([tube.occlusion if self.ovis else 0.0 for tube in tubes]),
            crowd=np.array([tube.crowd for tube in tubes], bool),
            counts=np.array([tube.id != 0 for tube in tubes], bool),
        )
        matching = match_in_ranges(ious, scores, detections.average_areas(), truths, self.ranges)
        self.matchings[category_id].append(matching)

    def _check_lengths(self, predictions: list[Prediction], tubes: tuple[TruthTube, ...]) -> None:
        for prediction in predictions:
            for tube in tubes:
                if len(prediction.masks) != len(tube.masks):
                    raise DataError(
                        f"results entry {prediction.index}, video {prediction.video_id}: has {len(prediction.masks)} "
                        f"frames, ground truth annotation {tube.index} has {len(tube.masks)}; OVIS needs one "
                        "segmentation or null for every frame"
                    )

    def report(self, definitions: _Stats) -> VisReport:
        curves = [accumulate(matchings, len(self.ranges)) for matchings in self.matchings.values()]
        precision = np.stack([precision for precision, _ in curves], axis=2)
        recall = np.stack([recall for _, recall in curves], axis=1)
        ranges = tuple(range_.name for range_ in self.ranges)
        per_category = {
            id_: {
                name: _stat(name, definition, precision[:, :, k : k + 1], recall[:, k : k + 1], ranges)
                for name, definition in (_AP | _AR).items()
            }
            for k, id_ in enumerate(self.truth.category_ids)
        }
        return VisReport(
            stats={name: _stat(name, it, precision, recall, ranges) for name, it in definitions.items()},
            ap_per_iou=tuple(_mean(precision[t, :, :, 0, -1]) for t in range(len(IOU_THRESHOLDS))),
            per_category=per_category,
            category_names=self.truth.category_names,
            precision=precision,
            recall=recall,
            ranges=ranges,
            ious=self.ious,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.unknown_category:
            first = self.unknown_category[0]
            notes.append(
                f"{len(self.unknown_category)} predictions are left out because the ground truth lacks their category; "
                f"the first is results entry {first.index} with category_id {first.category_id}"
            )
        if self.other_length:
            first = self.other_length[0]
            notes.append(
                f"{len(self.other_length)} predictions have more or fewer frames than their video and are compared "
                f"over the frames that both have; the first is results entry {first.index}, video {first.video_id}"
            )
        for video_id, frames in self.mismatched_frames.items():
            notes.append(
                f"video {video_id}: in {frames} frames a predicted mask differs in size from an annotated one; "
                "these frames count for nothing"
            )
        zero = [tube.index for tubes in self.truth.tubes.values() for tube in tubes if tube.id == 0]
        if zero:
            notes.append(f"ground truth annotation {zero[0]} has id 0 and so can never be found; count ids from 1")
        return tuple(notes)


def _stat(
    name: str,
    definition: tuple[float | None, str, int],
    precision: np.ndarray,
    recall: np.ndarray,
    ranges: tuple[str, ...],
) -> float:
    threshold, range_name, limit = definition
    values = precision if name.startswith("AP") else recall
    values = values[..., ranges.index(range_name), MAX_DETECTIONS.index(limit)]
    return _mean(values if threshold is None else values[threshold == IOU_THRESHOLDS])


def _mean(values: np.ndarray) -> float:
    """Mean of the defined entries; -1 if there is none."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _percent(fraction: float) -> float | None:
    return None if fraction < 0 else 100 * fraction


if __name__ == "__main__":  # a door: `python -m l2g.metrics.vis_ap` is `l2g metrics vis-ap`
    from l2g.cli.learning.vis_ap import main

    raise SystemExit(main())
