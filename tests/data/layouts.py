"""Small data sets in the official layouts, made in a temporary directory."""

import json

import cv2
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH = 24, 40


def box_mask(x0, y0, x1, y1, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def compressed(mask):
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask):
    """Runs of the mask, down the columns, counted by hand."""
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def picture(seed, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_picture(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])


def youtube_vis_json():
    """Two videos of three frames, categories 7 and 3 (in that order) and an unused 5."""
    box = box_mask(4, 2, 14, 10)
    polygon = [[20.0, 5.0, 30.0, 5.0, 30.0, 15.0, 20.0, 15.0]]
    videos = [
        {
            "id": n,
            "width": WIDTH,
            "height": HEIGHT,
            "length": 3,
            "file_names": [f"{name}/{t:05d}.png" for t in range(3)],
        }
        for n, name in ((11, "cat"), (12, "dog"))
    ]
    marks = [
        {
            "id": 1,
            "video_id": 11,
            "category_id": 7,
            "iscrowd": 0,
            "segmentations": [None, uncompressed(box), compressed(box)],
        },
        {"id": 2, "video_id": 11, "category_id": 3, "iscrowd": 0, "segmentations": [polygon, polygon, None]},
        {"id": 3, "video_id": 12, "category_id": 3, "iscrowd": 1, "segmentations": [compressed(box), None, None]},
        {"id": 4, "video_id": 12, "category_id": 3, "iscrowd": 0, "segmentations": [None, None, compressed(box)]},
    ]
    for mark in marks:
        mark["areas"] = [None if s is None else 80 for s in mark["segmentations"]]
        mark["bboxes"] = [None if s is None else [0, 0, 1, 1] for s in mark["segmentations"]]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 5, "name": "owl"}]
    return {"videos": videos, "annotations": marks, "categories": categories}


def write_youtube_vis(root, data, annotations="train.json", frames="train/JPEGImages"):
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(data))
    for video in data["videos"]:
        for t, name in enumerate(video["file_names"] or ()):
            write_picture(root / frames / name, picture([video["id"], t]))
