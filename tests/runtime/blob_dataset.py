"""A small data set in the YouTube-VIS layout that `BlobBackend` segments well."""

from __future__ import annotations

import json

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from tests.runtime.blobs import CLASS_NAMES, scene


def write_blob_dataset(folder, lengths=(6, 4, 7), height=64, width=96):
    """A red block that moves, a green one that stays and, from the middle on, a blue one, per video."""
    videos, marks = [], []
    for index, length in enumerate(lengths):
        name = f"blobs_{index}"
        (folder / "JPEGImages" / name).mkdir(parents=True)
        runs = {color: [None] * length for color in range(3)}
        for t in range(length):
            blobs = [(0, (4 + 3 * t + index, 8, 24 + 3 * t + index, 28)), (1, (64, 36, 88, 60))]
            blobs += [(2, (8, 40, 32, 60))] if t >= length // 2 else []
            bgr = cv2.cvtColor(scene(height, width, blobs), cv2.COLOR_RGB2BGR)
            assert cv2.imwrite(str(folder / "JPEGImages" / name / f"{t:05d}.png"), bgr)
            for color, (x1, y1, x2, y2) in blobs:
                mask = np.zeros((height, width), np.uint8, order="F")
                mask[y1:y2, x1:x2] = 1
                coded = coco_mask.encode(mask)
                runs[color][t] = {"size": coded["size"], "counts": coded["counts"].decode()}
        files = [f"{name}/{t:05d}.png" for t in range(length)]
        videos.append({"id": index + 1, "width": width, "height": height, "length": length, "file_names": files})
        for color, segmentations in runs.items():
            areas = [None if run is None else int(coco_mask.area(run)) for run in segmentations]
            boxes = [None if run is None else coco_mask.toBbox(run).tolist() for run in segmentations]
            marks.append(
                {
                    "id": len(marks) + 1,
                    "video_id": index + 1,
                    "category_id": color + 1,
                    "iscrowd": 0,
                    "width": width,
                    "height": height,
                    "length": length,
                    "segmentations": segmentations,
                    "areas": areas,
                    "bboxes": boxes,
                }
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]
    data = {"info": {}, "videos": videos, "categories": categories, "annotations": marks}
    (folder / "instances.json").write_text(json.dumps(data))
    return folder
