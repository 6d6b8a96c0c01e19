"""Ground truth as padded tensors: frames of a batch of clips, and the instances to find in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from l2g.data.dataset import Clip


def shares(masks: Tensor, height: int, width: int) -> Tensor:
    """Which share of each of height x width larger pixels is set: uint8 [..., H, W] of 0 and 1 -> float32."""
    h, w = masks.shape[-2:]
    factor = h // height
    if (h, w) != (factor * height, factor * width) or factor not in (1, 2, 4, 8):
        return F.adaptive_avg_pool2d(masks.float(), (height, width))
    # Counted in bytes, which are less to read than floats: a tenth of the time, and exact.
    while masks.shape[-2] > height:
        masks = masks[..., ::2, :] + masks[..., 1::2, :]
        masks = masks[..., ::2] + masks[..., 1::2]
    return masks.float().mul_(1 / factor**2)


@dataclass(frozen=True)
class FrameTargets:
    """The instances of one frame of B streams, padded to the same number I.

    labels: int64 [B, I]. boxes: float32 [B, I, 4] in 0..1. masks: uint8 [B, I, H, W]. present: bool [B, I], False for
    padding and for an instance that is hidden in this frame.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    present: Tensor
    _averaged: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def averaged(self, height: int, width: int) -> Tensor:
        """The masks as shares of larger pixels, float32 [B, I, height, width]; empty where not present. Kept."""
        if (height, width) not in self._averaged:
            self._averaged[height, width] = shares(self.masks * self.present[..., None, None], height, width)
        return self._averaged[height, width]

    def rows(self, index: Tensor | slice) -> FrameTargets:
        """The targets of some of the streams; what was averaged is not averaged again."""
        kept = {size: masks[index] for size, masks in self._averaged.items()}
        return FrameTargets(self.labels[index], self.boxes[index], self.masks[index], self.present[index], kept)

    def repeat(self, times: int) -> FrameTargets:
        """Every instance `times` over (the groups of denoising queries)."""
        return FrameTargets(
            self.labels.repeat(1, times),
            self.boxes.repeat(1, times, 1),
            self.masks.repeat(1, times, 1, 1),
            self.present.repeat(1, times),
        )


@dataclass(frozen=True)
class Batch:
    """B clips of T frames. frames: uint8 [B, T, H, W, 3]; labels int64 [B, I]; masks uint8 [B, I, T, H, W];
    boxes float32 [B, I, T, 4]; present bool [B, I, T]. start: which frame of its clip the first one is. left_out: what
    could not be read while these clips were drawn, in words."""

    frames: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor
    present: Tensor
    start: int = 0
    left_out: tuple[str, ...] = ()

    def targets(self, t: int) -> FrameTargets:
        return FrameTargets(self.labels, self.boxes[:, :, t], self.masks[:, :, t], self.present[:, :, t])

    def all_targets(self) -> FrameTargets:
        """The targets of all frames as B * T rows, those of the first frame before those of the second."""
        count = self.frames.shape[1]
        boxes, masks, present = (part.movedim(2, 0).flatten(0, 1) for part in (self.boxes, self.masks, self.present))
        return FrameTargets(self.labels.repeat(count, 1), boxes, masks, present)

    def to(self, device: torch.device) -> Batch:
        tensors = (self.frames, self.labels, self.boxes, self.masks, self.present)
        frames, labels, boxes, masks, present = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return Batch(frames, labels, boxes, masks, present, self.start, self.left_out)

    def window(self, start: int, length: int) -> Batch:
        """Frames start..start+length-1, with all of the clip's instances."""
        part = slice(start, start + length)
        boxes, masks, present = self.boxes[:, :, part], self.masks[:, :, part], self.present[:, :, part]
        return Batch(self.frames[:, part], self.labels, boxes, masks, present, self.start + start, self.left_out)


def collate(clips: Sequence[Clip]) -> Batch:
    """Clips of equal size and length -> one batch, instances padded to the largest count (at least one)."""
    count = max([1, *(len(clip.labels) for clip in clips)])
    frames = torch.stack([torch.from_numpy(clip.frames) for clip in clips])
    b, t, h, w, _ = frames.shape
    batch = Batch(
        frames,
        torch.zeros(b, count, dtype=torch.int64),
        torch.zeros(b, count, t, 4),
        torch.zeros(b, count, t, h, w, dtype=torch.uint8),
        torch.zeros(b, count, t, dtype=torch.bool),
    )
    for row, clip in enumerate(clips):
        n = len(clip.labels)
        batch.labels[row, :n] = torch.from_numpy(clip.labels)
        batch.boxes[row, :n] = torch.from_numpy(clip.boxes)
        batch.masks[row, :n] = torch.from_numpy(clip.masks).to(torch.uint8)
        batch.present[row, :n] = torch.from_numpy(clip.present)
    return batch
