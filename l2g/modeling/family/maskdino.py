"""Public Mask DINO checkpoints, the original's and detrex's: their shapes become a config, their names ours."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from l2g.config import BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig, SwinConfig
from l2g.errors import CheckpointError
from l2g.modeling.backbones.swin import relative_position_index
from l2g.modeling.family.pickled import BESIDE
from l2g.public.classes import classes_of

# FPN levels that the public code adds where its encoder starts at res4 or res5. Of low2high the masks use the last one
# alone, which is `adapter_1` and `layer_1`.
UNUSED = "encoder.unused."
# Public name -> ours, by prefix; the first that fits counts. None: the tensor is redundant and is left out.
_PIXEL, _PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
PUBLIC_NAMES = (
    ("criterion.", None),
    ("backbone.", "backbone."),
    (_PIXEL + "input_proj.", "encoder.input_proj."),
    (_PIXEL + "transformer.level_embed", "encoder.level_embed"),
    (_PIXEL + "transformer.encoder.layers.", "encoder.layers."),
    (_PIXEL + "adapter_1.", "encoder.adapter."),
    (_PIXEL + "layer_1.", "encoder.output."),
    *((f"{_PIXEL}{part}_{level}.", f"{UNUSED}{part}_{level}.") for part in ("adapter", "layer") for level in (2, 3)),
    (_PIXEL + "mask_features.", "encoder.mask_features."),
    (_PREDICTOR + "query_feat.", "proposals.query_feat."),
    (_PREDICTOR + "query_embed.", "proposals.query_embed."),
    (_PREDICTOR + "enc_output.", "proposals.output."),
    (_PREDICTOR + "enc_output_norm.", "proposals.norm."),
    (_PREDICTOR + "class_embed.", "heads.class_embed."),
    (_PREDICTOR + "mask_embed.", "heads.mask_embed."),
    (_PREDICTOR + "label_enc.", "label_embed."),
    (_PREDICTOR + "_bbox_embed.", "heads.bbox_embed."),
    (_PREDICTOR + "decoder_norm.", "heads.norm."),
    (_PREDICTOR + "decoder.layers.", "decoder.layers."),
    (_PREDICTOR + "decoder.ref_point_head.", "decoder.ref_point_head."),
)
# One shared box head and one shared norm, saved again per layer; any copy serves where the original is absent.
PUBLIC_ALIASES = (
    (re.compile(r"sem_seg_head\.predictor\.(?:decoder\.)?bbox_embed\.\d+\."), "heads.bbox_embed."),
    (re.compile(r"sem_seg_head\.predictor\.decoder\.norm\."), "heads.norm."),
)

# INITIALIZE_BOX_TYPE of the public configs with a ResNet for instances, by `finest`, `levels` and `ffn_dim` of their
# encoder. (3, 4, 1024): the file of the one linked with (3, 3, 1024) is named as if it had a level more.
RESNET_STARTS = {
    (3, 3, 1024): "bitmask",
    (3, 4, 1024): "bitmask",
    (3, 4, 2048): "mask2box",
    (3, 5, 1024): "no",
    (2, 4, 2048): "no",
}


def public_model(path: Path, tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config of a public checkpoint and its tensors by this package's names.

    Raises CheckpointError for unknown names, for make-ups that are not computed here and for missing tensors that tell
    the architecture, ConfigError for shapes that no model has.
    """
    found = renamed(path, tensors)
    _refuse_unknown_switches(path, found)
    config = inferred(path, found)
    if config.encoder.finest > 3:
        found = {name: tensor for name, tensor in found.items() if not name.startswith(UNUSED)}
    return config, found


def renamed(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by this package's names, without copies and constants. CheckpointError for unknown names."""
    found: dict[str, Tensor] = {}
    copies: list[tuple[str, str, Tensor]] = []
    unknown = []
    for name, tensor in tensors.items():
        alias = next(((pattern, to) for pattern, to in PUBLIC_ALIASES if pattern.match(name)), None)
        prefix = next(((old, new) for old, new in PUBLIC_NAMES if name.startswith(old)), None)
        if alias:
            copies.append((name, alias[0].sub(alias[1], name), tensor))
        elif BESIDE.match(name):
            continue
        elif name.endswith(".relative_position_index"):
            _check_position_index(path, name, tensor, tensors.get(name.removesuffix("index") + "bias_table"))
        elif prefix is None:
            unknown.append(name)
        elif prefix[1] is not None:
            found[prefix[1] + name.removeprefix(prefix[0])] = tensor
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} unexpected tensors, the first: {', '.join(unknown[:3])}; expected a native "
            ".safetensors with its config in the header, or a Mask DINO checkpoint with the names of its public "
            "implementation (ResNet or Swin backbone)"
        )
    for name, target, tensor in copies:
        if not torch.equal(found.setdefault(target, tensor), tensor):
            raise CheckpointError(
                f"{path}: tensor '{name}' differs from its shared original '{public_name(target)}'; "
                "expected one box head and one norm for all decoder layers, as the public Mask DINO has"
            )
    return found


