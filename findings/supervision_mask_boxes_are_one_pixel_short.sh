#!/usr/bin/env bash
# supervision: the box of a mask leaves out the mask's last row and column.
# One would expect: x2 - x1 is the mask's width, as in COCO's boxes.
# What happens: mask_to_xyxy() gives the last pixel's index as the end, while every box function takes it as an edge.
#   A mask one pixel wide has a box of no area, whose IoU with itself is 0; a perfect set of results scores less than
#   1.
# It matters: thin and far objects (poles, ropes, horizon) vanish in box NMS, tracking and box AP, and small ones lose
#   IoU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 supervision==0.31.2 \
  opencv-python-headless==5.0.0.93 pycocotools==2.0.11
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
import supervision
from pycocotools import mask as coco_mask
from supervision.metrics import MeanAveragePrecision, MetricTarget

print("supervision", version("supervision"))
masks = np.zeros((2, 100, 100), bool)
masks[0, 10:50, 30] = True  # 1 x 40
masks[1, 40:60, 40:60] = True  # 20 x 20
boxes = supervision.mask_to_xyxy(masks)
coco = [coco_mask.toBbox(coco_mask.encode(np.asfortranarray(m).astype(np.uint8))).tolist() for m in masks]
own = np.diag(supervision.box_iou_batch(boxes, boxes)).tolist()
print("boxes", boxes.tolist(), " COCO's (x, y, width, height)", coco)
print("IoU of each box with itself:", own)
assert boxes.tolist() == [[30, 10, 30, 49], [40, 40, 59, 59]]
assert coco == [[30, 10, 1, 40], [40, 40, 20, 20]]
assert own == [0.0, 1.0]
perfect = supervision.Detections(
    xyxy=boxes.astype(float), mask=masks, confidence=np.array([0.9, 0.8]), class_id=np.array([0, 1])
)
scores = [
    float(MeanAveragePrecision(metric_target=target).update(perfect, perfect).compute().map50_95)
    for target in (MetricTarget.MASKS, MetricTarget.BOXES)
]
print("AP of the truth against itself: masks", scores[0], " boxes", scores[1])
assert scores == [1.0, 0.5]
PY
