#!/usr/bin/env bash
# TrackEval, TrackMAP on YouTube-VIS: the first track of the results file may share its object with another.
# One would expect: an object is matched once; the second track on it is a false positive, as in the official
#   evaluator.
# What happens: a match is stored as the id of the track, tracks count from 0, and 0 means "free": what track 0 found
#   can be found again. One object and two equal tracks give recall 2 and a precision without a false positive. Moving
#   the pair to the end of the file mends it.
# It matters: duplicates, the usual fault of query models, are forgiven once a file, and the order of the results
#   changes the score.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 pycocotools==2.0.11 \
  trackeval==1.3.0
venv/bin/python - <<'PY'
import contextlib
import io
import json
import os
from importlib.metadata import version

import numpy as np
import trackeval
from pycocotools import mask

print("trackeval", version("trackeval"), "numpy", np.__version__)


def box(x):
    picture = np.zeros((200, 400), np.uint8, order="F")
    picture[20:180, x : x + 150] = 1
    rle = mask.encode(picture)
    runs = np.diff(np.flatnonzero(np.diff(picture.flatten("F"), prepend=0, append=0)), prepend=0)
    uncompressed = {"size": [200, 400], "counts": [*runs.tolist(), 200 * 400 - int(runs.sum())]}
    assert mask.frPyObjects(uncompressed, 200, 400)["counts"] == rle["counts"]
    return uncompressed, {"size": [200, 400], "counts": rle["counts"].decode()}


def score(places):
    """places: the x of each track of the results file; the only object is at 0."""
    os.makedirs("truth/youtube_vis_val", exist_ok=True)
    os.makedirs("results/youtube_vis_val/model/data", exist_ok=True)
    truth = {
        "videos": [{"id": 1, "width": 400, "height": 200, "length": 1, "file_names": ["v/0.jpg"]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": [24000], "bboxes": [[0, 20, 150, 160]],
             "segmentations": [box(0)[0]], "width": 400, "height": 200}
        ],
    }  # fmt: skip
    results = [
        {"video_id": 1, "category_id": 1, "score": 0.9 - 0.1 * i, "segmentations": [box(x)[1]]}
        for i, x in enumerate(places)
    ]
    with open("truth/youtube_vis_val/truth.json", "w") as file:
        json.dump(truth, file)
    with open("results/youtube_vis_val/model/data/results.json", "w") as file:
        json.dump(results, file)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = trackeval.datasets.YouTubeVIS(
            {"GT_FOLDER": "truth/", "TRACKERS_FOLDER": "results/", "SPLIT_TO_EVAL": "val", "OUTPUT_FOLDER": "out"}
        )
        metric = trackeval.metrics.TrackMAP({"USE_TIME_RANGES": False, "MAX_DETECTIONS": 100})
        evaluator = trackeval.Evaluator(
            {"PRINT_RESULTS": False, "PLOT_CURVES": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False,
             "PRINT_CONFIG": False, "BREAK_ON_ERROR": True, "RETURN_ON_ERROR": False, "TIME_PROGRESS": False}
        )  # fmt: skip
        output, _ = evaluator.evaluate([dataset], [metric])
    thing = output["YouTubeVIS"]["model"]["COMBINED_SEQ"]["thing"]["TrackMAP"]
    return float(np.mean(thing["AR_all"])), float(np.mean(thing["AP_all"]))


alone, first, later = score([0]), score([0, 0]), score([240, 0, 0])
print("one right track: recall {:.3f} AP {:.3f}".format(*alone))
print("twice the right track, at the head of the file: recall {:.3f} AP {:.3f}".format(*first))
print("a wrong track before the two: recall {:.3f} AP {:.3f}".format(*later))
assert round(alone[0], 3) == 1.0
assert round(first[0], 3) == 2.0, "an object is found once now"
assert round(later[0], 3) == 1.0
PY
