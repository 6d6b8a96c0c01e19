"""What the numbers of a training run may be: a wrong one is refused before the run, not met in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from l2g.errors import ConfigError

if TYPE_CHECKING:
    from l2g.training.config import TrainConfig

Ranges = Mapping[str, tuple[float, float]]

# (least, most) by field; each may be reached. Rates above 1 and clips of thousands of frames are slips of the hand.
_RUN = {
    "seed": (0, 2**63 - 1),
    "weight_decay": (0, 10),
    "offset_lr": (0, 1000),
    "clip_norm": (1e-12, 1e9),
    "ema": (0, 1),
    "save_every": (1, 10**9),
    "log_every": (1, 10**9),
}
_PHASE = {
    "iterations": (0, 10**9),  # 0: the phase is left out
    "batch_size": (1, 65536),
    "lr": (0, 10),
    "backbone_lr": (0, 1000),
    "warmup": (0, 10**9),
    "hold": (0, 1),
    "floor": (0, 1),
    "clip_length": (1, 10000),
    "state_noise": (0, 1000),
    "consistency": (0, 1e6),
    "denoising": (0, 10000),
    "noise": (0, 10),
}
_DATA = {"reverse": (0, 1), "workers": (0, 256), "held_out": (0, 0.9)}
_AUGMENT = {
    "crop": (0, 1),
    "flip": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 360),
}
_EVALUATION = {"every": (0, 10**9), "videos": (1, 10**9), "patience": (0, 10**9), "pictures": (0, 64)}
_LOSS = dict.fromkeys(("label", "mask", "dice", "box", "giou"), (0, 1000000.0)) | {"num_points": (0, 10**7)}
# Of either side of the canvas: beyond it one picture fills a GPU.
_MOST_CANVAS = 8192


def check_ranges(config: TrainConfig) -> None:
    """ConfigError, which names the field, for a number that no run can have; NaN and infinity are none."""
    _check(config, "", _RUN)
    _check(config.data, "data.", _DATA)
    _check(config.data.augment, "data.augment.", _AUGMENT)
    _check(config.loss, "loss.", _LOSS)
    _check(config.evaluation, "evaluation.", _EVALUATION)
    _stride(config.data.stride, "data.stride")
    for side in config.data.augment.canvas:
        _within(side, "data.augment.canvas", 32, _MOST_CANVAS)
    for edge in config.data.augment.shortest_edge:
        _within(edge, "data.augment.shortest_edge", 1, _MOST_CANVAS)
    if not config.phases:
        raise ConfigError("phases: none found, at least one expected")
    for index, phase in enumerate(config.phases):
        _check(phase, f"phases.{index}.", _PHASE)
        if phase.stride is not None:
            _stride(phase.stride, f"phases.{index}.stride")


def _check(part: object, where: str, ranges: Ranges) -> None:
    for name, (least, most) in ranges.items():
        _within(getattr(part, name), f"{where}{name}", least, most)


def _within(value: float, where: str, least: float, most: float) -> None:
    if not math.isfinite(value) or not least <= value <= most:
        raise ConfigError(f"{where} {value:.6g} found; expected a number from {least:.6g} to {most:.6g}")


def _stride(stride: tuple[int, int], where: str) -> None:
    low, high = stride
    if not 1 <= low <= high <= 10000:
        raise ConfigError(f"{where} {low}, {high} found; expected two numbers of frames from 1 on, the smaller first")
