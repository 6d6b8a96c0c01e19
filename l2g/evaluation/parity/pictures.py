"""The worst frames of a parity run, as pictures: reference, candidate and where they differ, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np

from l2g.evaluation.parity.frame import FrameDifference, counting_slots
from l2g.runtime.arrays import ByteArray
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.video.overlay import draw_overlay

PANEL_WIDTH = 400
# Frames kept of one video, each from another part of it: the neighbours of a bad frame are as bad and tell nothing new.
PARTS = 3
_RED = (255, 40, 40)


@dataclass(frozen=True)
class WorstFrame:
    """A frame of the free run. png: the three panels side by side. severity: larger is worse, for sorting."""

    video: str
    frame: int
    free: FrameDifference
    forced: FrameDifference
    severity: tuple[float, ...]
    png: bytes


class WorstFrames:
    """Keeps the `limit` worst frames that it is offered; draws only what it keeps."""

    def __init__(self, limit: int, confidence: float, class_names: tuple[str, ...]):
        self._limit, self._confidence, self._class_names = limit, confidence, class_names
        self._kept: dict[tuple[int, int], WorstFrame] = {}

    def offer(
        self,
        video: tuple[int, str, int],
        frame: int,
        image: ByteArray,
        letterbox: Letterbox,
        pair: tuple[RawOutputs, RawOutputs],
        free: FrameDifference,
        forced: FrameDifference,
    ) -> None:
        """video: (number, name, length). image: uint8 [H, W, 3]. pair: the reference's and the candidate's, in line."""
        index, name, length = video
        severity = _severity(free, forced)
        key = (index, frame * PARTS // length)
        if not self._limit or (key in self._kept and self._kept[key].severity >= severity):
            return
        if key not in self._kept and len(self._kept) >= self._limit:
            least = min(self._kept, key=lambda k: self._kept[k].severity)
            if self._kept[least].severity >= severity:
                return
            del self._kept[least]
        png = draw_pair(image, letterbox, *pair, self._confidence, self._class_names)
        self._kept[key] = WorstFrame(name, frame, free, forced, severity, png)

    def worst(self) -> tuple[WorstFrame, ...]:
        """Worst first."""
        return tuple(sorted(self._kept.values(), key=lambda kept: kept.severity, reverse=True))


def draw_pair(
    image: ByteArray,
    letterbox: Letterbox,
    reference: RawOutputs,
    candidate: RawOutputs,
    confidence: float,
    class_names: tuple[str, ...],
) -> bytes:
    """PNG of three panels. A slot has one colour in both; the third panel is red where a slot's two masks differ."""
    height = max(1, round(image.shape[0] * PANEL_WIDTH / image.shape[1]))
    if image.shape[1] < PANEL_WIDTH:
        # Small pictures are enlarged before masks and names are drawn, so that both stay legible.
        image = cast(ByteArray, cv2.resize(image, (PANEL_WIDTH, height), interpolation=cv2.INTER_LINEAR))
        letterbox = replace(letterbox, source_height=height, source_width=PANEL_WIDTH)
    counts = np.flatnonzero(counting_slots(reference, confidence) | counting_slots(candidate, confidence))
    difference = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    drawn: list[list[TrackedInstance]] = [[], []]
    probabilities = [np.nan_to_num(outputs.probabilities()[0]) for outputs in (reference, candidate)]
    for slot in counts:
        masks = [letterbox.mask_to_source(np.nan_to_num(out.mask_logits[0, slot])) for out in (reference, candidate)]
        difference[masks[0].full() ^ masks[1].full()] = _RED
        for side, mask in enumerate(masks):
            if mask.patch.size:
                scores = probabilities[side][slot]
                label = int(scores.argmax())
                drawn[side].append(TrackedInstance(int(slot) + 1, int(slot), label, float(scores.max()), label, mask))
    panels = [draw_overlay(image, FrameResult(0, 0.0, tuple(side)), class_names) for side in drawn]
    row = [cv2.resize(panel, (PANEL_WIDTH, height), interpolation=cv2.INTER_AREA) for panel in (*panels, difference)]
    done, coded = cv2.imencode(".png", cv2.cvtColor(np.hstack(row), cv2.COLOR_RGB2BGR))
    assert done, "PNG encoding of an array in memory does not fail"
    return coded.tobytes()


def _severity(free: FrameDifference, forced: FrameDifference) -> tuple[float, ...]:
    """Lost objects first, then the worst mask, then the kernels' own error."""
    iou = 1.0 if np.isnan(free.worst_iou) else free.worst_iou
    return (float(free.counting - free.agreeing), 1 - iou, forced.mask_logits.max, free.mask_logits.mean)
