"""The loss of frames: predictions of every layer against the slots that answer for the instances."""

from __future__ import annotations

import torch
from torch import Tensor

from l2g.modeling.local2global import FrameOutput
from l2g.training.config import LossConfig
from l2g.training.loss.dense import dense_mask_losses
from l2g.training.loss.layers import Layers
from l2g.training.loss.matcher import assign, match_costs
from l2g.training.loss.points import point_mask_losses
from l2g.training.loss.targets import FrameTargets
from l2g.training.loss.terms import focal, generalised_iou


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

    def matched(self, layers: Layers, targets: FrameTargets, instances: Tensor) -> dict[str, Tensor]:
        """The loss of layers that each have an assignment of their own in every frame."""
        found = [self.match(layers.output(index), targets) for index in range(len(layers.logits))]
        return self.loss(layers, targets, torch.stack(found), instances)

    def loss(self, layers: Layers, targets: FrameTargets, slots: Tensor, instances: Tensor) -> dict[str, Tensor]:
        """The five weighted terms, summed over layers and frames.

        targets: of the F frames, B = F. slots: int64 [L, F, I], or [F, I] for all layers, -1 for none. An instance with
        a slot that is hidden now asks its slot for "no class" and an empty mask, lest the slot show some other instance
        meanwhile. instances: the divisor, a float tensor.
        """
        config = self.config
        slots = slots.expand(len(layers.logits), *targets.present.shape)
        layer, frame, column = (slots >= 0).nonzero(as_tuple=True)
        chosen, present = slots[layer, frame, column], targets.present[frame, column]
        classes = torch.zeros_like(layers.logits, dtype=torch.float32)
        classes[layer, frame, chosen, targets.labels[frame, column]] = present.float()
        boxes = layers.boxes[layer, frame, chosen][present].float()
        truth = targets.boxes[frame, column][present]
        masks, which = layers.masks(slots)[layer, frame, column], (frame, column)
        if config.num_points:
            bce, smoothed = point_mask_losses(masks, targets, which, config.num_points)
        else:
            bce, smoothed = dense_mask_losses(masks, targets, which)
        terms = {
            "label": config.label * focal(layers.logits, classes).sum(),
            "mask": config.mask * bce.sum(),
            "dice": config.dice * smoothed[present].sum(),
            "box": config.box * (boxes - truth).abs().sum(),
            "giou": config.giou * (1 - generalised_iou(boxes, truth)).sum(),
        }
        return {name: value / instances for name, value in terms.items()}


def total(terms) -> dict[str, Tensor]:
    """Sum of dicts of the five terms."""
    summed: dict[str, Tensor] = {}
    for part in terms:
        for name, value in part.items():
            summed[name] = summed[name] + value if name in summed else value
    return summed
