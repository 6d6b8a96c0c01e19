#!/usr/bin/env bash
# COCOeval: an object whose annotation id is 0 cannot be found.
# One would expect: ids are names; numbering annotations from 0 changes no score.
# What happens: a match is stored as the id of its annotation, and 0 means "no match": the perfect prediction counts
#   as a false positive. The YouTube-VIS evaluator inherits it. Image and category ids may be 0.
# It matters: a converter that uses enumerate() takes one true positive away, on a small set several points of AP.
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
picture = np.zeros((100, 100), np.uint8, order="F")
picture[10:50, 10:50] = 1
rle = mask.encode(picture)


def average_precision(annotation_id):
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 0, "width": 100, "height": 100}],
        "categories": [{"id": 0, "name": "thing"}],
        "annotations": [
            {"id": annotation_id, "image_id": 0, "category_id": 0, "iscrowd": 0, "area": 1600, "segmentation": rle}
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{"image_id": 0, "category_id": 0, "score": 0.9, "segmentation": dict(rle)}])
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


one, zero = average_precision(1), average_precision(0)
print("AP of the exact mask, annotation id 1:", round(one, 6), " annotation id 0:", round(zero, 6))
assert round(one, 6) == 1.0
assert zero == 0.0
PY
