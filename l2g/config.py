"""The architecture as data: one frozen `ModelConfig`, its parts and its named presets. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from l2g.errors import ConfigError

# Blocks per stage and kind of block of the standard ResNets (He et al. 2016, table 1).
RESNETS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}


@dataclass(frozen=True)
class BackboneConfig:
    """A ResNet as detectron2 builds it.

    block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3 with the stride, 1x1). blocks: their number in res2..res5.
    stem_channels: width after the 7x7. width: inner width of res2's blocks, doubled per stage.
    out_channels: channels that res2 returns, doubled per stage (a basic block's inner width is its output width).
    """

    block: str = "bottleneck"
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_channels: int = 64
    width: int = 64
    out_channels: int = 256

    @classmethod
    def resnet(cls, depth: int, **changes) -> BackboneConfig:
        """ResNet-18, 34, 50 or 101, optionally with narrower widths."""
        if depth not in RESNETS:
            raise ConfigError(f"ResNet depth {depth} found, one of {sorted(RESNETS)} expected")
        block, blocks = RESNETS[depth]
        out_channels = 64 if block == "basic" else 256
        return cls(**{"block": block, "blocks": blocks, "out_channels": out_channels, **changes})

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4, res5."""
        return tuple(self.out_channels * 2**stage for stage in range(4))


@dataclass(frozen=True)
class EncoderConfig:
    """The pixel encoder: deformable layers over strides 8 to 64, then one FPN level at stride 4."""

    layers: int = 6
    ffn_dim: int = 2048
    mask_dim: int = 256


@dataclass(frozen=True)
class AlignerConfig:
    """The L2G-aligner.

    local_position: what is added to the local queries as keys: "static" (the paper's learned embedding per rank),
    "dynamic" (from their boxes) or "none", with which their order has no effect. With "static" two that change ranks,
    which a rounding error can do to two equal scores, change everything that follows.
    """

    layers: int = 3
    ffn_dim: int = 1024
    local_position: str = "static"


@dataclass(frozen=True)
class DecoderConfig:
    """The deformable decoder with box refinement."""

    layers: int = 9
    ffn_dim: int = 2048


PARTS = {"backbone": BackboneConfig, "encoder": EncoderConfig, "aligner": AlignerConfig, "decoder": DecoderConfig}


@dataclass(frozen=True)
class ModelConfig:
    """Every switch of the model.

    aligner: None is the paper's baseline (prior queries go straight to the decoder).
    trajectory: False puts learned boxes, one per slot, in place of the prior's boxes.
    box_init: how a mask becomes a box: "mask2box" (max index) or "bitmask" (max index + 1), as in Mask DINO.
    state_box: the box that a slot hands on: "mask", the box of its mask (Mask2Box, the paper's), or "head", what the
        box head predicts: it moves smoothly where the sign of one mask logit moves a side of the other.
    slot_marks: size of a fixed random vector per slot, added to a slot's prior query, 0 for none (the paper's). Slots
        that have come to hold the same stay the same but for rounding errors, which then decide who of them takes the
        next object; with marks the model decides, and two libraries do so alike.
    association: "propagate" (Local2Global: slots are identities) or "embedding" (an image model: the runtime links).
    class_names: one per class; made up ("class_0", ...) where nothing names them.
    input_size: (height, width) of the network canvas that runs and exports use unless told otherwise.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    aligner: AlignerConfig | None = field(default_factory=AlignerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    trajectory: bool = True
    num_queries: int = 300
    num_classes: int = 40
    hidden_dim: int = 256
    num_heads: int = 8
    box_init: str = "mask2box"
    state_box: str = "mask"
    slot_marks: float = 0.0
    association: str = "propagate"
    class_names: tuple[str, ...] = ()
    input_size: tuple[int, int] = (480, 864)

    def __post_init__(self):
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(f"class_{i}" for i in range(self.num_classes)))
        _expect(
            len(self.class_names) == self.num_classes,
            f"{len(self.class_names)} class names found for {self.num_classes} classes; give one name per class",
        )
        _expect(self.box_init in ("mask2box", "bitmask"), f"box_init '{self.box_init}'; use mask2box or bitmask")
        _expect(
            type(self.slot_marks) in (int, float) and 0 <= self.slot_marks < 1,
            f"slot_marks {self.slot_marks!r} found; give a size from 0 (none) to below 1, such as 0.03",
        )
        _expect(self.state_box in ("mask", "head"), f"state_box '{self.state_box}'; use mask or head")
        _expect(
            self.association in ("propagate", "embedding"),
            f"association '{self.association}'; use propagate or embedding",
        )
        _expect(
            self.backbone.block in ("basic", "bottleneck"),
            f"backbone.block '{self.backbone.block}'; use basic or bottleneck",
        )
        _expect(
            len(self.backbone.blocks) == 4, f"backbone.blocks {self.backbone.blocks}; give four counts, res2 to res5"
        )
        for name, value in self._sizes():
            _expect(isinstance(value, int) and value > 0, f"{name} is {value!r}; give a whole number above 0")
        _expect(self.hidden_dim % 32 == 0, f"hidden_dim {self.hidden_dim} found; GroupNorm(32) needs a multiple of 32")
        _expect(
            self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} does not divide by {self.num_heads} heads; change one of them",
        )
        _expect(
            self.aligner is None or self.aligner.local_position in ("static", "dynamic", "none"),
            f"aligner.local_position '{self.aligner and self.aligner.local_position}'; use static, dynamic or none",
        )
        _expect(
            len(self.input_size) == 2 and all(side % 32 == 0 and side > 0 for side in self.input_size),
            f"input_size {tuple(self.input_size)}; height and width must be positive multiples of 32",
        )

    def _sizes(self):
        """(name, value) of everything that counts something."""
        for prefix, part in (("", self), *((f"{name}.", getattr(self, name)) for name in PARTS)):
            for item in dataclasses.fields(part) if part is not None else ():
                value = getattr(part, item.name)
                if item.type == "int":
                    yield prefix + item.name, value
                elif item.name == "blocks":
                    yield from ((f"{prefix}blocks[{stage}]", count) for stage, count in enumerate(value))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict` (also after JSON); ConfigError names an unknown field."""
        values = dict(data)
        for name, part in PARTS.items():
            if isinstance(values.get(name), dict):
                values[name] = _build(part, values[name], f"{name}.")
            elif values.get(name) is None:
                _expect(name == "aligner" or name not in values, f"{name} is None; give its fields")
            else:
                _expect(isinstance(values[name], part), f"{name} is {values[name]!r}; give its fields")
        return _build(cls, values, "")

    def replace(self, **changes) -> ModelConfig:
        """A copy with some fields changed; a part takes a dict of its own fields, as in `aligner={"ffn_dim": 512}`."""
        if changes.get("num_classes", self.num_classes) != self.num_classes:
            changes.setdefault("class_names", ())
        data = self.to_dict()
        for name, value in changes.items():
            nested = isinstance(value, dict) and isinstance(data.get(name), dict)
            data[name] = {**data[name], **value} if nested else value
        return ModelConfig.from_dict(data)


def _build(cls, values: dict[str, Any], prefix: str):
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise ConfigError(
            f"unknown field {prefix}{unknown[0]}; the fields are {', '.join(prefix + name for name in known)}"
        )
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


PRESETS = {
    # The paper's model: Mask DINO R50 with the three-layer aligner, YouTube-VIS classes.
    "l2g_r50": ModelConfig(),
    # The public image model (COCO classes). It has no aligner and was never trained to carry state.
    "maskdino_r50": ModelConfig(aligner=None, num_classes=80, association="embedding"),
    # Small enough to train on two CPU cores and to ship.
    "l2g_tiny": ModelConfig(
        backbone=BackboneConfig("bottleneck", (1, 2, 2, 1), stem_channels=32, width=16, out_channels=64),
        encoder=EncoderConfig(layers=2, ffn_dim=256, mask_dim=64),
        aligner=AlignerConfig(layers=3, ffn_dim=256, local_position="none"),
        decoder=DecoderConfig(layers=3, ffn_dim=256),
        num_queries=20,
        num_classes=8,
        hidden_dim=64,
        state_box="head",
        input_size=(96, 160),
    ),
}


def get_config(config_or_preset: ModelConfig | str, **overrides) -> ModelConfig:
    """A preset by name, or a config as it is, with `overrides` as in `ModelConfig.replace`."""
    if isinstance(config_or_preset, str):
        if config_or_preset not in PRESETS:
            raise ConfigError(f"no preset named '{config_or_preset}'; the presets are {', '.join(PRESETS)}")
        config_or_preset = PRESETS[config_or_preset]
    return config_or_preset.replace(**overrides) if overrides else config_or_preset
