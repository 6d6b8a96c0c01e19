"""A backend that needs no network: it segments blobs by colour, and its answers depend on the state it carries."""

from __future__ import annotations

import cv2
import numpy as np

from l2g.contract import make_contract
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.postprocess import select_detections

COLORS = np.array([(230, 30, 30), (30, 200, 40), (40, 60, 230)], dtype=np.float32)
BACKGROUND = (120, 120, 120)
CLASS_NAMES = ("red", "green", "blue")
SLOTS, WIDTH = 6, 8


class BlobBackend:
    """Slot k sees what has colour k; the other slots see nothing.

    The queries are a running mean of what each slot has seen, so a stream's outputs tell its whole history.
    association "embedding": the slots come in a different order every frame and no state counts.
    """

    def __init__(self, canvas=(64, 96), association="propagate", top_k=None):
        self.contract = make_contract(
            height=canvas[0],
            width=canvas[1],
            num_queries=SLOTS,
            hidden_dim=WIDTH,
            class_names=CLASS_NAMES,
            association=association,
            top_k=top_k,
        )
        self.top_k = top_k
        self.state: HostState | None = None
        self.steps = self.transfers = 0
        self.closed = False

    def step(self, frames, reset):
        self.contract.input("frames").check(frames)
        streams = len(frames)
        if self.state is None:
            assert all(reset), "the first step of a backend can only hold first frames"
            self.state = self._empty(streams)
        assert len(self.state.valid) == streams == len(reset)
        valid, held = self.state.valid & ~np.asarray(reset), self.state.tensors
        seen = np.stack([_mask_logits(frame) for frame in frames])
        area = (seen > 0).mean(axis=(2, 3))
        queries = np.zeros((streams, SLOTS, WIDTH), dtype=np.float32)
        queries[:, :, :SLOTS] = np.eye(SLOTS, dtype=np.float32)
        queries[:, :, SLOTS] = area
        queries[:, :, SLOTS + 1] = np.where(valid[:, None], 0.5 * held["prior_queries"][:, :, SLOTS + 1] + area, area)
        logits = np.full((streams, SLOTS, len(COLORS)), -6.0, dtype=np.float32)
        for slot in range(len(COLORS)):
            logits[:, slot, slot] = np.where(area[:, slot] > 0, 2.0 + queries[:, slot, SLOTS + 1], -4.0)
        boxes = np.where(valid[:, None, None], held["prior_boxes"] * 0.5 + 0.1, 0.3).astype(np.float32)
        boxes = np.broadcast_to(boxes, (streams, SLOTS, 4)).copy()
        self.state = HostState({"prior_queries": queries, "prior_boxes": boxes}, np.ones(streams, bool))
        raw = RawOutputs(queries.copy(), boxes.copy(), logits, seen)
        if self.contract.association == "embedding":
            order = np.random.default_rng(self.steps).permutation(SLOTS)
            raw = RawOutputs(queries[:, order], boxes[:, order], logits[:, order], seen[:, order])
        self.steps += 1
        return raw if self.top_k is None else select_detections(raw, self.top_k)

    def read_state(self):
        if self.state is None:
            return None
        self.transfers += 1
        return self.state.copy()

    def write_state(self, state):
        self.state = state.copy()

    def close(self):
        self.closed = True

    def _empty(self, streams):
        # What an invalid row holds must never show.
        return HostState.empty(self.contract, streams).changed(lambda tensor: np.full_like(tensor, np.nan))


def _mask_logits(frame):
    height, width = frame.shape[:2]
    small = cv2.resize(frame.astype(np.float32), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    logits = np.full((SLOTS, height // 4, width // 4), -10.0, dtype=np.float32)
    for slot, color in enumerate(COLORS):
        # 0 where a pixel is half object, half background: the edge of the mask is the edge of the blob.
        logits[slot] = (np.linalg.norm(small - BACKGROUND, axis=2) - np.linalg.norm(small - color, axis=2)) / 12
    return logits


def scene(height, width, blobs, background=BACKGROUND):
    """uint8 [height, width, 3] with filled rectangles [(color index, (x1, y1, x2, y2)), ...], exclusive ends."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[...] = background
    for color, (x1, y1, x2, y2) in blobs:
        image[y1:y2, x1:x2] = COLORS[color]
    return image
