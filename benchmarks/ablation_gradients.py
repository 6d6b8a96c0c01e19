"""How much of the gradient comes to each part of the aligner, beside the same parts of the decoder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from l2g.modeling.local2global import Local2Global
from l2g.training.config import PhaseConfig, TrainConfig
from l2g.training.dataset import open_dataset
from l2g.training.loss.criterion import Criterion
from l2g.training.loss.objectives import ClipObjective
from l2g.training.source import Batches, iterate

# By names of parameters; of an attention the projections of queries and keys say where it looks, the others what it
# brings.
PARTS = ("self: where", "self: what", "cross: where", "cross: what", "feed-forward")
_LAYER = re.compile(r"(aligner|decoder)\.layers\.\d+\.(\w+)\.(.+)")


def gradients(model: Local2Global, config: TrainConfig, phase: PhaseConfig) -> dict[str, dict[str, float]]:
    """Module -> part -> root mean square of the gradient of one number, over the clips of `phase` and all layers.

    Nothing is learned: every batch finds the same weights. An aligner that the model has not is left out.
    """
    objective = ClipObjective(model.train().requires_grad_(True), Criterion(config.loss), phase.supervised)
    sums: dict[tuple[str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    batches = Batches(open_dataset(config.data), config.data, phase, (config.seed, 0))
    for number, batch in enumerate(iterate(batches, 0, phase.iterations, 0)):
        torch.manual_seed(number)
        model.zero_grad(set_to_none=True)
        torch.stack(list(objective(batch).values())).sum().backward()
        for place, gradient in _by_part(model):
            sums[place] += float(gradient.square().sum())
            counts[place] += gradient.numel()
    model.zero_grad(set_to_none=True)
    modules = [name for name in ("aligner", "decoder") if any(module == name for module, _ in sums)]
    return {m: {part: (sums[m, part] / counts[m, part]) ** 0.5 for part in PARTS} for m in modules}


def _by_part(model: Local2Global) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for name, parameter in model.named_parameters():
        found = _LAYER.fullmatch(name)
        if found is None or parameter.grad is None:
            continue
        module, block, rest = found.groups()
        if block.startswith("linear"):
            yield (module, "feed-forward"), parameter.grad
        elif block.endswith("attn"):
            kind = block.removesuffix("_attn")
            if rest.startswith("in_proj"):  # queries, keys and values, one after the other
                where, what = parameter.grad.split([2 * len(parameter) // 3, len(parameter) // 3])
                yield (module, f"{kind}: where"), where
                yield (module, f"{kind}: what"), what
            else:  # deformable attention says where by offsets and weights
                way = "where" if rest.startswith(("sampling_offsets", "attention_weights")) else "what"
                yield (module, f"{kind}: {way}"), parameter.grad
