"""One frame's results in the source picture: the tracks seen in it, one by one and as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from l2g.errors import L2GError
from l2g.runtime.picture.masks import InstanceMask

if TYPE_CHECKING:
    import supervision

    from l2g.runtime.panoptic.segmentation import Segmentation


@dataclass(frozen=True)
class TrackedInstance:
    """One track in one frame.

    Attributes:
        track_id: the object's identity: from 1 up, never used twice in a stream.
        slot: the model's query that shows it in this frame, after identities were handed over.
        label: the track's class so far, an index of the class names.
        score: this frame's probability of `frame_label`, 0..1.
        frame_label: the best class of this frame alone, an index of the class names.
        mask: its pixels in the source picture, never empty; `mask.full()` is bool [H, W].
    """

    track_id: int
    slot: int
    label: int
    score: float
    frame_label: int
    mask: InstanceMask

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) around the mask in source pixels, x2 and y2 just past the last pixel."""
        return self.mask.box

    @cached_property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO's compressed run-length code, made once: {"size": [H, W], "counts": str}."""
        return self.mask.rle()


@dataclass(frozen=True)
class FrameResult:
    """What was found in one frame of one stream, in pixels of the source picture. M tracks, H x W pixels.

    Attributes:
        index: of the frame in its source, from 0; frames that were skipped count.
        time: of the frame in seconds, from the first frame of its stream.
        tracks: what is seen in this frame, best score first; a track that is hidden is not among them.
        height, width: H and W of the source picture.
        class_names: the model's classes; `class_names[track.label]` is a track's.
        reset: why the stream's history was forgotten just before this frame ("cut", "gap", "reconnected", "failed"), so
            that its tracks are new ones; None where it was not.
        panoptic: of the tasks "panoptic" and "semantic", which segment each pixel belongs to; its things are the
            `tracks`, whose masks then do not overlap. None of instances.
    """

    index: int
    time: float
    tracks: tuple[TrackedInstance, ...]
    height: int = 0
    width: int = 0
    class_names: tuple[str, ...] = ()
    reset: str | None = None
    panoptic: Segmentation | None = None

    @property
    def instances(self) -> tuple[TrackedInstance, ...]:
        """`tracks`, by its earlier name."""
        return self.tracks

    @property
    def track_ids(self) -> np.ndarray:
        """int64 [M], as `tracks` are ordered."""
        return np.array([track.track_id for track in self.tracks], np.int64)

    @property
    def labels(self) -> np.ndarray:
        """int64 [M], indices of `class_names`."""
        return np.array([track.label for track in self.tracks], np.int64)

    @property
    def scores(self) -> np.ndarray:
        """float32 [M], 0..1."""
        return np.array([track.score for track in self.tracks], np.float32)

    @property
    def boxes(self) -> np.ndarray:
        """float32 [M, 4], (x1, y1, x2, y2) around the masks in source pixels, x2 and y2 just past the last pixel."""
        return np.array([track.box for track in self.tracks], np.float32).reshape(-1, 4)

    def masks(self) -> np.ndarray:
        """bool [M, H, W], made anew by every call: M x H x W bytes. A track's `mask.patch` is what it covers alone."""
        masks = np.zeros((len(self.tracks), self.height, self.width), bool)
        for mask, track in zip(masks, self.tracks, strict=True):
            x1, y1, x2, y2 = track.box
            mask[y1:y2, x1:x2] = track.mask.patch
        return masks

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`, for its annotators, zones and sinks.

        xyxy float32 [M, 4], mask bool [M, H, W], confidence float32 [M], class_id int64 [M], tracker_id int64 [M],
        data["class_name"] str [M]. L2GError where supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise L2GError(
                f"to_supervision() needs '{error.name}', which is not installed; pip install supervision"
            ) from None
        names = np.array([self.class_names[track.label] for track in self.tracks], dtype=np.str_)
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks(),
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.track_ids,
            data={"class_name": names},
        )

    def to_coco(
        self, image_id: int | str | None = None, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """As entries of COCO's results format, M of them, ready for `json.dumps`.

        {"image_id", "category_id", "bbox": [x, y, width, height] in source pixels, "area": pixels of the mask,
        "segmentation": {"size": [H, W], "counts": compressed RLE}, "score": 0..1, "track_id"}.

        image_id: of this frame in your data set; None is `index`. category_ids: your data set's id of each class, in
        the order of `class_names`; None is label + 1, as in `results.json`.
        """
        entries = []
        for track in self.tracks:
            x1, y1, x2, y2 = track.box
            entries.append(
                {
                    "image_id": self.index if image_id is None else image_id,
                    "category_id": track.label + 1 if category_ids is None else category_ids[track.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": track.mask.area,
                    "segmentation": track.rle,
                    "score": track.score,
                    "track_id": track.track_id,
                }
            )
        return entries
