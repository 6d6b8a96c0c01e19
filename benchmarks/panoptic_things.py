"""What stuff costs the things: VPQ of the same objects on the same paths, seen by the instance model before the plain
backdrop that it knows and on the very videos, whose stuff it has never seen, and by the panoptic model there.

    python benchmarks/panoptic_things.py --videos 64 --seed 0
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from l2g import Tracker
from l2g.data.synthetic.panoptic import CATEGORIES, PanopticDrawing, panoptic_video
from l2g.metrics.vpq import evaluate_vpq

WINDOWS = (1, 2, 4, 6)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--videos", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--models", nargs=2, default=["l2g_tiny", "l2g_tiny_panoptic"], metavar=("INSTANCES", "PANOPTIC")
    )
    options = parser.parse_args(argv)
    drawn = [panoptic_video(options.split, index, seed=options.seed) for index in range(options.videos)]
    instances, panoptic = options.models
    for model, plain in ((instances, True), (instances, False), (panoptic, False)):
        where = "before the plain backdrop" if plain else "before stuff"
        print(f"{model}, {where}: VPQ of things {things_vpq(model, drawn, options, plain):.2f}", flush=True)
    return 0


def things_vpq(model: str, drawn: list[PanopticDrawing], options: argparse.Namespace, plain: bool) -> float:
    """plain: before the backdrop of the instance split, in place of stuff."""
    from l2g.data.synthetic.video import synthetic_video

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    maps: list[dict[str, np.ndarray]] = [{}, {}]
    with Tracker(model, task="panoptic", cuts=()) as tracker:
        for index, video in enumerate(drawn):
            name = str(index)
            frames = synthetic_video(options.split, index, seed=options.seed).frames if plain else video.frames
            maps[0][name] = video.maps()
            categories = dict(zip(video.segment_ids().tolist(), (CATEGORIES[k].id for k in video.labels), strict=True))
            truth.append(_entry(name, maps[0][name], categories))
            tracker.reset()
            maps[1][name], categories = _tracked(tracker, frames)
            found.append(_entry(name, maps[1][name], categories))
    data = {"categories": [{"id": c.id, "isthing": int(c.is_thing)} for c in CATEGORIES], "annotations": truth}
    report = evaluate_vpq(data, maps[0], {"annotations": found}, maps[1], WINDOWS)
    return report.mean(WINDOWS)["VPQ_thing"] or 0.0


def _tracked(tracker: Tracker, frames: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Maps int32 [T, H, W] of a video, and the category of each id in them: a track's is its class over the video."""
    ids, votes = [], defaultdict(Counter)
    for t, frame in enumerate(frames):
        result = tracker.update(frame, float(t))
        ids.append(result.panoptic.ids)
        for segment in result.panoptic.segments:
            votes[segment.id][segment.label] += segment.score
    return np.stack(ids), {id_: CATEGORIES[votes[id_].most_common(1)[0][0]].id for id_ in votes}


def _entry(name: str, maps: np.ndarray, categories: dict[int, int]) -> dict[str, Any]:
    frames = []
    for ids in maps:
        counted = zip(*(part.tolist() for part in np.unique(ids[ids > 0], return_counts=True)), strict=True)
        segments = [{"id": i, "category_id": categories[i], "area": area, "iscrowd": 0} for i, area in counted]
        frames.append({"segments_info": segments})
    return {"video_id": name, "annotations": frames}


if __name__ == "__main__":
    raise SystemExit(main())
