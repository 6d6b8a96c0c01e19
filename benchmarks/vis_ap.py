"""CPU time of `l2g.metrics.vis_ap` beside the official YouTube-VIS algorithm, on a generated load.

The load: 100 videos of 36 frames at 360 x 640, each with 100 predictions and 5 annotated objects of 40 categories,
about 370 bytes per mask, a tenth of the predicted masks empty. "real" gives 60 % of a video's predictions the one or
two categories annotated there and spreads the others; "worst" puts everything in one category.

The official side is a re-implementation of the official algorithm (youtubevos/cocoapi) from its description: area and
box of every predicted mask on loading, then two merges and two areas per frame and pair. Both sides read the same
files, take turns in this one process, and must give identical statistics.

    python benchmarks/vis_ap.py            # minutes
    python benchmarks/vis_ap.py --quick    # a tenth of the videos
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from l2g.metrics.vis_ap import evaluate_vis

FRAMES, HEIGHT, WIDTH, CATEGORIES, PREDICTIONS, OBJECTS = 36, 360, 640, 40, 100, 5
EMPTY = 0.1
# How many times less CPU time than the official algorithm is asked for.
TARGETS = {"real": 4.0, "worst": 7.0}


# --- the load -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Track:
    """One object: centre (x, y) float [T, 2], half width and half height in pixels."""

    centres: np.ndarray
    half_width: float
    half_height: float


def make_load(folder: Path, name: str, videos: int, seed: int = 7) -> tuple[Path, Path]:
    """Write ground truth and results of `videos` videos; the same files for the same arguments."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for video_id in range(1, videos + 1):
        present = [1] if name == "worst" else rng.choice(CATEGORIES, rng.choice([1, 2], p=[0.1, 0.9]), False) + 1
        tracks = [_track(rng) for _ in range(OBJECTS)]
        for i, track in enumerate(tracks):
            masks = [_mask(rng, track, t, jitter=0.0) for t in range(FRAMES)]
            entry = {"id": len(annotations) + 1, "video_id": video_id, "iscrowd": 0, "bboxes": [None] * FRAMES}
            entry |= {"category_id": int(present[i % len(present)]), "areas": [int(sum(m[1::2])) for m in masks]}
            entry["segmentations"] = [{"size": [HEIGHT, WIDTH], "counts": m.tolist()} for m in masks]
            annotations.append(entry)
        results += [_prediction(rng, name, video_id, present, tracks) for _ in range(PREDICTIONS)]
    files = [{"file_names": [""] * FRAMES, "id": i, "length": FRAMES} for i in range(1, videos + 1)]
    for file in files:
        file |= {"height": HEIGHT, "width": WIDTH}
    categories = [{"id": i + 1, "name": str(i + 1)} for i in range(CATEGORIES)]
    truth_path, results_path = folder / f"{name}_truth.json", folder / f"{name}_results.json"
    truth_path.write_text(json.dumps({"videos": files, "categories": categories, "annotations": annotations}))
    results_path.write_text(json.dumps(results))
    return truth_path, results_path


def _prediction(rng, name: str, video_id: int, present, tracks: list[Track]) -> dict:
    follows = rng.random() < 0.6
    track = tracks[rng.integers(OBJECTS)] if follows else _track(rng)
    jitter = rng.uniform(0.0, 25.0)
    masks = [_mask(rng, track, t, jitter) if rng.random() >= EMPTY else None for t in range(FRAMES)]
    runs = [[HEIGHT * WIDTH] if m is None else m for m in masks]
    packed = coco_mask.frPyObjects([{"size": [HEIGHT, WIDTH], "counts": r} for r in runs], HEIGHT, WIDTH)
    here = name == "worst" or rng.random() < 0.6
    category = int(rng.choice(present)) if here else int(rng.integers(CATEGORIES)) + 1
    segmentations = [{"size": [HEIGHT, WIDTH], "counts": p["counts"].decode()} for p in packed]
    score = round(float(rng.random()), 3)
    return {"video_id": video_id, "category_id": category, "score": score, "segmentations": segmentations}


def _track(rng) -> Track:
    start, speed = rng.uniform((120, 90), (WIDTH - 120, HEIGHT - 90)), rng.normal(0, 2.0, 2)
    centres = start + speed * np.arange(FRAMES)[:, None]
    return Track(centres, rng.uniform(70, 105), rng.uniform(40, 75))


