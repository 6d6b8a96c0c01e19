"""What a phase minimises: the loss of a batch of images, or of clips through the state that the model carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import overload

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from l2g.modeling.encoder import Memory
from l2g.modeling.local2global import FrameOutput, FrameState, Local2Global
from l2g.modeling.proposals import LocalQueries
from l2g.training.loss.criterion import Criterion, total
from l2g.training.loss.denoising import denoising_queries
from l2g.training.loss.layers import Layers
from l2g.training.loss.matcher import assign, match_costs
from l2g.training.loss.targets import Batch, FrameTargets, shares


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
        local = model.proposals(memory, model.heads)
        states = model.refine(memory, local.queries, local.boxes, state, noised and noised[0])
        queries, references = torch.stack(states.queries), torch.stack(states.references)
        found = Layers.predict(model.heads, queries, references, memory.mask_features)
        extra = 0 if noised is None else noised[0].queries.shape[1]
        instances = count_instances(targets.present)
        chosen = Layers.predict(model.heads, local.features[None], local.anchors[None], memory.mask_features)
        terms = [
            self.criterion.matched(part, targets, instances) for part in (chosen, found.only(extra, queries.shape[2]))
        ]
        if noised:
            _, repeated, slots = noised
            groups = instances * (repeated.labels.shape[1] // targets.labels.shape[1])
            terms.append(self.criterion.loss(found.only(0, extra), repeated, slots, groups))
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
        model, criterion, streams = self.model, self.criterion, len(batch.frames)
        state, slots = self._carried if batch.start else (None, None)
        # Whatever knows no time is done for all frames at once, a loss too.
        memory = model.encode(batch.frames.transpose(0, 1).flatten(0, 1))
        local = model.proposals(memory, model.heads)
        path = self._roll(model.decoder.with_values(memory), local, state, streams)
        targets = batch.all_targets()
        slots = self._slots(path.outputs, targets, slots)
        chosen = self._frames_with_loss(batch.frames.shape[1])
        rows = torch.cat([torch.arange(t * streams, (t + 1) * streams, device=slots.device) for t in chosen])
        seen, features = targets.rows(rows), memory.mask_features[rows]
        instances = count_instances(seen.present)
        queries, references = (
            torch.stack([parts[t] for t in chosen], 1).flatten(1, 2) for parts in (path.queries, path.references)
        )
        layers = Layers.predict(model.heads, queries, references, features)
        terms = [*path.terms, criterion.loss(layers, seen, slots[rows], instances)]
        if self.two_stage:
            tokens = Layers.predict(model.heads, local.features[rows][None], local.anchors[rows][None], features)
            terms.append(criterion.matched(tokens, seen, instances))
        ends = slice(len(slots) - streams, None)
        gone = lost(path.outputs[-1].mask_logits, targets.rows(ends), slots[ends])
        self._carried = path.state.detach(), slots[ends].masked_fill(gone, -1)
        return total(terms)

    def carried(self) -> tuple[Tensor, ...] | None:
        """The state between two windows of a clip as tensors, for a resume file."""
        state, slots = self._carried
        if state is None or slots is None:
            return None
        return state.queries, state.boxes, state.valid, slots

    def carry(self, carried: tuple[Tensor, ...] | None, device: torch.device) -> None:
        """Go on from what `carried` gave."""
        if carried is not None:
            queries, boxes, valid, slots = (part.to(device) for part in carried)
            self._carried = FrameState(queries, boxes, valid), slots

    def _roll(self, memory: Memory, local: LocalQueries, state: FrameState | None, streams: int) -> _Path:
        """The state's way through the frames, with its twin's beside it. memory, local: of T * B frames."""
        model, twin = self.model, state
        path = _Path()
        frames = list(zip(memory.split(streams), local.queries.split(streams), local.boxes.split(streams), strict=True))
        for frame, queries, boxes in frames:
            features = frame.mask_features.detach()  # of masks that are matched, and become boxes
            start = noisy(state, self.state_noise)
            paired = False
            if self.consistency and start is not None and twin is not None:
                # The twin as further streams, which read the same memory.
                paired, start = True, start.beside(noisy(twin, self.state_noise))
                queries, boxes = torch.cat((queries, queries)), torch.cat((boxes, boxes))
                features = torch.cat((features, features))
            states = model.refine(frame, queries, boxes, start)
            output = model.predict(states.queries[-1], states.references[-1], features)
            state = model.next_state(states.queries[-1], output)
            twin = state
            if paired:
                state, twin = state.halves()
                path.terms.append({"twin": self.consistency / len(frames) * distance(twin, state)})
            path.queries.append(torch.stack([part[:streams] for part in states.queries]))
            path.references.append(torch.stack([part[:streams] for part in states.references]))
            path.outputs.append(
                FrameOutput(*(x[:streams].detach() for x in (output.logits, output.boxes, output.mask_logits)))
            )
        assert state is not None  # a window has a frame
        path.state = state
        return path

    def _slots(self, outputs: list[FrameOutput], targets: FrameTargets, slots: Tensor | None) -> Tensor:
        """Which slot answers for which instance: int64 [T * B, I]. slots: [B, I] of the frame before, if any."""
        every = FrameOutput(
            *(torch.cat([getattr(o, name) for o in outputs]) for name in ("logits", "boxes", "mask_logits"))
        )
        costs = match_costs(every, targets, self.criterion.config).cpu()
        present = targets.present.cpu()
        slots = None if slots is None else slots.cpu()
        found = []
        for part, due in zip(costs.chunk(len(outputs)), present.chunk(len(outputs)), strict=True):
            slots = assign(part, due, slots)
            found.append(slots)
        return torch.cat(found).to(targets.present.device)

    def _frames_with_loss(self, length: int) -> list[int]:
        if self.supervised is None or self.supervised >= length:
            return list(range(length))
        others = torch.randperm(length - 1)[: max(self.supervised, 2) - 1]
        return sorted([*others.tolist(), length - 1])


@dataclass
class _Path:
    """What came of T frames on the way. queries, references: per frame [L, B, N, C] and [L, B, N, 4]. outputs: per
    frame the last layer's, to be matched. terms: those of the loss that belong to the way. state: at its end."""

    queries: list[Tensor] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)
    outputs: list[FrameOutput] = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)
    state: FrameState = field(init=False)


@torch.no_grad()
def lost(mask_logits: Tensor, targets: FrameTargets, slots: Tensor) -> Tensor:
    """bool [B, I]: which instances' slots (int64 [B, I], -1 for none) do not hold them any more.

    mask_logits: float [B, N, h, w]. A slot holds an instance when their masks overlap with an IoU above 0.5. An
    instance in sight is lost when its slot does not hold it, one out of sight when its slot holds another one.
    """
    masks = (mask_logits > 0).flatten(2).float()
    height, width = mask_logits.shape[-2:]
    truth = (shares(targets.masks, height, width) > 0.5).flatten(2).float()
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


@overload
def noisy(state: FrameState, strength: float) -> FrameState: ...


@overload
def noisy(state: FrameState | None, strength: float) -> FrameState | None: ...


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
