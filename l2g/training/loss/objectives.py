"""What a phase minimises: the loss of a batch of images, or of clips through the state that the model carries."""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.modeling.local2global import FrameState, Local2Global
from l2g.training.loss.criterion import Criterion, total, two_stage
from l2g.training.loss.denoising import denoising_queries
from l2g.training.loss.targets import Batch, FrameTargets


class ImageObjective(nn.Module):
    """Phase 0, and phase 1 with `stand_ins`: every frame of the batch is an image of its own.

    denoising: about how many denoising queries (0: none). noise: their strength.
    stand_ins: take the place of the global queries, so that the aligner learns before there is any video.
    """

    def __init__(
        self,
        model: Local2Global,
        criterion: Criterion,
        denoising: int = 0,
        noise: float = 0.4,
        stand_ins: StandIns | None = None,
    ):
        super().__init__()
        self.model, self.criterion, self.stand_ins = model, criterion, stand_ins
        self.denoising, self.noise = denoising, noise

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model = self.model
        targets = batch.targets(0)
        memory = model.encode(batch.frames[:, 0])
        state = self.stand_ins(len(batch.frames)) if self.stand_ins is not None else None
        noised = None
        if self.denoising:
            count = model.config.num_queries
            noised = denoising_queries(targets, model.label_embed, count, self.denoising, self.noise)
        decoded = model.decode(memory, state, noised and noised[0], deep=True)
        instances = count_instances(targets.present)
        terms = [self.criterion.matched((two_stage(decoded, model.heads), *decoded.layers), targets, instances)]
        if noised:
            _, repeated, slots = noised
            groups = instances * (repeated.labels.shape[1] // targets.labels.shape[1])
            terms += [self.criterion.frame(p, repeated, slots, groups) for p in decoded.denoised]
        return total(terms)


class StandIns(nn.Module):
    """Learned global queries and boxes, for as long as phase 1 has no past to take them from."""

    def __init__(self, num_queries: int, hidden_dim: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, hidden_dim))
        self.boxes = nn.Parameter(torch.randn(num_queries, 4))

    def forward(self, streams: int) -> FrameState:
        valid = torch.ones(streams, 1, device=self.queries.device)
        return FrameState(self.queries.expand(streams, -1, -1), self.boxes.sigmoid().expand(streams, -1, -1), valid)


class ClipObjective(nn.Module):
    """Phase 2: the state runs through the clip, and an instance keeps the slot that it was matched to when it appeared.

    supervised: how many of the clip's frames have a loss, drawn anew for each batch, the last always among them (the
    paper's reduced supervision keeps at least two); None: all. two_stage: whether the local queries stay supervised.
    A batch that does not start at its clips' first frame goes on from where the last one ended: the state is kept
    between calls, gradients are not (truncated back-propagation through time), so that a clip can be long enough for a
    state as old as a long video's. An instance keeps its slot from window to window as long as the slot's mask lies on
    it, however well another slot might fit by then: so the slot that was there first learns to stay, and others to keep
    away. One that lost its slot is matched anew, since that slot could only learn to jump. Those out of sight keep
    theirs and have to come back.
    state_noise: every frame starts from a state with so much noise, relative to its size: the model learns to forget
    small errors instead of adding them up, which is what lets two backends agree over a long video.
    consistency: weight of a further term: a twin of the state, equal to it where the batch starts, goes through the
    same frames with noise of its own, and every slot's query is to be the same in both (`distance`). The other terms
    leave the slots without an instance free to do anything, and there small errors grow.
    """

    def __init__(
        self,
        model: Local2Global,
        criterion: Criterion,
        supervised: int | None = None,
        two_stage: bool = True,
        state_noise: float = 0.0,
        consistency: float = 0.0,
    ):
        super().__init__()
        self.model, self.criterion = model, criterion
        self.supervised, self.two_stage = supervised, two_stage
        self.state_noise, self.consistency = state_noise, consistency
        self._carried: tuple[FrameState | None, Tensor | None] = None, None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model, length = self.model, batch.frames.shape[1]
        state, slots = self._carried if batch.start else (None, None)
        memory = model.encode(batch.frames.transpose(0, 1).flatten(0, 1))
        streams = len(batch.frames)
        chosen = self._frames_with_loss(length)
        instances = count_instances(torch.cat([batch.present[:, :, t] for t in sorted(chosen)]))
        terms, twin = [], state
        for t in range(length):
            targets = batch.targets(t)
            frame = memory.rows(slice(t * streams, (t + 1) * streams))
            decoded = model.decode(frame, noisy(state, self.state_noise), deep=t in chosen)
            if self.consistency and state is not None:
                twin = model.decode(frame, noisy(twin, self.state_noise)).state
                terms.append({"twin": self.consistency / length * distance(twin, decoded.state)})
            else:
                twin = decoded.state
            state = decoded.state
            slots = self.criterion.match(decoded.output, targets, slots)
            if t not in chosen:
                continue
            terms += [self.criterion.frame(p, targets, slots, instances) for p in decoded.layers]
            if self.two_stage:
                terms.append(self.criterion.matched((two_stage(decoded, model.heads),), targets, instances))
        assert state is not None  # a window has a frame
        assert slots is not None
        self._carried = state.detach(), slots.masked_fill(lost(decoded.output.mask_logits, targets, slots), -1)
        return total(terms)

    def _frames_with_loss(self, length: int) -> set[int]:
        if self.supervised is None or self.supervised >= length:
            return set(range(length))
        others = torch.randperm(length - 1)[: max(self.supervised, 2) - 1]
        return {length - 1, *others.tolist()}


