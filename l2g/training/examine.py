"""A model in the middle of its training, run over held-out videos: AP or VPQ, and pictures of what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from l2g.data.classes import match_classes
from l2g.data.dataset import AnnotatedVideo, VideoDataset, decode_segmentation
from l2g.data.youtube_vis import ground_truth
from l2g.errors import L2GError
from l2g.evaluation.panoptic import evaluate_panoptic, is_panoptic
from l2g.evaluation.run import Evaluation, evaluate_backend
from l2g.modeling.local2global import Local2Global
from l2g.runtime.arrays import ByteArray
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.overlay import draw_overlay

STATS = ("AP", "AP50", "AR10")
PANOPTIC_STATS = ("VPQ", "VPQ_things", "VPQ_stuff")
SHOWN_SCORE = 0.3  # results below it are not drawn
_WIDTH = 320  # of a panel, pixels


@dataclass(frozen=True)
class Examined:
    """scores: in percent, AP, AP50 and AR10, or of things and stuff VPQ, VPQ_things and VPQ_stuff; the first of them is
    what runs are compared by. pictures: of some videos, the truth and what was found side by side. evaluation: the
    whole of it. Of things and stuff there are neither pictures nor that."""

    scores: dict[str, float]
    pictures: list[ByteArray]
    evaluation: Evaluation | None

    @property
    def score(self) -> float:
        return next(iter(self.scores.values()))


class Examiner:
    """Runs models over one data set. pictures: of how many of its videos, evenly spread. skip_broken: a video with a
    frame that cannot be read does not count, in place of ending the run."""

    def __init__(self, dataset: VideoDataset, pictures: int = 4, skip_broken: bool = False):
        self.dataset, self._pictures = dataset, min(pictures, len(dataset))
        self._skip_broken = skip_broken

    def check(self, class_names: Sequence[str]) -> None:
        """DataError where a model with these classes could not be scored on it."""
        match_classes(self.dataset, class_names)
        if not is_panoptic(self.dataset):
            ground_truth(self.dataset)

    def __call__(self, model: Local2Global) -> Examined:
        """model: in evaluation mode."""
        backend = EagerBackend(model)
        if is_panoptic(self.dataset):
            maps = evaluate_panoptic(backend, self.dataset, progress=False, skip_broken=self._skip_broken)
            stats = maps.stats()
            return Examined({name: round(stats[name] or 0, 2) for name in PANOPTIC_STATS}, [], None)
        found = evaluate_backend(backend, self.dataset, progress=False, skip_broken=self._skip_broken)
        scores = {name: round(max(100 * found.report.stats[name], 0.0), 2) for name in STATS}
        places = [(2 * k + 1) * len(self.dataset) // (2 * self._pictures) for k in range(self._pictures)]
        return Examined(scores, [side_by_side(self.dataset, place, found.results) for place in places], found)


def side_by_side(dataset: VideoDataset, place: int, results: list[dict]) -> ByteArray:
    """The truth, and what was found, in the annotated frame in the middle of a video: uint8 [h, 2 w, 3]."""
    video = cast(AnnotatedVideo, dataset.videos[place])
    annotated = video.annotated_frames()
    t = int(annotated[len(annotated) // 2]) if len(annotated) else video.length // 2
    labels = {category.id: label for label, category in enumerate(dataset.categories)}
    truth = [(o.label, 1.0, o.segmentations[t]) for o in video.objects if not o.iscrowd]
    found = [
        (labels[entry["category_id"]], entry["score"], entry["segmentations"][t])
        for entry in results
        if entry["video_id"] == video.id and entry["score"] >= SHOWN_SCORE
    ]
    try:
        image = video.frame(t)
    except L2GError:
        image = np.zeros((video.height, video.width, 3), np.uint8)
    scale = _WIDTH / video.width
    size = _WIDTH, max(round(video.height * scale), 1)
    panels = [_panel(image, marks, dataset.class_names, size) for marks in (truth, found)]
    return np.concatenate(panels, axis=1)


def _panel(image: ByteArray, marks: list, names: tuple[str, ...], size: tuple[int, int]) -> ByteArray:
    tracks = []
    for number, (label, score, segmentation) in enumerate(marks):
        if not segmentation:
            continue
        mask = decode_segmentation(segmentation, *image.shape[:2])
        small = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        if small.any():
            instance = InstanceMask.from_patch(small, 0, 0, size[1], size[0])
            tracks.append(TrackedInstance(number + 1, number, label, score, label, instance))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    result = FrameResult(0, 0.0, tuple(tracks), size[1], size[0], names)
    return draw_overlay(canvas, result, names)
