"""Checkpoints in, checkpoints out: native safetensors, the public Mask DINO `.pth`, detrex's variant, and what other
families of models bring along: folders and ids of the Hugging Face hub, their authors' files.

The architecture is read off names and shapes; only what shapes cannot tell has a default and an override.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2g.config import BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig, SwinConfig
from l2g.errors import CheckpointError, ConfigError
from l2g.files import write_atomically
from l2g.modeling.backbones.swin import relative_position_index
from l2g.modeling.deformable import coarse_first
from l2g.modeling.family.pickled import BESIDE, read_tensors, unwrapped
from l2g.modeling.family.protocol import VideoModel
from l2g.modeling.family.weight_sums import check_beside, check_sum, save_with_sum
from l2g.modeling.local2global import Local2Global
from l2g.public.classes import classes_of
from l2g.public.hub import folder_of, is_hub_checkpoint, model_type
from l2g.public.table import public_models, published

CONFIG_KEY = "l2g.config"
# Checkpoints that are installed with the package.
WEIGHTS = Path(__file__).parent / "weights"

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

# Of every model of this package and of no public checkpoint: what tells `torch.save(model.state_dict())`.
OWN_TENSORS = ("encoder.level_embed", "heads.class_embed.weight", "heads.norm.weight")

# Other families, by what their configs call them: modules with `load(folder)`, `from_tensors(path, tensors)` and
# `save(model, folder)`; and the tensor that tells a family's authors' own file.
FAMILIES = dict.fromkeys(("videomt", "videomt_dinov3"), "l2g.modeling.videomt.checkpoint")
AUTHORS = {"backbone.q.weight": "videomt"}

# What weights are made of.
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_checkpoint(
    path: str | os.PathLike,
    *,
    num_queries: int | None = None,
    num_heads: int | None = None,
    box_init: str | None = None,
    class_names: tuple[str, ...] | None = None,
    **overrides,
) -> VideoModel:
    """Build the model of a checkpoint and load it, in evaluation mode on the CPU.

    Args:
        path: a native `.safetensors`, a file in the public Mask DINO's or detrex's naming, a folder or an id
            ("owner/name") of the Hugging Face hub, a VidEoMT file of its authors, or the name of a shipped model or of
            one in `l2g models`; ids and names are fetched, once.
        num_queries, num_heads, box_init: what shapes cannot tell. None is a native file's own value; for a public file
            300, 8, and what the public configs say: "mask2box" with a ResNet, "bitmask" with a Swin, "no" for the
            133 classes of COCO's things and stuff; a file in `l2g models` of another box_init is known by its
            published name.
        class_names: names of the classes in the order of the logits; COCO's for a public file of 80 classes or 133
            (things and stuff), and of one of semantic segmentation ADE20K's for 150 and Cityscapes' for 19; a file
            in `l2g models` of other classes is known by its published name.
        overrides: fields of ModelConfig that leave every tensor's shape as it is (input_size, association, ...).

    Raises:
        CheckpointError: missing, truncated or foreign file; missing, unexpected or mis-shaped tensors.
    """
    path = find_checkpoint(path)
    if (known := published(path)) is not None:
        box_init, class_names = box_init or known.box_init, class_names or known.class_names
    given = {"num_queries": num_queries, "num_heads": num_heads, "box_init": box_init, **overrides}
    given = {name: value for name, value in given.items() if value is not None}
    names = None if class_names is None else tuple(class_names)
    if path.parent == WEIGHTS:
        check_beside(path)
    if path.is_dir():
        _refuse_options(path, given)
        return _family(path, model_type(path)).load(path, names)
    tensors, config = _read_safetensors(path) if _is_safetensors(path) else (read_tensors(path), None)
    if config is None:
        tensors = unwrapped(tensors)
    author = next((family for name, family in AUTHORS.items() if name in tensors), None)
    if author is not None:
        _refuse_options(path, given)
        return _family(path, author).from_tensors(path, tensors, names)
    public = config is None
    if public:
        _check_not_bare(path, tensors)
        tensors = coarse_first(_rename(path, tensors), num_heads or 8)
    overrides = given if names is None else given | {"class_names": names}
    try:
        config = _infer(path, tensors, overrides) if config is None else config.replace(**overrides)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_depth(path, config, tensors)
    # What a config claims takes no memory before the file's tensors have been held to it.
    try:
        with torch.device("meta"):
            claimed = Local2Global(config).state_dict()
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: no model can have the sizes that it claims ({reason}); copy it again") from None
    _check(path, tensors, claimed, public)
    _check_numbers(path, tensors, public)
    model = Local2Global(config)
    model.load_state_dict(tensors)
    return model.eval()


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that are installed with the package; `load_checkpoint` takes them for a path."""
    return sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The file or folder that `path` means: a shipped checkpoint or a public one, fetched if need be, where it is a
    name; else itself.

    Raises CheckpointError where there is none.
    """
    name = os.fspath(path)
    path = Path(path)
    if not os.path.dirname(name) and name in shipped_checkpoints():
        return WEIGHTS / f"{name}.safetensors"
    if path.is_file():
        return path
    if (public := public_models().get(name)) is not None and not path.exists():
        return public.fetch()
    if is_hub_checkpoint(name):
        return folder_of(name)
    found = "a directory" if path.is_dir() else "no such file"
    shipped = f", or a shipped model's name ({', '.join(shipped_checkpoints())})" if shipped_checkpoints() else ""
    raise CheckpointError(
        f"{path}: {found}, no name in `l2g models` and no id of the Hugging Face hub "
        f"(owner/name); expected the path of a .safetensors or .pth checkpoint{shipped}"
    )


def save_checkpoint(model: VideoModel, path: str | os.PathLike) -> None:
    """Write a native checkpoint: safetensors with the config in its header, replaced atomically. Of another family than
    Local2Global: a Hugging Face folder. CheckpointError, with nothing written, for weights that hold NaN or infinity.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: not written, since '{name}' holds NaN or infinity; lower the learning rate, and go on from "
                "weights that were good"
            )
    if model.family in FAMILIES:
        _family(Path(path), model.family).save(model, Path(path))
        return
    from safetensors import SafetensorError

    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    config = json.dumps(model.config.to_dict())
    with write_atomically(path, CheckpointError) as temporary:
        try:
            save_with_sum(tensors, temporary, {CONFIG_KEY: config}, config)
        except SafetensorError as error:  # what the system refuses comes as one of these, too
            raise CheckpointError(f"{path}: cannot be written ({error}); make room, or give another path") from None


