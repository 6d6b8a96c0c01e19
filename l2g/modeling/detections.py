"""The best slots of a frame, chosen on the device, so that the host copies only their masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2g.modeling.family.protocol import Predictions


@dataclass(frozen=True)
class Selected:
    """scores float32, labels int32, slots int32: [B, M], best first. masks uint8 [B, M, h, w], probability x 255."""

    scores: Tensor
    labels: Tensor
    slots: Tensor
    masks: Tensor


def select_detections(output: Predictions, top_k: int, scoring: str = "sigmoid") -> Selected:
    """The `top_k` slots of the highest class probability, each with its best class. scoring: as in the contract."""
    ranked, probability = SCORINGS[scoring]
    best, labels = ranked(output.logits.float()).max(dim=-1)
    ranks, slots = best.topk(top_k, dim=1)
    rows = slots[:, :, None, None].expand(-1, -1, *output.mask_logits.shape[-2:])
    masks = output.mask_logits.gather(1, rows).float().sigmoid()
    return Selected(
        probability(ranks),
        labels.gather(1, slots).to(torch.int32),
        slots.to(torch.int32),
        (masks * 255 + 0.5).to(torch.uint8),
    )


# By the contract's scoring: what ranks slots and classes, [B, N, K] of logits, and the probabilities of chosen ranks.
SCORINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # Logits rank as probabilities do, and only those that are chosen need the function.
    "sigmoid": (lambda logits: logits, torch.sigmoid),
    "softmax": (lambda logits: logits.softmax(dim=-1)[..., :-1], lambda chosen: chosen),
}


def class_probabilities(logits: Tensor, scoring: str) -> Tensor:
    """float32 [..., K] of a model's logits, without "no object"."""
    ranked, probability = SCORINGS[scoring]
    return probability(ranked(logits.float()))
