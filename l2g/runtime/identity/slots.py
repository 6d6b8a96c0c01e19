"""Slots that have no order of their own, linked by their embeddings: the recipe of MinVIS (NeurIPS 2022).

For contracts with association "embedding" (Mask DINO checkpoints), and for first frames of two implementations.
"""

from __future__ import annotations

import numpy as np

from l2g.errors import L2GError
from l2g.runtime.arrays import Array, FloatArray, IntArray
from l2g.runtime.identity.assignment import best_assignment
from l2g.runtime.outputs import FrameOutputs


def match_queries(previous: FloatArray, current: FloatArray) -> IntArray:
    """order int64 [N]: row `order[i]` of `current` continues row i of `previous`, both float32 [N, C].

    The one-to-one assignment of highest summed cosine similarity. Raises L2GError for embeddings that are not finite.
    """
    if not np.isfinite(current).all():
        raise L2GError(
            "the model's query embeddings hold NaN or infinity: slots cannot be linked; check the checkpoint"
        )
    similarity = unit_vectors(previous) @ unit_vectors(current).T
    order: IntArray = best_assignment(similarity)
    return order


def slot_order(reference: FrameOutputs, candidate: FrameOutputs) -> IntArray:
    """order int64 [N]: slot `order[i]` of the candidate's first frame is slot i of the reference's (B = 1).

    A first frame's slots are the best tokens in order of score: near-ties swap slots between two implementations that
    agree in everything else. The embeddings say which is which.
    """
    if not (np.isfinite(reference.queries).all() and np.isfinite(candidate.queries).all()):
        return np.arange(reference.queries.shape[1])
    return match_queries(reference.queries[0], candidate.queries[0])


class SlotLinker:
    """Gives one stream's slots lasting identities: slot i of each frame continues slot i of the frame before."""

    def __init__(self, previous: FloatArray | None = None) -> None:
        # The embeddings of the last frame, float32 [N, C], in the order of its slots.
        self.previous = previous

    def link(self, outputs: FrameOutputs) -> FrameOutputs:
        """The outputs of one frame (B = 1) with their slots permuted; the first frame's order is kept."""
        if self.previous is not None:
            outputs = outputs.permuted(match_queries(self.previous, outputs.queries[0]))
        self.previous = outputs.queries[0]
        return outputs

    def reset(self) -> None:
        """Forget the stream's history: the next frame keeps its own order."""
        self.previous = None


def unit_vectors(x: Array) -> Array:
    """float [N, C] -> of length 1 along the last axis; zeros stay zeros."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Array = x / np.maximum(norm, 1e-12)
    return unit