def _family(path: Path, name: str) -> Any:
    """The module of a family; CheckpointError for one that there is not, or whose libraries are not installed."""
    if name not in FAMILIES:
        raise CheckpointError(
            f"{path}: a model of type '{name}', expected {', '.join(FAMILIES)}; `l2g models` lists "
            "public checkpoints that work"
        )
    try:
        return importlib.import_module(FAMILIES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise CheckpointError(
            f"{path}: a checkpoint of transformers, for which '{error.name}' is not installed; pip install 'l2g[hf]'"
        ) from None


def _refuse_options(path: Path, given: dict[str, Any]) -> None:
    if given:
        raise CheckpointError(
            f"{path}: {', '.join(sorted(given))} given, which only a checkpoint of Mask DINO or Local2Global takes; "
            "this one says all of it, so leave it away"
        )


def _is_safetensors(path: Path) -> bool:
    """By content, since files get renamed: eight bytes of length, then a JSON object."""
    try:
        with path.open("rb") as file:
            return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    """The tensors, and the config of a native file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None
    check_sum(path, tensors, metadata, metadata.get(CONFIG_KEY, ""))
    if CONFIG_KEY not in metadata:
        return tensors, None
    try:
        return tensors, ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: the config in its header is damaged or from another version of l2g ({error}); "
            "load it with the version that wrote it, or copy it again"
        ) from None


def _check_not_bare(path: Path, tensors: dict[str, Tensor]) -> None:
    """CheckpointError for this package's own tensors without the config that says how to use them."""
    if all(any(name == own or name.endswith(f".{own}") for name in tensors) for own in OWN_TENSORS):
        raise CheckpointError(
            f"{path}: a bare state dict of an l2g model found, which does not tell its ModelConfig; expected a native "
            "checkpoint: save the model with l2g.save_checkpoint(model, 'model.safetensors'). If this file is all you "
            "have: model = l2g.build_model(CONFIG), with the preset or the ModelConfig that it was trained with, then "
            "model.load_state_dict(torch.load(FILE)) and l2g.save_checkpoint(model, 'model.safetensors')"
        )


def _rename(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
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
            _check_position_index(path, name, tensor)
        elif prefix is None:
            unknown.append(name)
        elif prefix[1] is not None:
            renamed[prefix[1] + name.removeprefix(prefix[0])] = tensor
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} unexpected tensors, the first: {', '.join(unknown[:3])}; expected a checkpoint "
            f"with '{CONFIG_KEY}' in its header, or a Mask DINO checkpoint with the names of its public implementation "
            "(ResNet or Swin backbone, one FPN level)"
        )
    for name, target, tensor in copies:
        if not torch.equal(renamed.setdefault(target, tensor), tensor):
            raise CheckpointError(
                f"{path}: tensor '{name}' differs from its shared original '{_public(target)}'; "
                "expected one box head and one norm for all decoder layers, as the public Mask DINO has"
            )
    return renamed