def _check_position_index(path: Path, name: str, index: Tensor, table: Tensor | None) -> None:
    """A Swin's table of relative positions is a constant of the window: checked, and not kept. The window is that of
    the block's own `table`, without which the file is not whole and refused for that."""
    if table is None or not table.numel():
        return
    window = _window(table.shape[0])
    expected = (window**2, window**2)
    if index.shape != expected:
        raise CheckpointError(
            f"{path}: tensor '{name}' has shape {list(index.shape)} beside a bias table of {table.shape[0]} rows; "
            f"expected {list(expected)}, as a window of {window} has it: copy or download it again"
        )
    if not torch.equal(index.long(), relative_position_index(window)):
        raise CheckpointError(
            f"{path}: tensor '{name}' numbers the positions of a window in another order than the public Swin; "
            "convert the attention's bias tables to that order"
        )


def _window(rows: int) -> int:
    """The side of a Swin's window, of the rows of its bias table: (2 w - 1)^2."""
    return (math.isqrt(rows) + 1) // 2


def _refuse_unknown_switches(path: Path, tensors: dict[str, Tensor]) -> None:
    """CheckpointError for fields of the public configs that change a model's tensors and that this package has not."""

    def only(found: str, missing: str) -> bool:
        return found in tensors and missing not in tensors

    qkv = "backbone.layers.0.blocks.0.attn.qkv."
    fields = {
        "MODEL.SWIN.APE: True": "backbone.absolute_pos_embed" in tensors,
        "MODEL.SWIN.PATCH_NORM: False": only("backbone.patch_embed.proj.bias", "backbone.patch_embed.norm.weight"),
        "MODEL.SWIN.QKV_BIAS: False": only(qkv + "weight", qkv + "bias"),
        "MODEL.MaskDINO.LEARN_TGT: True": {"proposals.query_feat.weight", "proposals.output.weight"} <= tensors.keys(),
    }
    for field, found in fields.items():
        if found:
            raise CheckpointError(
                f"{path}: its tensors are those of {field} in the public config, which this package does not compute; "
                "none of the public configs has it. Train with the other value, or load it with the public code"
            )


