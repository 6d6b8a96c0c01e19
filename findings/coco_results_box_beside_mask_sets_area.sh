#!/usr/bin/env bash
# COCO results: a "bbox" beside the "segmentation" changes the score of the masks.
# One would expect: with iouType "segm" the box is not looked at; areas come from the masks.
# What happens: loadRes() asks for "bbox" first and takes its width x height as the area, also for mask results. A
#   thin false mask in a large box then counts as a large object.
# It matters: writers add boxes out of courtesy. AP of small, medium and large objects moves; AP does not, so no one
#   looks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 pycocotools==2.0.11
venv/bin/python - <<'PY'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("pycocotools", version("pycocotools"))
thing = np.zeros((400, 400), np.uint8, order="F")
thing[100:300, 100:300] = 1
thin = np.zeros((400, 400), np.uint8, order="F")
thin[np.arange(200), np.arange(200)] = 1  # a diagonal: 200 pixels in a box of 200 x 200
thing, thin = mask.encode(thing), mask.encode(thin)


def evaluate(with_boxes):
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 400, "height": 400}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 40000, "segmentation": thing}],
    }
    results = [
        {"image_id": 1, "category_id": 1, "score": score, "segmentation": dict(rle)}
        for score, rle in ((0.9, thing), (0.95, thin))
    ]
    if with_boxes:
        for result in results:
            result["bbox"] = mask.toBbox(result["segmentation"]).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(results)
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[5], int(found.anns[2]["area"])


for with_boxes in (False, True):
    every, large, area = evaluate(with_boxes)
    print(f"boxes {with_boxes!s:5}: AP {every:.3f}, AP of large objects {large:.3f}, area of the thin mask {area}")
    assert round(every, 3) == 0.5
    assert (round(large, 3), area) == ((0.5, 40000) if with_boxes else (1.0, 200))
PY
