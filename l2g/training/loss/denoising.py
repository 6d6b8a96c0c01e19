"""Query denoising (DN-DETR, Li et al. 2022, as in Mask DINO): noised ground truth beside the slots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l2g.modeling.local2global import Denoising
from l2g.training.loss.targets import FrameTargets


def denoising_queries(
    targets: FrameTargets, label_embed: nn.Embedding, num_slots: int, num_queries: int, noise: float
) -> tuple[Denoising, FrameTargets, Tensor] | None:
    """Groups of noised copies of the instances; None where the frame has none.

    num_queries: about how many in all (100 in Mask DINO). noise: 0.4 there; half of it is the chance of a wrong label,
    all of it the largest shift of a box in its own sizes.

    Returns the queries, the targets repeated per group, and the slots (one per query) that answer for them, -1
    where there is none.
    """
    b, count = targets.labels.shape
    if not targets.present.any():
        return None
    groups = max(1, num_queries // count)
    repeated = targets.repeat(groups)
    device = targets.labels.device
    flipped = torch.rand(repeated.labels.shape, device=device) < noise * 0.5
    random = torch.randint_like(repeated.labels, label_embed.num_embeddings)
    labels = torch.where(flipped, random, repeated.labels)
    scale = torch.cat((repeated.boxes[..., 2:] / 2, repeated.boxes[..., 2:]), dim=-1)
    boxes = (repeated.boxes + (torch.rand_like(repeated.boxes) * 2 - 1) * scale * noise).clamp(0, 1)
    extra = count * groups
    group = torch.arange(extra, device=device) // count
    mask = torch.zeros(extra + num_slots, extra + num_slots, dtype=torch.bool, device=device)
    mask[extra:, :extra] = True
    mask[:extra, :extra] = group[:, None] != group[None]
    # Rows that another frame of the batch needs for its instances are asked for no class here, and for no mask.
    slots = torch.arange(extra, device=device).expand(b, -1).masked_fill(~repeated.present, -1)
    return Denoising(label_embed(labels), boxes, mask), repeated, slots
