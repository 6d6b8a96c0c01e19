"""One frame's loss: predictions of every layer against the slots that answer for the instances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2g.modeling.heads import Heads
from l2g.modeling.local2global import Decoded, FrameOutput
from l2g.training.config import LossConfig
from l2g.training.loss.matcher import assign, match_costs
from l2g.training.loss.points import mask_pairs
from l2g.training.loss.targets import FrameTargets
from l2g.training.loss.terms import dice, focal, generalised_iou, mask_bce


class Criterion:
    """Weighted sums of the five terms (Eq. 4), per layer, divided by the number of instances.

    config: the weights, and where mask terms look.
    """

    def __init__(self, config: LossConfig):
        self.config = config

    def match(self, prediction: FrameOutput, targets: FrameTargets, taken: Tensor | None = None) -> Tensor:
        """Slots int64 [B, I] for the present instances; those in `taken` keep theirs."""
        costs = match_costs(prediction, targets, self.config)
        return assign(costs, targets.present, taken)

    def matched(
        self, predictions: Sequence[FrameOutput], targets: FrameTargets, instances: Tensor
    ) -> dict[str, Tensor]:
        """The loss of several predictions of one frame, each with an assignment of its own."""
        return total(self.frame(p, targets, self.match(p, targets), instances) for p in predictions)

    def frame(
        self, prediction: FrameOutput, targets: FrameTargets, slots: Tensor, instances: Tensor
    ) -> dict[str, Tensor]:
        """The five weighted terms of one prediction.

        slots: int64 [B, I], -1 for none. An instance with a slot that is hidden now asks its slot for "no class" and an
        empty mask, lest the slot show some other instance meanwhile. instances: the divisor, a float tensor.
        """
        config = self.config
        hidden = ~targets.present & (slots >= 0)
        rows, columns = hidden.nonzero(as_tuple=True)
        silent, empty = mask_pairs(
            prediction.mask_logits[rows, slots[rows, columns]],
            torch.zeros_like(targets.masks[rows, columns]),
            config.num_points,
        )
        answered = targets.present & (slots >= 0)
        rows, columns = answered.nonzero(as_tuple=True)
        chosen = slots[rows, columns]
        classes = torch.zeros_like(prediction.logits, dtype=torch.float32)
        classes[rows, chosen, targets.labels[rows, columns]] = 1
        boxes, truth = prediction.boxes[rows, chosen].float(), targets.boxes[rows, columns]
        logits, masks = mask_pairs(
            prediction.mask_logits[rows, chosen], targets.masks[rows, columns], config.num_points
        )
        terms = {
            "label": config.label * focal(prediction.logits, classes).sum(),
            "mask": config.mask * (mask_bce(logits, masks).sum() + mask_bce(silent, empty).sum()),
            "dice": config.dice * dice(logits, masks).sum(),
            "box": config.box * (boxes - truth).abs().sum(),
            "giou": config.giou * (1 - generalised_iou(boxes, truth)).sum(),
        }
        return {name: value / instances for name, value in terms.items()}


def two_stage(decoded: Decoded, heads: Heads) -> FrameOutput:
    """What the chosen memory tokens predict by themselves, which is what teaches them to be chosen."""
    local = decoded.local
    return FrameOutput(local.logits, heads.boxes(local.features, local.anchors), local.mask_logits)


def total(terms) -> dict[str, Tensor]:
    """Sum of dicts of the five terms."""
    summed: dict[str, Tensor] = {}
    for part in terms:
        for name, value in part.items():
            summed[name] = summed[name] + value if name in summed else value
    return summed