def _check_position_index(path: Path, name: str, index: Tensor) -> None:
    """A Swin's table of relative positions is a constant of the window: checked, and not kept."""
    window = math.isqrt(index.shape[0]) if index.ndim else 0
    expected = relative_position_index(window)
    if index.shape != expected.shape or not torch.equal(index.long(), expected):
        raise CheckpointError(
            f"{path}: tensor '{name}' numbers the positions of a window in another order than the public Swin; "
            "convert the attention's bias tables to that order"
        )


def _public(name: str) -> str:
    """The public name of one of our tensors."""
    return next((old + name.removeprefix(new) for old, new in PUBLIC_NAMES if new and name.startswith(new)), name)


def _infer(path: Path, tensors: dict[str, Tensor], overrides: dict) -> ModelConfig:
    """The ModelConfig that names and shapes describe; CheckpointError names what is missing for that."""

    def size(name: str, axis: int = 0) -> int:
        if name not in tensors:
            raise CheckpointError(
                f"{path}: tensor '{_public(name)}' is missing, so the architecture cannot be inferred; "
                "expected a whole Mask DINO checkpoint with a ResNet or Swin backbone"
            )
        shape = tensors[name].shape
        if len(shape) <= axis or not shape[axis]:
            raise CheckpointError(
                f"{path}: tensor '{_public(name)}' has shape {list(shape)}; copy or download it again"
            )
        return shape[axis]

    def count(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return 1 + max((int(match[1]) for name in tensors if (match := pattern.match(name))), default=-1)

    def resnet() -> BackboneConfig:
        bottleneck = "backbone.res2.0.conv3.weight" in tensors
        return BackboneConfig(
            block="bottleneck" if bottleneck else "basic",
            blocks=(count("backbone.res2."), count("backbone.res3."), count("backbone.res4."), count("backbone.res5.")),
            stem_channels=size("backbone.stem.conv1.weight"),
            width=size("backbone.res2.0.conv1.weight"),
            out_channels=size(f"backbone.res2.0.conv{3 if bottleneck else 2}.weight"),
        )

    def swin() -> SwinConfig:
        embed_dim, table = size("backbone.patch_embed.proj.weight"), "attn.relative_position_bias_table"
        depths = [count(f"backbone.layers.{stage}.blocks.") for stage in range(4)]
        heads = [size(f"backbone.layers.{stage}.blocks.0.{table}", 1) for stage in range(4)]
        return SwinConfig(
            embed_dim=embed_dim,
            depths=(depths[0], depths[1], depths[2], depths[3]),
            heads=(heads[0], heads[1], heads[2], heads[3]),
            window=(math.isqrt(size(f"backbone.layers.0.blocks.0.{table}")) + 1) // 2,
            mlp_ratio=size("backbone.layers.0.blocks.0.mlp.fc1.weight") // embed_dim,
        )

    two_stage = "proposals.query_feat.weight" not in tensors
    rows = size("heads.class_embed.weight")
    labels = size("label_embed.weight") if "label_embed.weight" in tensors else 0
    # A model of semantic segmentation has a row more, of "no object".
    softmax = rows == labels + 1 and labels > 0
    num_classes = labels if softmax else rows
    known = classes_of(num_classes, two_stage)
    is_swin = "backbone.patch_embed.proj.weight" in tensors
    backbone = swin() if is_swin else resnet()
    finest = size("encoder.input_proj.0.0.weight", 1)
    if finest not in backbone.channels:
        raise CheckpointError(
            f"{path}: '{_public('encoder.input_proj.0.0.weight')}' takes {finest} channels, the backbone gives "
            f"{', '.join(map(str, backbone.channels))}; is the file of one model?"
        )
    inferred = ModelConfig(
        backbone=backbone,
        encoder=EncoderConfig(
            layers=count("encoder.layers."),
            ffn_dim=size("encoder.layers.0.linear1.weight"),
            mask_dim=size("encoder.mask_features.weight"),
            levels=size("encoder.level_embed"),
            finest=2 + backbone.channels.index(finest),
        ),
        aligner=None,
        decoder=DecoderConfig(layers=count("decoder.layers."), ffn_dim=size("decoder.layers.0.linear1.weight")),
        num_queries=300 if two_stage else size("proposals.query_feat.weight"),
        num_classes=num_classes,
        hidden_dim=size("heads.class_embed.weight", 1),
        num_heads=8,
        box_init="no" if known.stuff or not two_stage else "bitmask" if is_swin else "mask2box",
        association="embedding",
        class_names=known.names,
        stuff_classes=known.stuff,
        two_stage=two_stage,
        scoring="softmax" if softmax else "sigmoid",
    )
    return inferred.replace(**overrides)


def _check_depth(path: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    """CheckpointError for a config of more layers than the file has tensors: to build them could take for ever."""
    parts = (config.backbone, config.encoder, config.decoder, *([config.aligner] if config.aligner else []))
    layers = sum(sum(count) if isinstance(count, tuple) else count for part in parts for count in _depths(part))
    if layers > len(tensors):
        raise CheckpointError(
            f"{path}: {layers} layers claimed and {len(tensors)} tensors found; the file is damaged, copy it again"
        )


def _depths(part) -> list[int | tuple[int, ...]]:
    return [getattr(part, name) for name in ("layers", "levels", "blocks", "depths") if hasattr(part, name)]


def _check_numbers(path: Path, tensors: dict[str, Tensor], public: bool) -> None:
    """CheckpointError for weights that no training gives: integers in place of floats, NaN, infinity."""
    named = _public if public else str
    for name, tensor in tensors.items():
        if tensor.dtype not in NUMBERS:
            raise CheckpointError(
                f"{path}: tensor '{named(name)}' holds {str(tensor.dtype).removeprefix('torch.')}, expected floating "
                "point numbers of 16 bits or more; the file is damaged or quantised, copy or save it again"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: tensor '{named(name)}' holds NaN or infinity: the training that wrote it had diverged, or "
                "the file is damaged; take an earlier checkpoint, or copy it again"
            )


def _check(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor], public: bool) -> None:
    """CheckpointError with the first offending tensors, under the names that the file itself uses."""
    named = _public if public else str
    missing = [named(name) for name in sorted(set(expected) - set(found))]
    unexpected = [named(name) for name in sorted(set(found) - set(expected))]
    shaped = sorted(name for name in set(found) & set(expected) if found[name].shape != expected[name].shape)
    if not (missing or unexpected or shaped):
        return
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:3])}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if shaped:
        details = [
            f"{named(name)} is {list(found[name].shape)}, expected {list(expected[name].shape)}" for name in shaped[:3]
        ]
        parts.append(f"{len(shaped)} of another shape: {'; '.join(details)}")
    raise CheckpointError(
        f"{path}: the tensors do not fit the model. {'. '.join(parts)}. "
        "Check num_heads and the other overrides, or whether the file is complete"
    )
