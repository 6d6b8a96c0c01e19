"""The official evaluators' answers, recorded once, as the tests of this folder read them."""

import gzip
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "assets" / "metrics"
PANOPTIC_CASES = ("vpq_case_a", "vpq_case_b", "vpq_case_perfect", "stq_case_a", "stq_case_b")


def load(name: str) -> dict:
    with gzip.open(FOLDER / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def quirks(name: str, failing: bool) -> list[dict]:
    """Toy cases of one file, those that the official code fails on or the others."""
    return [case for case in load(name)["cases"] if ("expected_exception" in case) == failing]


def panoptic(case: dict, name: str | None = None) -> tuple[dict, dict, dict, dict]:
    """(ground truth, its maps, results, their maps) of a panoptic case; the maps lie in `<name>.npz` or inline."""
    stored = np.load(FOLDER / f"{name}.npz") if name else case["maps"]
    videos = [entry["video_id"] for entry in case["gt_annotations"]]
    truth_maps, result_maps = ({v: np.array(stored[f"{side}/{v}"]) for v in videos} for side in ("gt", "pred"))
    truth = {"categories": case["categories"], "videos": case["videos"], "annotations": case["gt_annotations"]}
    return truth, truth_maps, {"annotations": case["pred_annotations"]}, result_maps
