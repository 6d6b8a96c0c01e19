"""How many identities priors would keep that are right: the box of a slot's object, or its local query, in the present
frame, in the place of what the slot brings from the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from ablation_insight import OWN, ious
from torch import Tensor

from l2g.data.dataset import AnnotatedVideo, Clip
from l2g.evaluation.run import ScoringOptions, VideoScorer
from l2g.modeling.local2global import FrameOutput, FrameState, Local2Global
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox

# What is right of a slot's prior: name -> (its box, its query).
PRIORS = {
    "nothing": (False, False),
    "the boxes": (True, False),
    "the queries": (False, True),
    "both": (True, True),
}


@dataclass
class _Held:
    """Of one video: the annotation, and which slot each object has had since it was first found, -1 for none."""

    clip: Clip
    slots: np.ndarray

    @classmethod
    def of(cls, video: AnnotatedVideo) -> _Held:
        clip = video.read(range(video.length))
        return cls(clip, np.full(len(clip.labels), -1))

    def find(self, masks: Tensor, t: int) -> None:
        """Give objects that have none the slot whose mask fits, as far as no other has it. masks: bool [N, h, w]."""
        truth = F.adaptive_avg_pool2d(torch.from_numpy(self.clip.masks[:, t]).float(), masks.shape[-2:]) > 0.5
        common = torch.einsum("ihw,nhw->in", truth.float(), masks.float())
        union = truth.sum((1, 2))[:, None] + masks.sum((1, 2))[None] - common
        fit, best = (common / union.clamp(min=1)).max(1)
        for number in np.flatnonzero(self.slots < 0):
            if fit[number] > OWN and int(best[number]) not in self.slots:
                self.slots[number] = int(best[number])

    def seen(self, t: int) -> list[tuple[int, np.ndarray]]:
        """(slot, box) of every object that has a slot and is in sight."""
        there = (self.slots >= 0) & self.clip.present[:, t]
        return [(int(self.slots[number]), self.clip.boxes[number, t]) for number in np.flatnonzero(there)]


@torch.inference_mode()
def results_with(
    model: Local2Global, videos: Sequence[AnnotatedVideo], categories: list[int], boxes: bool, queries: bool
) -> list[dict]:
    """YouTube-VIS results of videos of one length on the model's canvas, a slot an identity. boxes, queries: which of a
    slot's prior is that of its object in the present frame, as the annotation and the local queries have it."""
    held = [_Held.of(video) for video in videos]
    height, width = videos[0].height, videos[0].width
    scorers = [VideoScorer(Letterbox(height, width, height, width), ScoringOptions()) for _ in videos]
    state: FrameState | None = None
    for t in range(videos[0].length):
        memory = model.encode(torch.from_numpy(np.stack([one.clip.frames[t] for one in held])))
        if state is not None:
            state = _righted(model, model.proposals(memory, model.heads), state, held, t, boxes, queries)
        decoded = model.decode(memory, state)
        state = decoded.state
        for row, (one, scorer) in enumerate(zip(held, scorers, strict=True)):
            one.find(decoded.output.mask_logits[row] > 0, t)
            scorer.add(_outputs(decoded.output, state, row))
    return [
        entry for video, scorer in zip(videos, scorers, strict=True) for entry in scorer.results(video.id, categories)
    ]


def _righted(model, local, state: FrameState, held: Sequence[_Held], t: int, boxes: bool, queries: bool) -> FrameState:
    right = replace(state, queries=state.queries.clone(), boxes=state.boxes.clone())
    for row, one in enumerate(held):
        for slot, box in one.seen(t):
            truth = torch.from_numpy(box)
            if boxes:
                right.boxes[row, slot] = truth
            overlap, own = ious(truth[None, None], local.boxes[row][None])[0, 0].max(0)
            if queries and overlap > OWN:
                right.queries[row, slot] = local.queries[row, own]
    return right


def _outputs(output: FrameOutput, state: FrameState, row: int) -> RawOutputs:
    parts = (state.queries, output.boxes, output.logits, output.mask_logits)
    return RawOutputs(*(part[row : row + 1].numpy() for part in parts))
