"""The architecture as data: one frozen `ModelConfig`, its parts and its named presets. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any

from l2g.errors import ConfigError
from l2g.records import as_type

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

    def check(self) -> None:
        _expect(self.block in ("basic", "bottleneck"), f"backbone.block '{self.block}'; use basic or bottleneck")


# Embedding width, depths and heads of the standard Swins (Liu et al. 2021), and Mask DINO's window for each.
SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer.

    embed_dim: channels of the first stage, doubled per stage. depths: blocks per stage. heads: attention heads per
    stage. window: its side in tokens. mlp_ratio: inner width of the MLPs by their outer one, rounded down.
    """

    embed_dim: int = 192
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    window: int = 12
    mlp_ratio: float = 4

    @classmethod
    def swin(cls, size: str, **changes) -> SwinConfig:
        """Swin "tiny", "small", "base" or "large"."""
        if size not in SWINS:
            raise ConfigError(f"Swin size '{size}' found, one of {', '.join(SWINS)} expected")
        embed_dim, depths, heads, window = SWINS[size]
        return cls(**{"embed_dim": embed_dim, "depths": depths, "heads": heads, "window": window, **changes})

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4, res5."""
        return tuple(self.embed_dim * 2**stage for stage in range(4))

    def check(self) -> None:
        _expect(
            1 <= self.embed_dim * self.mlp_ratio < math.inf,
            f"backbone.mlp_ratio is {self.mlp_ratio}; give a number above 0, such as 4",
        )
        for channels, heads in zip(self.channels, self.heads, strict=True):
            _expect(
                channels % heads == 0,
                f"backbone: {channels} channels do not divide by {heads} heads; change one of them",
            )


@dataclass(frozen=True)
class EncoderConfig:
    """The pixel encoder: deformable layers over several levels, then one FPN level at stride 4.

    finest: the backbone's finest map that the layers see, 3 for res3 (stride 8), 2 for res2. levels: of those up to
    res5, and beyond it maps of half the size each. feature_order: whether the encoder numbers them from the finest, and
    the decoder from the coarsest ("low2high"), or the other way round ("high2low"); the names are the public code's. An
    anchor is the larger the later its level comes in the decoder.
    """

    layers: int = 6
    ffn_dim: int = 2048
    mask_dim: int = 256
    levels: int = 4
    finest: int = 3
    feature_order: str = "low2high"


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


PARTS = {
    "backbone": (BackboneConfig, SwinConfig),
    "encoder": (EncoderConfig,),
    "aligner": (AlignerConfig,),
    "decoder": (DecoderConfig,),
}
# Fields that came after files were written; at their first value they are left out, so that these files stay the same.
ADDED_LATER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("encoder", {"levels": 4, "finest": 3}),
    ("encoder", {"feature_order": "low2high"}),
)
ADDED_LATER_ON_TOP: dict[str, Any] = {"stuff_classes": (), "two_stage": True, "scoring": "sigmoid"}
BOX_INITS = ("mask2box", "bitmask", "no")
FEATURE_ORDERS = ("low2high", "high2low")
# Each gets a name, and a file that claims more could fill a memory with them.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ModelConfig:
    """Every switch of the model.

    aligner: None is the paper's baseline (prior queries go straight to the decoder).
    trajectory: False puts learned boxes, one per slot, in place of the prior's boxes.
    box_init: how the mask of a local query becomes its box: "mask2box" (max index) or "bitmask" (max index + 1), as in
        Mask DINO, or "no": the box that the box head predicts from the token's anchor.
    state_box: the box that a slot hands on: "mask", the box of its mask (Mask2Box, the paper's), or "head", what the
        box head predicts: it moves smoothly where the sign of one mask logit moves a side of the other.
    slot_marks: size of a fixed random vector per slot, added to a slot's prior query, 0 for none (the paper's). Slots
        that have come to hold the same stay the same but for rounding errors, which then decide who of them takes the
        next object; with marks the model decides, and two libraries do so alike.
    association: "propagate" (Local2Global: slots are identities) or "embedding" (an image model: the runtime links).
    class_names: one per class; made up ("class_0", ...) where nothing names them.
    input_size: (height, width) of the network canvas that runs and exports use unless told otherwise.
    stuff_classes: the classes that are stuff (sky, road: regions without instances), ascending places in
        `class_names`; empty where all are things.
    two_stage: False puts learned queries and boxes, a pair per slot, in place of the best tokens, as Mask DINO's models
        of semantic segmentation have it.
    scoring: "sigmoid", or "softmax" over the classes and a last one more, "no object".
    """

    backbone: BackboneConfig | SwinConfig = field(default_factory=BackboneConfig)
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
    stuff_classes: tuple[int, ...] = ()
    two_stage: bool = True
    scoring: str = "sigmoid"

    def __post_init__(self):
        _check_types(self)
        for name, value in self._sizes():
            _expect(value > 0, f"{name} is {value}; give a whole number above 0")
        _expect(self.num_classes <= MOST_CLASSES, f"num_classes is {self.num_classes}; give {MOST_CLASSES:,} at most")
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(f"class_{i}" for i in range(self.num_classes)))
        _expect(
            len(self.class_names) == self.num_classes,
            f"{len(self.class_names)} class names found for {self.num_classes} classes; give one name per class",
        )
        for name in self.class_names:
            _expect(name.strip() != "", f"class name {name!r:.60}; give a text for each class")
        _expect(self.box_init in BOX_INITS, f"box_init '{self.box_init}'; use one of {', '.join(BOX_INITS)}")
        _expect(
            0 <= self.slot_marks < 1,
            f"slot_marks {self.slot_marks!r} found; give a size from 0 (none) to below 1, such as 0.03",
        )
        _expect(self.state_box in ("mask", "head"), f"state_box '{self.state_box}'; use mask or head")
        _expect(
            self.association in ("propagate", "embedding"),
            f"association '{self.association}'; use propagate or embedding",
        )
        _expect(self.scoring in ("sigmoid", "softmax"), f"scoring '{self.scoring}'; use sigmoid or softmax")
        _expect(
            all(0 <= place < self.num_classes for place in self.stuff_classes)
            and list(self.stuff_classes) == sorted(set(self.stuff_classes)),
            f"stuff_classes {self.stuff_classes!r:.80}; give ascending places in class_names, 0 to "
            f"{self.num_classes - 1}",
        )
        self.backbone.check()
        _expect(
            self.encoder.finest in (2, 3, 4, 5) and self.encoder.levels >= 6 - self.encoder.finest,
            f"encoder.finest {self.encoder.finest} with {self.encoder.levels} levels; the finest is 2 to 5 (res2 "
            "to res5), and every map from there to res5 is a level",
        )
        _expect(
            self.encoder.feature_order in FEATURE_ORDERS,
            f"encoder.feature_order '{self.encoder.feature_order}'; use {' or '.join(FEATURE_ORDERS)}",
        )
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
            all(side % 32 == 0 and side > 0 for side in self.input_size),
            f"input_size {tuple(self.input_size)}; height and width must be positive multiples of 32",
        )

    def _sizes(self):
        """(name, value) of everything that counts something."""
        for prefix, part in (("", self), *((f"{name}.", getattr(self, name)) for name in PARTS)):
            for item in dataclasses.fields(part) if part is not None else ():
                value = getattr(part, item.name)
                if item.type == "int":
                    yield prefix + item.name, value
                elif item.type.startswith("tuple[int") and prefix:
                    yield from ((f"{prefix}{item.name}[{stage}]", count) for stage, count in enumerate(value))

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        for name, first in ADDED_LATER:
            if all(data[name][key] == value for key, value in first.items()):
                data[name] = {key: value for key, value in data[name].items() if key not in first}
        return {
            name: value
            for name, value in data.items()
            if name not in ADDED_LATER_ON_TOP or value != ADDED_LATER_ON_TOP[name]
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict` (also after JSON); ConfigError names an unknown field."""
        values = dict(data)
        for name, kinds in PARTS.items():
            if isinstance(values.get(name), dict):
                values[name] = _build(_kind(kinds, values[name]) or kinds[0], values[name], f"{name}.")
            elif values.get(name) is None:
                _expect(name == "aligner" or name not in values, f"{name} is None; give its fields")
            else:
                _expect(isinstance(values[name], kinds), f"{name} is {values[name]!r}; give its fields")
        return _build(cls, values, "")

    def replace(self, **changes) -> ModelConfig:
        """A copy with some fields changed; a part takes a dict of its own fields, as in `aligner={"ffn_dim": 512}`."""
        if changes.get("num_classes", self.num_classes) != self.num_classes:
            changes.setdefault("class_names", ())
            changes.setdefault("stuff_classes", ())
        data = dataclasses.asdict(self)
        for name, value in changes.items():
            if isinstance(value, dict) and isinstance(data.get(name), dict):
                changed = {**data[name], **value}
                # Fields of a Swin in the place of a ResNet's are another backbone, and no change to this one.
                value = value if _kind(PARTS[name], value) and not _kind(PARTS[name], changed) else changed
            data[name] = value
        return ModelConfig.from_dict(data)