@dataclass(frozen=True)
class _Shapes:
    """What a checkpoint's shapes say; CheckpointError names what is missing for that."""

    path: Path
    tensors: dict[str, Tensor]

    def size(self, name: str, axis: int = 0) -> int:
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: tensor '{public_name(name)}' is missing, so the architecture cannot be inferred; "
                "expected a whole Mask DINO checkpoint with a ResNet or Swin backbone"
            )
        shape = self.tensors[name].shape
        if len(shape) <= axis or not shape[axis]:
            raise CheckpointError(
                f"{self.path}: tensor '{public_name(name)}' has shape {list(shape)}; copy or download it again"
            )
        return shape[axis]

    def count(self, prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return 1 + max((int(match[1]) for name in self.tensors if (match := pattern.match(name))), default=-1)

    def backbone(self) -> BackboneConfig | SwinConfig:
        return self._swin() if "backbone.patch_embed.proj.weight" in self.tensors else self._resnet()

    def _resnet(self) -> BackboneConfig:
        bottleneck = "backbone.res2.0.conv3.weight" in self.tensors
        res2, res3, res4, res5 = (self.count(f"backbone.res{stage}.") for stage in (2, 3, 4, 5))
        return BackboneConfig(
            block="bottleneck" if bottleneck else "basic",
            blocks=(res2, res3, res4, res5),
            stem_channels=self.size("backbone.stem.conv1.weight"),
            width=self.size("backbone.res2.0.conv1.weight"),
            out_channels=self.size(f"backbone.res2.0.conv{3 if bottleneck else 2}.weight"),
        )

    def _swin(self) -> SwinConfig:
        embed_dim, table = self.size("backbone.patch_embed.proj.weight"), "attn.relative_position_bias_table"
        depths = [self.count(f"backbone.layers.{stage}.blocks.") for stage in range(4)]
        heads = [self.size(f"backbone.layers.{stage}.blocks.0.{table}", 1) for stage in range(4)]
        # Of the widest stage: each inner width is rounded down.
        inner, outer = self.size("backbone.layers.3.blocks.0.mlp.fc1.weight"), 8 * embed_dim
        return SwinConfig(
            embed_dim=embed_dim,
            depths=(depths[0], depths[1], depths[2], depths[3]),
            heads=(heads[0], heads[1], heads[2], heads[3]),
            window=_window(self.size(f"backbone.layers.0.blocks.0.{table}")),
            mlp_ratio=inner / outer if inner % outer else inner // outer,
        )

    def encoder(self, channels: tuple[int, ...]) -> EncoderConfig:
        """channels: of the backbone's maps."""
        finest, feature_order = self._seen(channels)
        return EncoderConfig(
            layers=self.count("encoder.layers."),
            ffn_dim=self.size("encoder.layers.0.linear1.weight"),
            mask_dim=self.size("encoder.mask_features.weight"),
            levels=self.size("encoder.level_embed"),
            finest=finest,
            feature_order=feature_order,
        )

    def _seen(self, channels: tuple[int, ...]) -> tuple[int, str]:
        """The finest of the backbone's maps that the encoder takes, and their order, by its 1x1 projections."""
        taken = [self.size("encoder.input_proj.0.0.weight", 1)]
        while (name := f"encoder.input_proj.{len(taken)}.0.weight") in self.tensors:
            if self.tensors[name].shape[2:] != (1, 1):
                break
            taken.append(self.size(name, 1))
        coarse_first = len(taken) > 1 and taken[0] > taken[1]
        if taken[:: -1 if coarse_first else 1] != list(channels[-len(taken) :]):
            raise CheckpointError(
                f"{self.path}: '{public_name('encoder.input_proj.')}' takes maps of {', '.join(map(str, taken))} "
                f"channels, the backbone gives {', '.join(map(str, channels))}; expected all from one of them to the "
                "last: is the file of one model?"
            )
        finest = 6 - len(taken)
        if finest == 5 or (finest == 4 and coarse_first):
            raise CheckpointError(
                f"{self.path}: an encoder of {'res5 alone' if finest == 5 else 'res4 and res5, high2low'}, whose mask "
                "features the public code makes through several FPN levels, which this package does not; expected "
                "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES from res2 or res3 on, or from res4 with FEATURE_ORDER "
                "low2high. Load it with the public code"
            )
        return finest, "high2low" if coarse_first else "low2high"


def inferred(path: Path, tensors: dict[str, Tensor]) -> ModelConfig:
    """The ModelConfig that names and shapes describe; CheckpointError names what is missing for that."""
    shapes = _Shapes(path, tensors)
    two_stage = "proposals.query_feat.weight" not in tensors
    rows = shapes.size("heads.class_embed.weight")
    labels = shapes.size("label_embed.weight") if "label_embed.weight" in tensors else 0
    # A model of semantic segmentation has a row more, of "no object".
    softmax = rows == labels + 1 and labels > 0
    num_classes = labels if softmax else rows
    known = classes_of(num_classes, two_stage)
    backbone = shapes.backbone()
    encoder = shapes.encoder(backbone.channels)
    return ModelConfig(
        backbone=backbone,
        encoder=encoder,
        aligner=None,
        decoder=DecoderConfig(shapes.count("decoder.layers."), shapes.size("decoder.layers.0.linear1.weight")),
        num_queries=300 if two_stage else shapes.size("proposals.query_feat.weight"),
        num_classes=num_classes,
        hidden_dim=shapes.size("heads.class_embed.weight", 1),
        num_heads=8,
        box_init="no" if known.stuff or not two_stage else _published_start(backbone, encoder),
        association="embedding",
        class_names=known.names,
        stuff_classes=known.stuff,
        two_stage=two_stage,
        scoring="softmax" if softmax else "sigmoid",
    )


def _published_start(backbone: BackboneConfig | SwinConfig, encoder: EncoderConfig) -> str:
    """`box_init` of a model of instances as the public configs have it for such an encoder; no tensor tells it."""
    if isinstance(backbone, SwinConfig):
        return "bitmask"
    return RESNET_STARTS.get((encoder.finest, encoder.levels, encoder.ffn_dim), "mask2box")


def public_name(name: str) -> str:
    """The public name of one of our tensors."""
    return next((old + name.removeprefix(new) for old, new in PUBLIC_NAMES if new and name.startswith(new)), name)
