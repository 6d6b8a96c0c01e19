"""AdamW with the parameter groups of the field, and learning-rate schedules as plain functions of the iteration."""

from __future__ import annotations

import math

import torch
from torch import nn

from l2g.training.config import PhaseConfig, TrainConfig

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


def build_optimiser(objective: nn.Module, config: TrainConfig, phase: PhaseConfig) -> torch.optim.AdamW:
    """Every parameter that wants a gradient, in groups by rate and decay.

    The backbone and the sampling offsets learn more slowly; norms, embeddings and biases, also those of a window's
    positions, are not decayed.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen = set()
    for module_name, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            factor = 1.0
            if "backbone" in module_name:
                factor = phase.backbone_lr
            elif "sampling_offsets" in module_name:
                factor = config.offset_lr
            plain = isinstance(module, (*_NORMS, nn.Embedding)) or "bias" in name or parameter.ndim < 2
            groups.setdefault((factor, 0.0 if plain else config.weight_decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": phase.lr * factor, "peak": phase.lr * factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        fused=True,
    )


def rate_factor(phase: PhaseConfig, iteration: int) -> float:
    """Share of the peak rate at an iteration (from 0) of a phase."""
    warm = min(1.0, (iteration + 1) / phase.warmup) if phase.warmup else 1.0
    if phase.schedule == "step":
        return warm * 0.1 ** sum(iteration >= milestone for milestone in phase.milestones)
    start = phase.hold * phase.iterations
    progress = min(max(0.0, (iteration - start) / max(1.0, phase.iterations - start)), 1.0)
    return warm * (phase.floor + (1 - phase.floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
