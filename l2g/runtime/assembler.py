"""From a stream's outputs, frame after frame, to its tracks in the source picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import ContractError, L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.identity.handover import Handover
from l2g.runtime.identity.tracks import SlotTracker, TrackParameters
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.picture.letterbox import RESIZES, Letterbox


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
        self.class_names = contract.class_names
        self.handover = Handover(contract)
        self.tracker = SlotTracker(parameters)
        self.top_k = top_k

    def reset(self) -> None:
        """Forget the stream's history: the next frame's objects get new track ids."""
        self.handover.reset()
        self.tracker.reset()

    def memory(self) -> dict[str, Array]:
        """All that is known of the stream, as arrays by name, for `recall`."""
        return memory_of({"handover": self.handover, "tracker": self.tracker})

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Know what `memory` told."""
        recall({"handover": self.handover, "tracker": self.tracker}, memory)

    def assemble(self, outputs: FrameOutputs, index: int, time: float, reset: str | None = None) -> FrameResult:
        """outputs: of one stream, B = 1. reset: why the stream begins anew with this frame; its history is forgotten.

        L2GError when the model's scores are not finite.
        """
        if reset:
            self.reset()
        outputs = self.handover.link(outputs)
        scores, labels, slots = outputs.best(self.top_k)
        if not np.isfinite(scores).all():
            raise L2GError(
                f"frame {index}: the model's class scores hold NaN or infinity; "
                "check the checkpoint, and with an engine its precision"
            )
        tracks = []
        for seen in self.tracker.update(slots.tolist(), scores.tolist(), labels.tolist()):
            mask = self.letterbox.mask_to_source(outputs.mask_logits_of(seen.slot))
            if mask.patch.size:
                tracks.append(TrackedInstance(seen.track_id, seen.slot, seen.label, seen.score, seen.frame_label, mask))
        height, width = self.letterbox.source_height, self.letterbox.source_width
        return FrameResult(index, time, tuple(tracks), height, width, self.class_names, reset)

    def nothing(self, index: int, time: float, reset: str | None = None) -> FrameResult:
        """The result of a frame that the model has no answer to; the stream's history is forgotten."""
        self.reset()
        height, width = self.letterbox.source_height, self.letterbox.source_width
        return FrameResult(index, time, (), height, width, self.class_names, reset)


def memory_of(parts: Mapping[str, Any]) -> dict[str, Array]:
    """What parts of an assembler know of the stream, as arrays by name."""
    return {f"{part}.{name}": array for part, known in parts.items() for name, array in known.memory().items()}


def recall(parts: Mapping[str, Any], memory: Mapping[str, Array]) -> None:
    """Let the parts know what `memory_of` told."""
    for part, knowing in parts.items():
        prefix = f"{part}."
        knowing.recall({name[len(prefix) :]: memory[name] for name in memory if name.startswith(prefix)})


def letterbox_of(
    contract: GraphContract, source_height: int, source_width: int, pixel_aspect: float = 1.0
) -> Letterbox:
    """How a source gets onto the contract's canvas; ContractError where that is not known."""
    if contract.resize not in RESIZES:
        known = ", ".join(RESIZES)
        raise ContractError(f"resize mode '{contract.resize}' found in the contract, one of {known} expected")
    return RESIZES[contract.resize](
        source_height, source_width, contract.height, contract.width, pixel_aspect, contract.mask_size
    )
