"""One frame's results in the source picture: the tracks seen in it, with their masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import ContractError, L2GError
from l2g.runtime.backends.base import Detections, RawOutputs
from l2g.runtime.identity.handover import Handover
from l2g.runtime.identity.tracks import SlotTracker, TrackParameters
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.picture.postprocess import probability_logits, sigmoid


@dataclass(frozen=True)
class TrackedInstance:
    """One track in one frame.

    label: the track's class so far, an index of the contract's class names. score: this frame's class probability of
    `frame_label`, the best class of this frame alone. mask: never empty.
    """

    track_id: int
    slot: int
    label: int
    score: float
    frame_label: int
    mask: InstanceMask

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) around the mask in source pixels."""
        return self.mask.box

    @cached_property
    def rle(self) -> dict:
        """The mask as compressed RLE, coded once however many sinks write it."""
        return self.mask.rle()


@dataclass(frozen=True)
class FrameResult:
    """What was found in one frame. index: of the source frame, from 0. time: seconds from the first frame."""

    index: int
    time: float
    instances: tuple[TrackedInstance, ...]


class FrameAssembler:
    """Turns one stream's outputs, frame after frame, into results in source pixels.

    top_k: at most this many slots of a frame are looked at, best score first.
    """

    def __init__(
        self,
        letterbox: Letterbox,
        contract: GraphContract,
        parameters: TrackParameters | None = None,
        top_k: int = 50,
    ):
        if top_k < 1:
            raise L2GError(f"top-k {top_k} found, at least 1 expected")
        self.letterbox = letterbox
        self.handover = Handover(contract)
        self.tracker = SlotTracker(parameters)
        self.top_k = top_k

    def assemble(self, outputs: RawOutputs | Detections, index: int, time: float) -> FrameResult:
        """outputs: of one stream, B = 1. L2GError when the model's scores are not finite."""
        outputs = self.handover.link(outputs)
        scores, labels, slots = _best_slots(outputs, self.top_k)
        if not np.isfinite(scores).all():
            raise L2GError(
                f"frame {index}: the model's class scores hold NaN or infinity; "
                "check the checkpoint, and with an engine its precision"
            )
        instances = []
        for seen in self.tracker.update(slots, scores, labels):
            mask = self.letterbox.mask_to_source(_mask_logits(outputs, seen.rank, seen.slot))
            if mask.patch.size:
                instances.append(
                    TrackedInstance(seen.track_id, seen.slot, seen.label, seen.score, seen.frame_label, mask)
                )
        return FrameResult(index, time, tuple(instances))


def letterbox_of(
    contract: GraphContract, source_height: int, source_width: int, pixel_aspect: float = 1.0
) -> Letterbox:
    """The letterbox of a source onto the contract's canvas; ContractError when the contract asks for another resize."""
    if contract.resize != "letterbox":
        raise ContractError(f"resize mode '{contract.resize}' found in the contract, 'letterbox' expected")
    return Letterbox(source_height, source_width, contract.height, contract.width, pixel_aspect)


def _best_slots(outputs: RawOutputs | Detections, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, labels, slots) of the best slots, [M] each, best first."""
    if isinstance(outputs, Detections):
        return outputs.scores[0, :top_k], outputs.labels[0, :top_k], outputs.slots[0, :top_k]
    best = outputs.logits[0].max(axis=1)
    slots = np.argsort(-best, kind="stable")[:top_k]
    return sigmoid(best[slots]), outputs.logits[0].argmax(axis=1)[slots], slots


def _mask_logits(outputs: RawOutputs | Detections, rank: int, slot: int) -> np.ndarray:
    if isinstance(outputs, Detections):
        return probability_logits(outputs.masks[0, rank])
    return outputs.mask_logits[0, slot]
