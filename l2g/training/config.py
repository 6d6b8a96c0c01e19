"""A training run as data: YAML file -> frozen dataclasses, `key=value` overrides, one clear error for a wrong field."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2g.data.transforms import Augment
from l2g.errors import ConfigError
from l2g.training.ranges import check_ranges
from l2g.untrusted.yaml_files import parse_yaml

SHIPPED = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what happens to them on the way.

    source: "synthetic" or "synthetic_panoptic" (drawn on the fly), or a data set of l2g.data: "youtube_vis", "ovis",
    "vipseg", "coco".
    root: the data set's folder. split: "train". augment: the canvas, and what may happen to a clip. stride: frames
    from one to the next of a clip, drawn from (low, high). reverse: chance that a clip runs backwards. skip_broken:
    leave broken entries, and clips with a frame that cannot be read, out (they are named) instead of stopping.
    allow_outside: frames may lie outside of the data set's folder. workers: processes that prepare batches. held_out:
    share of the videos that nothing is learned from, for `evaluation.dataset: held_out`.
    """

    source: str = "synthetic"
    root: str = ""
    split: str = "train"
    augment: Augment = field(default_factory=lambda: Augment(canvas=(96, 160), flip=0.5))
    reverse: float = 0.0
    stride: tuple[int, int] = (1, 1)
    skip_broken: bool = False
    allow_outside: bool = False
    workers: int = 0
    held_out: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, and at how many points masks are compared, as in Mask DINO (0: everywhere)."""

    label: float = 4.0
    mask: float = 5.0
    dice: float = 5.0
    box: float = 5.0
    giou: float = 2.0
    num_points: int = 12544


@dataclass(frozen=True)
class PhaseConfig:
    """One phase.

    kind: "image" (phase 0), "align" (phase 1: aligner on images, the rest frozen), "clip" (phase 2).
    batch_size: images or clips per iteration over all processes. lr: peak rate. backbone_lr: factor on the backbone's
    (1 from scratch). warmup: iterations of linear warm-up. schedule: "step" (times 0.1 at each of `milestones`)
    or "cosine" (constant for the share `hold` of the phase, then a cosine down to `floor` times the peak).
    clip_length, stride: frames of a clip, and their distance (default: the data's). supervised: frames with a loss per
    clip or window (None: all). window: a long clip is learned in windows of so many frames, an iteration each; the
    state goes from one to the next, gradients do not (None: the clip is one iteration).
    state_noise: strength of the noise on the carried state, relative to its size (0: none). consistency: weight of the
    distance between two states with different noise, after the same frames (0: none). denoising: number of denoising
    queries. train_batch_norm: learn the backbone's statistics (from scratch only). slot_marks: whether slots carry the
    model's marks, where it has any.
    """

    kind: str
    iterations: int
    batch_size: int = 8
    lr: float = 5e-5
    backbone_lr: float = 0.1
    warmup: int = 10
    schedule: str = "step"
    milestones: tuple[int, ...] = ()
    hold: float = 0.3
    floor: float = 0.01
    clip_length: int = 1
    stride: tuple[int, int] | None = None
    supervised: int | None = None
    window: int | None = None
    state_noise: float = 0.0
    consistency: float = 0.0
    two_stage: bool = True
    denoising: int = 0
    noise: float = 0.4
    train_batch_norm: bool = False
    slot_marks: bool = True

    @property
    def frames_per_iteration(self) -> int:
        return self.window or self.clip_length

    @property
    def windows(self) -> int:
        """Iterations that a clip takes."""
        return self.clip_length // self.frames_per_iteration


@dataclass(frozen=True)
class EvaluationConfig:
    """AP as the run goes.

    every: so many iterations (0: never), and at the end of a phase. dataset: as `l2g evaluate` names it, or "held_out":
    the videos that `data.held_out` keeps. videos: of it, at most so many. patience: a phase ends after so many
    evaluations without a better AP (0: it runs to its end). best: `model.safetensors` has the weights of the best AP,
    not the last ones. pictures: how many videos of it are drawn with what was found in them.
    """

    every: int = 0
    dataset: str = "synthetic:val"
    videos: int = 16
    patience: int = 0
    best: bool = False
    pictures: int = 4


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    model: preset, or "init": the checkpoint's own architecture. overrides: fields of ModelConfig; `num_classes` is the
    data set's where it is not among them. init: checkpoint to start from; None means random
    weights. A Mask DINO checkpoint gets a fresh aligner; a class head starts fresh unless it has the data set's class
    names.
    offset_lr: factor on the sampling offsets' rate. precision: "fp32", "bf16" or "fp16" (autocast). ema: decay of an
    averaged copy that is saved in the end, 0 = off. clip_norm: largest gradient norm. save_every: iterations between
    resume files.
    """

    model: str
    phases: tuple[PhaseConfig, ...]
    overrides: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    weight_decay: float = 0.05
    offset_lr: float = 0.1
    clip_norm: float = 0.01
    precision: str = "fp32"
    ema: float = 0.0
    save_every: int = 1000
    log_every: int = 20

    def __post_init__(self):
        check_ranges(self)
        for index, phase in enumerate(self.phases):
            if phase.kind not in ("image", "align", "clip"):
                raise ConfigError(f"phases.{index}.kind '{phase.kind}' found; expected image, align or clip")
            if phase.window is not None and phase.window < 1:
                raise ConfigError(f"phases.{index}.window {phase.window} found; at least 1 expected")
            if phase.schedule not in ("step", "cosine"):
                raise ConfigError(f"phases.{index}.schedule '{phase.schedule}' found; expected step or cosine")
            if phase.supervised is not None and phase.supervised < 2:
                raise ConfigError(
                    f"phases.{index}.supervised is {phase.supervised}; at least two frames keep their loss"
                )
            if phase.clip_length % phase.frames_per_iteration:
                raise ConfigError(
                    f"phases.{index}.window is {phase.window}; "
                    f"expected one that divides clip_length {phase.clip_length}"
                )
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision '{self.precision}' found; expected fp32, bf16 or fp16")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_config(source: str, changes: typing.Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, or a shipped config by name, and apply `key=value` changes (`phases.0.lr=1e-3`).

    Raises ConfigError for a missing file, broken YAML, an unknown field or a value of the wrong type.
    """
    path = SHIPPED / f"{source}.yaml" if "/" not in source and not source.endswith((".yaml", ".yml")) else Path(source)
    if not _is_file(path):
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"no config '{source}': give a YAML file or one of {names}")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a {type(data).__name__} found, expected the fields of TrainConfig")
    for change in changes:
        _apply(data, change)
    return _build(TrainConfig, data, "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _apply(data: dict, change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals:
        raise ConfigError(f"'{change}' found, expected key=value, as in phases.0.lr=1e-3")
    *parents, last = key.split(".")
    content = parse_yaml(value, f"'{shortened(change)}'")
    node: Any = data
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if isinstance(node, list):
            node[int(last)] = content
        else:
            node[last] = content
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"'{shortened(key)}' names no field of the config") from None


def _build(cls, data: Any, where: str):
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'the config'}: {shortened(data)} found, expected the fields of {cls.__name__}")
    kinds = typing.get_type_hints(cls)
    unknown = sorted(map(str, set(data) - set(kinds)))
    if unknown:
        raise ConfigError(f"unknown field {where}{shortened(unknown[0])}; the fields are {', '.join(kinds)}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"field {where}{missing[0]} is missing")
    return cls(**{name: _convert(kinds[name], value, f"{where}{name}") for name, value in data.items()})


def _convert(kind, value, where: str):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(argument for argument in arguments if argument is not type(None))
        return _convert(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{where}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise ConfigError(f"{where}: {shortened(repr(value))} found, expected {len(arguments)} values")
        return tuple(_convert(arguments[0], item, f"{where}.{index}") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return value
    if kind is float:
        # YAML 1.1 reads 1e-3 as text.
        try:
            return float(value) if not isinstance(value, bool) else _wrong(kind, value, where)
        except (TypeError, ValueError, OverflowError):
            _wrong(kind, value, where)
    if origin is None and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    _wrong(kind, value, where)


def _wrong(kind, value, where: str):
    raise ConfigError(f"{where}: {shortened(repr(value))} found, expected {getattr(kind, '__name__', kind)}")


def shortened(value: object) -> str:
    """A value for a message, however long it is."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
