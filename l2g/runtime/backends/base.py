"""The one interface that every inference library is driven through, and what comes back from a step.

A backend owns the recurrent state of its B streams and keeps it on its own device; the host sees frames go in and
results come out. Nothing here imports torch or an inference library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from l2g.contract import GraphContract


@dataclass(frozen=True)
class RawOutputs:
    """Everything the model says of one frame of B streams (N slots, K classes, masks at a quarter of the canvas).

    queries: float32 [B, N, C], the slots' embeddings after the decoder (also the next state).
    boxes: float32 [B, N, 4], (cx, cy, w, h) in 0..1 of the canvas (also the next state).
    logits: float32 [B, N, K], before the sigmoid.
    mask_logits: float32 [B, N, H/4, W/4], before the sigmoid; a pixel belongs to the mask where it is > 0.
    """

    queries: np.ndarray
    boxes: np.ndarray
    logits: np.ndarray
    mask_logits: np.ndarray


@dataclass(frozen=True)
class Detections:
    """The best M slots of one frame of B streams, best first, chosen on the device.

    scores: float32 [B, M], best class probability of the slot. labels: int32 [B, M], that class.
    slots: int32 [B, M], the slot's index. masks: uint8 [B, M, H/4, W/4], probability x 255.
    queries: float32 [B, N, C] of all N slots, as in RawOutputs.
    """

    scores: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    masks: np.ndarray
    queries: np.ndarray


@dataclass(frozen=True)
class HostState:
    """The state of B streams on the host: queries float32 [B, N, C], boxes float32 [B, N, 4], valid bool [B]."""

    queries: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray


class Backend(Protocol):
    """Drives one model, B streams at a time; B is set by the first `step` and may change through `write_state`."""

    contract: GraphContract

    def step(self, frames: np.ndarray, reset: np.ndarray) -> RawOutputs | Detections:
        """Advance every stream by one frame.

        frames: uint8 [B, H, W, 3] RGB on the network canvas. reset: bool [B], True where this is a stream's first frame
        or its history is to be forgotten. Which of the two results comes back is `contract.output_kind`. The arrays
        are the caller's to keep: a backend never writes to them again.
        """

    def read_state(self) -> HostState | None:
        """The state after the last step, copied to the host; None before the first step."""

    def write_state(self, state: HostState) -> None:
        """Replace the state: parity runs feed a reference's, a session re-arranges rows as streams come and go."""

    def close(self) -> None:
        """Free the device. A closed backend is not used again."""