def _kind(kinds: tuple[type, ...], values: dict[str, Any]) -> type | None:
    """Which of a part's kinds has all of these fields, the first that does."""
    return next((kind for kind in kinds if set(values) <= {f.name for f in dataclasses.fields(kind)}), None)


def _build(cls, values: dict[str, Any], prefix: str):
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise ConfigError(
            f"unknown field {prefix}{unknown[0]}; the fields are {', '.join(prefix + name for name in known)}"
        )
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _check_types(config: Any, prefix: str = "") -> None:
    """ConfigError where a value compares as a number and is none: True is no size."""
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{name}.")
            continue
        try:
            as_type(kind, value, f"{prefix}{name}")
        except TypeError as error:
            raise ConfigError(str(error)) from None


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


# Small enough to train on two CPU cores and to ship.
_TINY = ModelConfig(
    backbone=BackboneConfig("bottleneck", (1, 2, 2, 1), stem_channels=32, width=16, out_channels=64),
    encoder=EncoderConfig(layers=2, ffn_dim=256, mask_dim=64),
    aligner=AlignerConfig(layers=3, ffn_dim=256, local_position="none"),
    decoder=DecoderConfig(layers=3, ffn_dim=256),
    num_queries=20,
    num_classes=8,
    hidden_dim=64,
    state_box="head",
    input_size=(96, 160),
)
PRESETS = {
    # The paper's model: Mask DINO R50 with the three-layer aligner, YouTube-VIS classes.
    "l2g_r50": ModelConfig(),
    # The public image model (COCO classes). It has no aligner and was never trained to carry state.
    "maskdino_r50": ModelConfig(aligner=None, num_classes=80, association="embedding"),
    # The public image model with a Swin-L, whose encoder sees stride 4 too.
    "maskdino_swin_l": ModelConfig(
        backbone=SwinConfig.swin("large"),
        encoder=EncoderConfig(levels=5, finest=2),
        aligner=None,
        num_classes=80,
        box_init="bitmask",
        association="embedding",
    ),
    "l2g_swin_l": ModelConfig(backbone=SwinConfig.swin("large"), encoder=EncoderConfig(levels=5, finest=2)),
    "l2g_swin_t": ModelConfig(backbone=SwinConfig.swin("tiny")),
    "l2g_tiny": _TINY,
    # The same for things and stuff: the eight shapes and four textures of synthetic panoptic video.
    "l2g_tiny_panoptic": _TINY.replace(num_classes=12, stuff_classes=(8, 9, 10, 11)),
}


def get_config(config_or_preset: ModelConfig | str, **overrides) -> ModelConfig:
    """A preset by name, or a config as it is, with `overrides` as in `ModelConfig.replace`."""
    if isinstance(config_or_preset, str):
        if config_or_preset not in PRESETS:
            raise ConfigError(f"no preset named '{config_or_preset}'; the presets are {', '.join(PRESETS)}")
        config_or_preset = PRESETS[config_or_preset]
    return config_or_preset.replace(**overrides) if overrides else config_or_preset