def _mask(rng, track: Track, t: int, jitter: float) -> np.ndarray:
    """Runs of an ellipse with a ragged edge, one run of pixels per column."""
    x, y = track.centres[t] + rng.normal(0, 1, 2) * jitter
    x, y = np.clip(x, 110, WIDTH - 110), np.clip(y, 84, HEIGHT - 84)
    columns = np.arange(int(x - track.half_width) + 1, int(x + track.half_width))
    half = track.half_height * np.sqrt(np.maximum(1 - ((columns - x) / track.half_width) ** 2, 0))
    top = (y - half + rng.normal(0, 1.5, len(columns))).astype(np.int64)
    bottom = np.maximum((y + half + rng.normal(0, 1.5, len(columns))).astype(np.int64), top + 1)
    edges = np.stack([columns * HEIGHT + top, columns * HEIGHT + bottom], axis=1).ravel()
    return np.diff(edges, prepend=0, append=HEIGHT * WIDTH)


# --- the official algorithm, re-implemented -----------------------------------------------------------------------

IOU_THRESHOLDS, RECALL_THRESHOLDS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
AREA_RANGES = [(0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10)]
LIMITS = [1, 10, 100]


def official_like(truth_path: Path, results_path: Path) -> tuple[list[float], int]:
    """(the 12 statistics in official order, number of compared pairs)."""
    truth, results = json.loads(truth_path.read_text()), json.loads(results_path.read_text())
    for position, result in enumerate(results):  # what loading the results fills in
        masks = result["segmentations"]
        result["areas"] = [coco_mask.area(m) if m else None for m in masks]
        result["bboxes"] = [coco_mask.toBbox(m) if m else None for m in masks]
        areas = [a for a in result["areas"] if a]
        result |= {"id": position + 1, "iscrowd": 0, "avg_area": np.array(areas).mean() if areas else 0}
    for annotation in truth["annotations"]:
        areas = [a for a in annotation["areas"] if a]
        annotation["avg_area"] = np.array(areas).mean() if areas else 0
        packed = [coco_mask.frPyObjects(m, HEIGHT, WIDTH) if m else None for m in annotation["segmentations"]]
        annotation["segmentations"] = packed
    videos = sorted(video["id"] for video in truth["videos"])
    categories = sorted(category["id"] for category in truth["categories"])
    groups = {(v, c): ([], []) for v in videos for c in categories}
    for side, entries in enumerate((results, truth["annotations"])):
        for entry in entries:
            groups[entry["video_id"], entry["category_id"]][side].append(entry)
    ious = {}
    for key, (dts, gts) in groups.items():
        dts.sort(key=lambda dt: -dt["score"])
        del dts[LIMITS[-1] :]
        ious[key] = [[_iou_of_pair(dt["segmentations"], gt["segmentations"]) for gt in gts] for dt in dts]
    pairs = sum(len(dts) * len(gts) for dts, gts in groups.values())
    shape = (len(IOU_THRESHOLDS), len(categories), len(AREA_RANGES), len(LIMITS))
    precision, recall = -np.ones((shape[0], 101, *shape[1:])), -np.ones(shape)
    for k, category in enumerate(categories):
        for a, area_range in enumerate(AREA_RANGES):
            keys = [(v, category) for v in videos]
            images = [_match_pairs(*groups[key], ious[key], area_range) for key in keys if any(groups[key])]
            for m, limit in enumerate(LIMITS):
                _accumulate(images, limit, precision[:, :, k, a, m], recall[:, k, a, m])
    return _summary(precision, recall), pairs


def _iou_of_pair(dt_masks: list, gt_masks: list) -> float:
    inter = union = 0.0
    for dt, gt in zip(dt_masks, gt_masks):  # noqa: B905 - the official code stops at the shorter one
        if dt and gt:
            inter += coco_mask.area(coco_mask.merge([dt, gt], True))
            union += coco_mask.area(coco_mask.merge([dt, gt], False))
        elif dt or gt:
            union += coco_mask.area(dt or gt)
    return inter / union if union > 0 else 0.0


