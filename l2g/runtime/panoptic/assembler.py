"""From a stream's outputs, frame after frame, to maps in which each pixel has one segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.assembler import memory_of, recall
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.identity.handover import Handover
from l2g.runtime.identity.tracks import SlotTracker, TrackedSlot, TrackParameters
from l2g.runtime.outputs import FrameOutputs, RawOutputs
from l2g.runtime.panoptic.merge import Merged, Region, merge_panoptic, merge_semantic
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.panoptic.segmentation import VOID, Segment, Segmentation
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.picture.logits import sharpened


class PanopticAssembler:
    """Turns one stream's outputs, frame after frame, into results with a `Segmentation`, whose things are tracks.

    A thing keeps its id by its slot, as the tracks of instances do, and a class of stuff is one segment. Merging
    decides which slots are seen, so of `parameters` only `max_age` and `confirm_frames` count. semantic: classes alone,
    without things. handover: False where the outputs' slots are identities already.
    """

    def __init__(
        self,
        letterbox: Letterbox,
        contract: GraphContract,
        parameters: TrackParameters | None = None,
        options: PanopticOptions | None = None,
        semantic: bool = False,
        handover: bool = True,
    ):
        self.letterbox, self.options, self.semantic = letterbox, options or PanopticOptions(), semantic
        self.class_names = contract.class_names
        self._threshold = self.options.threshold(contract.scoring)
        self._temperature = self.options.temperature if contract.scoring == "sigmoid" else 0.0
        self._stuff = range(len(self.class_names)) if semantic else contract.stuff_classes
        self._handover = Handover(contract) if handover else None
        seen = replace(parameters or TrackParameters(), birth_score=self._threshold, death_score=None)
        self.tracker = SlotTracker(seen)

    def reset(self) -> None:
        """Forget the stream's history: the next frame's things get new track ids."""
        if self._handover:
            self._handover.reset()
        self.tracker.reset()

    def memory(self) -> dict[str, Array]:
        """All that is known of the stream, as arrays by name, for `recall`."""
        return memory_of(self._parts)

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Know what `memory` told."""
        recall(self._parts, memory)

    @property
    def _parts(self) -> dict[str, Any]:
        return {"tracker": self.tracker} | ({"handover": self._handover} if self._handover else {})

    def assemble(self, outputs: FrameOutputs, index: int, time: float, reset: str | None = None) -> FrameResult:
        """outputs: of one stream, B = 1. reset: why the stream begins anew with this frame; its history is forgotten.

        L2GError when the model's scores are not finite.
        """
        if reset:
            self.reset()
        merged = self._semantic(outputs, index) if self.semantic else self._panoptic(outputs, index)
        tracked = self._track([region for region in merged.regions if region.label not in self._stuff])
        id_of = np.zeros(len(merged.regions) + 1, np.int32)
        segments = []
        for region in merged.regions:
            track = tracked.get(region.slot)
            if region.label in self._stuff:
                segment = Segment(region.label + 1, region.label, None, region.score, region.area)
            elif track is not None:
                number = len(self.class_names) + track.track_id
                segment = Segment(number, track.label, track.track_id, region.score, region.area)
            else:
                continue  # a thing that has not been seen for long enough
            id_of[region.number] = segment.id
            segments.append(segment)
        found = Segmentation(id_of[merged.numbers], tuple(sorted(segments, key=lambda segment: segment.id)))
        slots = {track.track_id: track for track in tracked.values()}
        tracks = [
            TrackedInstance(
                track.track_id, track.slot, track.label, track.score, track.frame_label, found.mask(segment)
            )
            for segment in found.segments
            if segment.track_id is not None and (track := slots[segment.track_id])
        ]
        tracks.sort(key=lambda track: -track.score)
        height, width = self.letterbox.source_height, self.letterbox.source_width
        return FrameResult(index, time, tuple(tracks), height, width, self.class_names, reset, found)

    def nothing(self, index: int, time: float, reset: str | None = None) -> FrameResult:
        """The result of a frame that the model has no answer to; the stream's history is forgotten."""
        self.reset()
        height, width = self.letterbox.source_height, self.letterbox.source_width
        found = Segmentation(np.full((height, width), VOID, np.int32), ())
        return FrameResult(index, time, (), height, width, self.class_names, reset, found)

    def _track(self, regions: list[Region]) -> dict[int, TrackedSlot]:
        """The tracks that are seen, by slot."""
        regions = sorted(regions, key=lambda region: -region.score)
        seen = self.tracker.update(
            [region.slot for region in regions],
            [region.score for region in regions],
            [region.label for region in regions],
        )
        return {track.slot: track for track in seen}

    def _panoptic(self, outputs: FrameOutputs, index: int) -> Merged:
        outputs = self._handover.link(outputs) if self._handover else outputs
        contenders = outputs.contenders(self._temperature)
        _check_finite(contenders.scores, index)
        return merge_panoptic(
            contenders,
            lambda row: self.letterbox.map_to_source(outputs.mask_logits_of(int(contenders.slots[row]))),
            (self.letterbox.source_height, self.letterbox.source_width),
            self._stuff,
            self._threshold,
            self.options,
        )

    def _semantic(self, outputs: FrameOutputs, index: int) -> Merged:
        assert isinstance(outputs, RawOutputs)  # `check_task` has refused the others
        probabilities = outputs.probabilities()[0]
        _check_finite(probabilities, index)
        box, maps = self.letterbox, outputs.mask_logits[0]
        return merge_semantic(
            sharpened(probabilities, self._temperature),
            lambda start, stop: np.stack([box.map_to_source(logits, start, stop) for logits in maps]),
            (box.source_height, box.source_width),
            self.options,
        )


def _check_finite(scores: np.ndarray, index: int) -> None:
    if not np.isfinite(scores).all():
        raise L2GError(
            f"frame {index}: the model's class scores hold NaN or infinity; "
            "check the checkpoint, and with an engine its precision"
        )
