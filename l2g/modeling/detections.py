"""The best slots of a frame, chosen on the device, so that the host copies only their masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2g.contract import TEMPERATURE
from l2g.modeling.family.protocol import Predictions


@dataclass(frozen=True)
class Selected:
    """scores float32, labels int32, slots int32: [B, M], best first. masks uint8 [B, M, h, w], probability x 255.

    weights: float32 [B, M], the scores as Mask DINO sharpens them before slots compete for pixels; None where not asked
    for.
    """

    scores: Tensor
    labels: Tensor
    slots: Tensor
    masks: Tensor
    weights: Tensor | None = None


def select_detections(output: Predictions, top_k: int, scoring: str = "sigmoid", weighted: bool = False) -> Selected:
    """The `top_k` slots of the highest class probability, each with its best class. scoring: as in the contract.
    weighted: with weights, as a model that knows stuff has them."""
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
        _weights(output.logits, slots, scoring) if weighted else None,
    )


def _weights(logits: Tensor, slots: Tensor, scoring: str) -> Tensor:
    chosen = logits.gather(1, slots[:, :, None].expand(-1, -1, logits.shape[-1]))
    return sharp_weights(class_probabilities(chosen, scoring), scoring)


def sharp_weights(probabilities: Tensor, scoring: str) -> Tensor:
    """float32 [..., K] class probabilities -> [...], with what slots compete for pixels."""
    if scoring == "sigmoid":  # a softmax is sharp enough
        probabilities = (probabilities / TEMPERATURE).softmax(dim=-1)
    return probabilities.amax(dim=-1)


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