@torch.no_grad()
def lost(mask_logits: Tensor, targets: FrameTargets, slots: Tensor) -> Tensor:
    """bool [B, I]: which instances' slots (int64 [B, I], -1 for none) do not hold them any more.

    mask_logits: float [B, N, h, w]. A slot holds an instance when their masks overlap with an IoU above 0.5. An
    instance in sight is lost when its slot does not hold it, one out of sight when its slot holds another one.
    """
    masks = (mask_logits > 0).flatten(2).float()
    height, width = mask_logits.shape[-2:]
    truth = (F.adaptive_avg_pool2d(targets.masks.float(), (height, width)) > 0.5).flatten(2).float()
    common = truth @ masks.transpose(1, 2)
    union = truth.sum(2)[:, :, None] + masks.sum(2)[:, None] - common
    held = common > 0.5 * union  # [B, I, N]
    mine = slots.clamp(min=0)
    holds = held.gather(2, mine[:, :, None])[:, :, 0]
    taken = held.any(1).gather(1, mine)
    return torch.where(targets.present, ~holds, taken)


def distance(one: FrameState, other: FrameState) -> Tensor:
    """How far the queries of two states are apart: the root mean square of each slot's difference, relative to that of
    all queries, as a mean over the slots."""
    difference = (one.queries - other.queries).square().mean(-1).add(1e-12).sqrt()
    return difference.mean() / one.queries.detach().square().mean().sqrt()


def noisy(state: FrameState | None, strength: float) -> FrameState | None:
    """The state with Gaussian noise: queries by `strength` of their root mean square, centres of boxes by `strength` of
    the box's sides, sides by that factor. No state, or no strength: as it is."""
    if state is None or not strength:
        return state
    queries, boxes = state.queries, state.boxes
    scale = queries.detach().square().mean((1, 2), keepdim=True).sqrt()
    queries = queries + strength * scale * torch.randn_like(queries)
    centres, sides = boxes.split(2, -1)
    shift, growth = strength * torch.randn_like(centres), strength * torch.randn_like(sides)
    boxes = torch.cat([centres + shift * sides, sides * growth.exp()], -1).clamp(0, 1)
    return FrameState(queries, boxes, state.valid)


def count_instances(present: Tensor) -> Tensor:
    """How many instances the loss is divided by: the mean over the processes, at least one."""
    number = present.sum().float()
    if distributed.is_initialized():
        distributed.all_reduce(number)
        number = number / distributed.get_world_size()
    return number.clamp(min=1)


def phase_one_parameters(model: Local2Global) -> list[nn.Parameter]:
    """What phase 1 trains: the aligner and the dynamic positions (the decoder's own MLP, which it shares)."""
    if model.aligner is None:
        return []
    return [*model.aligner.parameters(), *model.decoder.ref_point_head.parameters()]


__all__ = [
    "ClipObjective",
    "FrameTargets",
    "ImageObjective",
    "StandIns",
    "count_instances",
    "lost",
    "noisy",
    "phase_one_parameters",
]