def _match_pairs(dts: list, gts: list, ious: list, area_range: tuple) -> tuple:
    """(scores, matched [T, D], ignored [T, D], number of annotations that count)."""
    low, high = area_range
    ignore = np.array([bool(gt["iscrowd"]) or not low <= gt["avg_area"] <= high for gt in gts], bool)
    order = np.argsort(ignore, kind="mergesort")
    matched, ignored = np.zeros((10, len(dts))), np.zeros((10, len(dts)), bool)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        taken = np.zeros(len(gts))
        for d, dt in enumerate(dts):
            best, chosen = min(threshold, 1 - 1e-10), -1
            for g in order:
                if taken[g] > 0 and not gts[g]["iscrowd"]:
                    continue
                if chosen > -1 and not ignore[chosen] and ignore[g]:
                    break
                if ious[d][g] < best:
                    continue
                best, chosen = ious[d][g], g
            if chosen > -1:
                matched[t, d], ignored[t, d], taken[chosen] = gts[chosen]["id"], ignore[chosen], dt["id"]
    outside = np.array([not low <= dt["avg_area"] <= high for dt in dts], bool)
    ignored |= (matched == 0) & outside
    return np.array([dt["score"] for dt in dts]), matched, ignored, int((~ignore).sum())


def _accumulate(images: list, limit: int, precision: np.ndarray, recall: np.ndarray) -> None:
    positives = sum(image[3] for image in images)
    if not positives:
        return
    scores = np.concatenate([image[0][:limit] for image in images])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([image[1][:, :limit] for image in images], axis=1)[:, order]
    ignored = np.concatenate([image[2][:, :limit] for image in images], axis=1)[:, order]
    for t in range(len(IOU_THRESHOLDS)):
        tp = np.cumsum((matched[t] != 0) & ~ignored[t]).astype(float)
        fp = np.cumsum((matched[t] == 0) & ~ignored[t]).astype(float)
        reached, at_recall = tp / positives, np.zeros(101)
        curve = (tp / (fp + tp + np.spacing(1))).tolist()
        for i in range(len(curve) - 1, 0, -1):
            curve[i - 1] = max(curve[i], curve[i - 1])
        for r, position in enumerate(np.searchsorted(reached, RECALL_THRESHOLDS, side="left")):
            if position < len(curve):
                at_recall[r] = curve[position]
        precision[t], recall[t] = at_recall, reached[-1] if len(reached) else 0


def _summary(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    aps = [precision[..., 0, 2], precision[:1, ..., 0, 2], precision[5:6, ..., 0, 2]]
    aps += [precision[..., a, 2] for a in (1, 2, 3)]
    ars = [recall[..., 0, m] for m in range(3)] + [recall[..., a, 2] for a in (1, 2, 3)]
    return [float(np.mean(s[s > -1])) if (s > -1).any() else -1.0 for s in aps + ars]


# --- the comparison -----------------------------------------------------------------------------------------------


def compare(name: str, videos: int, rounds: int, folder: Path) -> bool:
    """Run both sides in turns, print medians and their ratio; True if the numbers agree and the target is met."""
    paths = make_load(folder, name, videos)
    megabytes = paths[1].stat().st_size / 1e6
    seconds: dict[str, list[float]] = {"official algorithm": [], "l2g": []}
    for _ in range(rounds):
        start = time.process_time()
        expected, pairs = official_like(*paths)
        middle = time.process_time()
        stats = list(evaluate_vis(*paths).stats.values())
        seconds["official algorithm"].append(middle - start)
        seconds["l2g"].append(time.process_time() - middle)
    official, ours = (statistics.median(values) for values in seconds.values())
    same, target = stats == expected, TARGETS[name]
    print(f"{name}: {videos} videos, {pairs} pairs, results {megabytes:.0f} MB, median of {rounds}")
    print(f"  official algorithm, re-implemented  {official:7.2f} cpu s")
    print(f"  l2g.metrics.vis_ap               {ours:7.2f} cpu s, {official / ours:.1f} times less (asked: {target:g})")
    print(f"  statistics {'identical' if same else f'DIFFER: {stats} and {expected}'}; AP {100 * stats[0]:.2f}")
    return same and official / ours >= target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 videos, one round")
    parser.add_argument("--videos", type=int, help="number of videos (100)")
    parser.add_argument("--rounds", type=int, help="turns of both sides, of which the median counts (3)")
    arguments = parser.parse_args(argv)
    videos = arguments.videos or (10 if arguments.quick else 100)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    print("The official side is a re-implementation of the official algorithm, not the official code.")
    with tempfile.TemporaryDirectory() as folder:
        met = [compare(name, videos, rounds, Path(folder)) for name in TARGETS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
