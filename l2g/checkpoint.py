"""Checkpoints in, checkpoints out: native safetensors, the public Mask DINO `.pth`, detrex's variant.

The architecture is read off names and shapes; only what shapes cannot tell has a default and an override.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from l2g.config import AlignerConfig, BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig
from l2g.errors import CheckpointError, ConfigError
from l2g.modeling.local2global import Local2Global

CONFIG_KEY = "l2g.config"

# COCO's 80 names in the order of the public Mask DINO's logits.
COCO_CLASSES = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,"
    "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,"
    "toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush".split(",")
)

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


def load_checkpoint(
    path: str | os.PathLike,
    *,
    num_queries: int = 300,
    num_heads: int = 8,
    box_init: str = "mask2box",
    class_names: tuple[str, ...] | None = None,
    **overrides,
) -> Local2Global:
    """Build the model of a checkpoint and load it, in evaluation mode on the CPU.

    Args:
        path: a native `.safetensors`, or a `.pth`/`.pt` in the public Mask DINO's or detrex's naming.
        num_queries, num_heads, box_init: what the public formats do not tell; a native file carries its own, and these are
            ignored there.
        class_names: names of the classes in the order of the logits; COCO's for an 80-class public file.
        overrides: fields of ModelConfig that leave every tensor's shape as it is (input_size, association, ...).

    Raises:
        CheckpointError: missing, truncated or foreign file; missing, unexpected or mis-shaped tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a .safetensors or .pth checkpoint")
    if path.suffix == ".safetensors":
        tensors, config = _read_native(path)
    else:
        tensors = _rename(path, _read_pickle(path))
        config = _infer(path, tensors, num_queries, num_heads, box_init)
    if class_names is not None:
        overrides["class_names"] = tuple(class_names)
    try:
        config = config.replace(**overrides)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model = Local2Global(config)
    _check(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval()


def save_checkpoint(model: Local2Global, path: str | os.PathLike) -> None:
    """Write a native checkpoint: safetensors with the config in its header, replaced atomically."""
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={CONFIG_KEY: json.dumps(model.config.to_dict())})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _read_native(path: Path) -> tuple[dict[str, Tensor], ModelConfig]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, struct.error) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None
    if CONFIG_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file without '{CONFIG_KEY}' in its header; "
            "expected a checkpoint written by l2g.save_checkpoint"
        )
    try:
        return tensors, ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its config is damaged or from another version of l2g: {error}") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{path}: not a whole PyTorch checkpoint of plain tensors ({reason[0] if reason else type(error).__name__}); "
            "copy or download it again. A file that pickles other objects is not loaded, since that would run its code: "
            "save its tensors alone with torch.save({'model': model.state_dict()}, ...)"
        ) from None
    found = type(data).__name__
    if isinstance(data, dict):
        data = data.get("model", data)
        tensors = {name: value for name, value in data.items() if isinstance(value, Tensor)} if isinstance(data, dict) else {}
        if tensors:
            return tensors
        found = "a dict without tensors"
    raise CheckpointError(f"{path}: {found} found, expected a state dict, or a dict with one under 'model'")


def _rename(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        alias = next(((pattern, to) for pattern, to in PUBLIC_ALIASES if pattern.match(name)), None)
        prefix = next(((old, new) for old, new in PUBLIC_NAMES if name.startswith(old)), None)
        if alias:
            copies.setdefault(alias[0].sub(alias[1], name), tensor.float())
        elif prefix is None:
            unknown.append(name)
        elif prefix[1] is not None:
            renamed[prefix[1] + name.removeprefix(prefix[0])] = tensor.float()
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} unexpected tensors, the first: {', '.join(unknown[:3])}; expected a Mask DINO checkpoint "
            "with the names of its public implementation (ResNet backbone, four feature levels, one FPN level)"
        )
    return {**copies, **renamed}


def _infer(path: Path, tensors: dict[str, Tensor], num_queries: int, num_heads: int, box_init: str) -> ModelConfig:
    """The ModelConfig that the shapes describe; CheckpointError names what is missing for that."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor '{name}' (l2g's name) is missing, so the architecture cannot be inferred")
        return tensors[name].shape

    def count(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return 1 + max((int(match[1]) for name in tensors if (match := pattern.match(name))), default=-1)

    num_classes, hidden_dim = shape("heads.class_embed.weight")
    bottleneck = "backbone.res2.0.conv3.weight" in tensors
    out_channels = shape(f"backbone.res2.0.conv{3 if bottleneck else 2}.weight")[0]
    try:
        return ModelConfig(
            backbone=BackboneConfig(
                block="bottleneck" if bottleneck else "basic",
                blocks=tuple(count(f"backbone.res{stage}.") for stage in range(2, 6)),
                stem_channels=shape("backbone.stem.conv1.weight")[0],
                width=shape("backbone.res2.0.conv1.weight")[0],
                out_channels=out_channels,
            ),
            encoder=EncoderConfig(
                layers=count("encoder.layers."),
                ffn_dim=shape("encoder.layers.0.linear1.weight")[0],
                mask_dim=shape("encoder.mask_features.weight")[0],
            ),
            aligner=None,
            decoder=DecoderConfig(layers=count("decoder.layers."), ffn_dim=shape("decoder.layers.0.linear1.weight")[0]),
            num_queries=num_queries,
            num_classes=num_classes,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            box_init=box_init,
            association="embedding",
            class_names=COCO_CLASSES if num_classes == len(COCO_CLASSES) else (),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    shaped = sorted(name for name in set(found) & set(expected) if found[name].shape != expected[name].shape)
    if not (missing or unexpected or shaped):
        return
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:3])}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if shaped:
        details = [f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)}" for name in shaped[:3]]
        parts.append(f"{len(shaped)} of another shape: {'; '.join(details)}")
    raise CheckpointError(
        f"{path}: the tensors do not fit the model. {'. '.join(parts)}. "
        "Check num_heads and the other overrides, or whether the file is complete"
    )
