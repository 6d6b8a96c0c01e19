#!/usr/bin/env bash
# supervision: DetectionDataset.as_coco() writes objects in two parts, or with a hole, as crowds.
# One would expect: one annotation with two polygons, iscrowd 0, as COCO itself has them.
# What happens: such masks are written as RLE with iscrowd 1. COCOeval leaves crowds out, so an exact detection of one
#   counts nothing.
# It matters: an object that is occluded in its middle, the hard case of video segmentation, drops out of the truth;
#   AP rises.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 supervision==0.31.2 \
  opencv-python-headless==5.0.0.93 pycocotools==2.0.11
venv/bin/python - <<'PY'
import contextlib
import io
import json
from importlib.metadata import version

import cv2
import numpy as np
import supervision
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("supervision", version("supervision"))
cv2.imwrite("picture.png", np.zeros((100, 100, 3), np.uint8))
whole = np.zeros((100, 100), bool)
whole[10:30, 10:70] = True
split, ring = whole.copy(), whole.copy()
split[:, 30:50] = False
ring[18:22, 30:50] = False


def export_and_score(mask):
    detections = supervision.Detections(
        xyxy=supervision.mask_to_xyxy(mask[None]).astype(float), mask=mask[None], class_id=np.zeros(1, int)
    )
    data = supervision.DetectionDataset(["thing"], ["picture.png"], {"picture.png": detections})
    data.as_coco(annotations_path="truth.json")
    with open("truth.json") as file:
        annotation = json.load(file)["annotations"][0]
    rle = coco_mask.encode(np.asfortranarray(mask).astype(np.uint8))
    rle["counts"] = rle["counts"].decode()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("truth.json")
        result = {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
        found = truth.loadRes([{**result, "score": 0.9, "segmentation": rle}])
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return annotation["iscrowd"], round(float(evaluation.stats[0]), 3)


for name, mask, expected_crowd in (("one piece", whole, 0), ("two parts", split, 1), ("a hole", ring, 1)):
    crowd, score = export_and_score(mask)
    print(f"{name}: iscrowd {crowd}, AP of the exact mask {score} (-1: no object to find)")
    assert crowd == expected_crowd
    assert (score == -1) == bool(expected_crowd)
PY
