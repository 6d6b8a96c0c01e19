"""Where a slot's query goes in a frame, and what the aligner looks at: of the slots that hold an object."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.data.synthetic.video import synthetic_video
from l2g.modeling.aligner import AlignerLayer
from l2g.modeling.local2global import Local2Global

HELD = 0.5  # a slot holds an object from this class probability on
OWN = 0.5  # a local query is an object's own from this IoU of boxes on
APART = 0.5  # global and local query differ much below this cosine


class Looks:
    """What every layer of the aligner attends to in the frame at hand: [layers, B, N, N], rows sum to 1."""

    def __init__(self, model: Local2Global):
        self._weights: list[Tensor] = []
        self._asked = False
        self._hooks = [
            layer.cross_attn.register_forward_hook(self._ask, with_kwargs=True)
            for layer in (model.aligner.layers if model.aligner is not None else ())
            if isinstance(layer, AlignerLayer)
        ]

    def take(self) -> Tensor | None:
        weights, self._weights = self._weights, []
        return torch.stack(weights) if weights else None

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _ask(self, attention: nn.Module, given: tuple, _keywords: dict, _result: Any) -> None:
        """The same attention once more, with its weights (the fused kernel has none)."""
        if not self._asked:
            self._asked = True
            self._weights.append(attention(*given, need_weights=True)[1])
            self._asked = False


@torch.inference_mode()
def insight(model: Local2Global, split: str = "crossing", videos: int = 8, frames: int = 120) -> dict[str, Any]:
    """Means over slots and frames.

    For slots that hold an object, and for all others: cosine of the prior query with the aligned one (what the decoder
    starts from), with the decoder's output, and of these two. For slots with an object that has a local query of its
    own in the frame (the one whose box overlaps most): cosine of prior and local query, share of pairs that differ
    much, and for each layer of the aligner its entropy (1: all alike) and the share that the own local query gets.
    """
    drawn = [synthetic_video(split, index, frames=frames).frames for index in range(videos)]
    sums: dict[str, list[np.ndarray]] = defaultdict(list)
    aligned: list[Tensor] = []
    starts = model.decoder.register_forward_pre_hook(lambda _, given: aligned.append(given[0]))
    looks = Looks(model)
    state = None
    try:
        for time in range(frames):
            pictures = torch.from_numpy(np.stack([video[time] for video in drawn]))
            decoded = model.decode(model.encode(pictures), state)
            start, weights = aligned.pop(), looks.take()
            if state is not None:
                _add(sums, decoded, state.queries, start, weights)
            state = decoded.state
    finally:
        starts.remove()
        looks.close()
    return {name: float(np.concatenate(values).mean()) for name, values in sums.items() if sum(map(len, values))}


def _add(sums, decoded, prior: Tensor, aligned: Tensor, weights: Tensor | None) -> None:
    after, local = decoded.state.queries, decoded.local
    held = decoded.output.logits.sigmoid().amax(-1) >= HELD
    ways = {
        "prior to aligned": (prior, aligned),
        "prior to output": (prior, after),
        "aligned to output": (aligned, after),
    }
    for name, (one, other) in ways.items():
        cosine = F.cosine_similarity(one, other, dim=-1)
        sums[f"{name}, held"].append(cosine[held].numpy())
        sums[f"{name}, free"].append(cosine[~held].numpy())
    overlap = ious(decoded.output.boxes, local.boxes)
    best, own = overlap.max(-1)
    there = held & (best >= OWN)
    sums["objects with a local query of their own"].append(there[held].float().numpy())
    mine = local.queries.gather(1, own[..., None].expand_as(local.queries))
    cosine = F.cosine_similarity(prior, mine, dim=-1)[there].numpy()
    sums["prior to own local query"].append(cosine)
    sums["differ much"].append((cosine < APART).astype(float))
    for number, layer in enumerate(() if weights is None else weights):
        entropy = -(layer * layer.clamp(min=1e-12).log()).sum(-1) / np.log(layer.shape[-1])
        sums[f"layer {number}: entropy"].append(entropy[there].numpy())
        sums[f"layer {number}: own local query"].append(layer.gather(2, own[..., None])[..., 0][there].numpy())


def ious(one: Tensor, other: Tensor) -> Tensor:
    """[B, N, 4] and [B, M, 4] (cx, cy, w, h) -> [B, N, M]."""
    low = torch.maximum((one[..., :2] - one[..., 2:] / 2)[:, :, None], (other[..., :2] - other[..., 2:] / 2)[:, None])
    high = torch.minimum((one[..., :2] + one[..., 2:] / 2)[:, :, None], (other[..., :2] + other[..., 2:] / 2)[:, None])
    common = (high - low).clamp(min=0).prod(-1)
    return common / (one[..., 2:].prod(-1)[:, :, None] + other[..., 2:].prod(-1)[:, None] - common).clamp(min=1e-9)
