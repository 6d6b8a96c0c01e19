"""A backend whose outputs are given maps of segments, and a data set in VIPSeg's layout to run it on."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np

from l2g.contract import make_contract
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import RawOutputs

# A frame is one colour, which tells the video and the frame, also after JPEG.
_VIDEO, _FRAME = 40, 10


def picture(video, frame, height, width):
    return np.broadcast_to(np.uint8([video * _VIDEO, frame * _FRAME, 0]), (height, width, 3)).copy()


def write_vipseg(folder, truth, maps, split="val"):
    """truth: the annotation as a JSON object; maps: by video id, integer [T, H, W]."""
    data = {"categories": [{**c, "name": f"class {c['id']}"} for c in truth["categories"]], "videos": []}
    data["annotations"] = []
    for number, entry in enumerate(truth["annotations"]):
        video = entry["video_id"]
        images, marks = [], []
        for t, frame in enumerate(entry["annotations"]):
            height, width = maps[video][t].shape
            for part in ("images", "panomasksRGB"):
                (folder / part / video).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"images/{video}/{t:04d}.jpg"), picture(number, t, height, width)[..., ::-1])
            ids = maps[video][t]
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            cv2.imwrite(str(folder / f"panomasksRGB/{video}/{t:04d}.png"), rgb[..., ::-1])
            images.append({"id": f"{t:04d}", "file_name": f"{t:04d}.jpg", "height": height, "width": width})
            marks.append({**frame, "image_id": f"{t:04d}", "file_name": f"{t:04d}.png"})
        data["videos"].append({"video_id": video, "images": images})
        data["annotations"].append({"video_id": video, "annotations": marks})
    (folder / f"panoptic_gt_VIPSeg_{split}.json").write_text(json.dumps(data))
    return folder


class ReplayBackend:
    """Gives the segments of `results`, whose maps are [T, H, W] by video, as a model would: a slot for each thing of a
    video and two for each stuff segment, with its left and its right half. The canvas is so large that a picture's
    pixel is a whole number of cells of its mask maps.

    classes: ids of the categories in the order of the logits. hidden: (video, segment) that it does not see.
    """

    def __init__(self, results, maps, classes, things, hidden=()):
        sizes = [video.shape[1:] for video in maps.values()]
        self.height = math.lcm(*(height for height, _ in sizes))
        self.width = max(width * self.height // height for height, width in sizes)
        self.classes = list(classes)
        self.videos = []
        for entry in results["annotations"]:
            ids = sorted({s["id"] for frame in entry["annotations"] for s in frame["segments_info"]})
            self.videos.append((entry["video_id"], entry["annotations"], maps[entry["video_id"]], ids))
        self.slots = 2 * max(len(ids) for *_, ids in self.videos)
        self.things, self.hidden = things, set(hidden)
        self.contract = make_contract(
            height=4 * self.height,
            width=4 * self.width,
            num_queries=self.slots,
            hidden_dim=self.slots,
            class_names=tuple(f"class {id_}" for id_ in self.classes),
            association="propagate",
            stuff_classes=tuple(place for place, id_ in enumerate(self.classes) if not things[id_]),
        )

    def step(self, frames, reset):
        return RawOutputs(**{name: np.stack(rows) for name, rows in self._rows(frames).items()})

    def _rows(self, frames):
        queries = np.broadcast_to(np.eye(self.slots, dtype=np.float32), (self.slots, self.slots))
        rows = {"queries": [], "boxes": [], "logits": [], "mask_logits": []}
        for frame in frames:
            video, annotations, maps, ids = self.videos[round(float(frame[0, 0, 0]) / _VIDEO)]
            t = round(float(frame[0, 0, 1]) / _FRAME)
            logits = np.full((self.slots, len(self.classes)), -10, np.float32)
            masks = np.full((self.slots, self.height, self.width), -20, np.float32)
            height, width = maps.shape[1:]
            left, times = np.arange(width) < width // 2, self.height // height
            for segment in annotations[t]["segments_info"]:
                if (video, segment["id"]) in self.hidden:
                    continue
                mask, slot = maps[t] == segment["id"], 2 * ids.index(segment["id"])
                label = self.classes.index(segment["category_id"])
                whole = self.things[segment["category_id"]]
                for half, place in ((mask, slot),) if whole else ((mask & left, slot), (mask & ~left, slot + 1)):
                    logits[place, label] = 4
                    cells = np.where(half, 20, -20).repeat(times, axis=0).repeat(times, axis=1)
                    masks[place, : height * times, : width * times] = cells
            rows["queries"].append(queries)
            rows["boxes"].append(np.full((self.slots, 4), 0.5, np.float32))
            rows["logits"].append(logits)
            rows["mask_logits"].append(masks)
        return rows

    def read_state(self):
        return None

    def write_state(self, state: HostState):
        pass

    def close(self):
        pass
