"""Which slot answers for which instance: the Hungarian assignment, per frame or once in an instance's life."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from l2g.modeling.local2global import FrameOutput
from l2g.training.config import LossConfig
from l2g.training.loss.points import sample
from l2g.training.loss.targets import FrameTargets
from l2g.training.loss.terms import ALPHA, GAMMA, generalised_iou


@torch.no_grad()
def match_costs(prediction: FrameOutput, targets: FrameTargets, loss: LossConfig) -> Tensor:
    """Cost of every slot for every instance: float32 [B, N, I] on the predictions' device.

    The weights of a match are those of the loss (Mask DINO). Masks are compared at `loss.num_points` random places, the
    same for all slots of an image (0: at every stride-4 pixel).
    """
    b, n, _ = prediction.logits.shape
    count = targets.labels.shape[1]
    probability = prediction.logits.float().sigmoid()
    positive = ALPHA * (1 - probability) ** GAMMA * -(probability + 1e-8).log()
    negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + 1e-8).log()
    label = (positive - negative).gather(2, targets.labels[:, None].expand(-1, n, -1))
    boxes, truth = prediction.boxes.float()[:, :, None], targets.boxes[:, None]
    box = (boxes - truth).abs().sum(-1)
    giou = -generalised_iou(boxes, truth)
    if loss.num_points:
        points = torch.rand(b, 1, loss.num_points, 2, device=truth.device)
        logits = sample(prediction.mask_logits.float().flatten(0, 1), points.expand(-1, n, -1, -1).flatten(0, 1))
        masks = sample(targets.masks.float().flatten(0, 1), points.expand(-1, count, -1, -1).flatten(0, 1))
    else:
        logits = prediction.mask_logits.float().flatten(0, 1).flatten(1)
        height, width = prediction.mask_logits.shape[-2:]
        masks = targets.averaged(height, width)
    logits = logits.view(b, n, -1)
    masks = masks.reshape(b, count, -1).transpose(1, 2)
    mask = (F.softplus(logits).sum(-1, keepdim=True) - logits @ masks) / logits.shape[-1]
    inside = logits.sigmoid()
    overlap = 2 * (inside @ masks) + 1
    dice = 1 - overlap / (inside.sum(-1, keepdim=True) + masks.sum(1, keepdim=True) + 1)
    cost = loss.label * label + loss.mask * mask + loss.dice * dice + loss.box * box + loss.giou * giou
    # A diverging model still gets an assignment, and its loss says what happened.
    return cost.nan_to_num(1e6, 1e6, -1e6)


def assign(costs: Tensor, wanted: Tensor, taken: Tensor | None = None) -> Tensor:
    """The cheapest one-to-one assignment: costs [B, N, I], wanted bool [B, I] -> slots int64 [B, I], -1 where none.

    taken: int64 [B, I] of slots that already answer for an instance (or -1); they are kept and never given again.
    """
    slots = torch.full(wanted.shape, -1, dtype=torch.int64) if taken is None else taken.cpu().clone()
    host, due = costs.cpu().numpy(), wanted.cpu().numpy()
    for row in range(len(host)):
        columns = [i for i in range(due.shape[1]) if due[row, i] and slots[row, i] < 0]
        if not columns:
            continue
        used = set(slots[row].tolist())
        free = [slot for slot in range(host.shape[1]) if slot not in used]
        chosen, found = linear_sum_assignment(host[row][free][:, columns])
        for slot, column in zip(chosen, found, strict=True):
            slots[row, columns[column]] = free[slot]
    return slots.to(costs.device)
