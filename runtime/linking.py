"""Linking the slots of an image model from frame to frame by their embeddings: the recipe of MinVIS (NeurIPS 2022).

Only for contracts with association "embedding" (Mask DINO checkpoints). A Local2Global model carries its slots itself;
linking them again would undo that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from l2g.errors import L2GError
from l2g.runtime.backend import Detections, RawOutputs


def match_queries(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """order int64 [N]: row `order[i]` of `current` continues row i of `previous`, both float32 [N, C].

    The one-to-one assignment of highest summed cosine similarity. Raises L2GError for embeddings that are not finite.
    """
    if not np.isfinite(current).all():
        raise L2GError(
            "the model's query embeddings hold NaN or infinity: slots cannot be linked; check the checkpoint"
        )
    similarity = _unit(previous) @ _unit(current).T
    return linear_sum_assignment(similarity, maximize=True)[1]


def permute_slots(outputs: RawOutputs | Detections, order: np.ndarray) -> RawOutputs | Detections:
    """Rename the slots of one stream's outputs (B = 1): new slot i is old slot `order[i]`."""
    if isinstance(outputs, RawOutputs):
        return RawOutputs(
            queries=outputs.queries[:, order],
            boxes=outputs.boxes[:, order],
            logits=outputs.logits[:, order],
            mask_logits=outputs.mask_logits[:, order],
        )
    new_slot = np.empty_like(order)
    new_slot[order] = np.arange(len(order))
    return replace(outputs, slots=new_slot[outputs.slots].astype(np.int32), queries=outputs.queries[:, order])


class SlotLinker:
    """Gives one stream's slots lasting identities: slot i of each frame continues slot i of the frame before."""

    def __init__(self):
        self._previous: np.ndarray | None = None

    def link(self, outputs: RawOutputs | Detections) -> RawOutputs | Detections:
        """The outputs of one frame (B = 1) with their slots permuted; the first frame's order is kept."""
        if self._previous is not None:
            outputs = permute_slots(outputs, match_queries(self._previous, outputs.queries[0]))
        self._previous = outputs.queries[0]
        return outputs

    def reset(self) -> None:
        """Forget the stream's history: the next frame keeps its own order."""
        self._previous = None


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(norm, 1e-12)
