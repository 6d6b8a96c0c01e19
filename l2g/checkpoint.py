"""Checkpoints in, checkpoints out: native safetensors, the public Mask DINO `.pth`, detrex's variant, and what other
families of models bring along: folders and ids of the Hugging Face hub, their authors' files.

The architecture of a public file is read off names and shapes; only what shapes cannot tell has a default and an
override.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2g.config import ModelConfig
from l2g.errors import CheckpointError, ConfigError
from l2g.files import write_atomically
from l2g.modeling.family.maskdino import public_model, public_name
from l2g.modeling.family.pickled import read_tensors, unwrapped
from l2g.modeling.family.protocol import VideoModel
from l2g.modeling.family.weight_sums import check_beside, check_sum, save_with_sum
from l2g.modeling.local2global import Local2Global
from l2g.public.hub import folder_of, is_hub_checkpoint, model_type
from l2g.public.table import public_models, published

CONFIG_KEY = "l2g.config"
# Checkpoints that are installed with the package.
WEIGHTS = Path(__file__).parent / "weights"

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
            300, 8, and what the public config of such an encoder says: "mask2box" with a ResNet and "bitmask" with one
            of 1024 inner channels or with a Swin (whose variants without mask enhancement were trained with "no"),
            "no" for a ResNet's five levels or its res2, and for the 133 classes of COCO's things and stuff;
            a file in `l2g models` of another is known by its published name.
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
    overrides = given if names is None else given | {"class_names": names}
    try:
        if config is None:
            _check_not_bare(path, tensors)
            config, tensors = public_model(path, tensors)
        config = config.replace(**overrides)
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
            f"{path}: {', '.join(sorted(given)).replace('_', ' ')} given, which only a checkpoint of Mask DINO or "
            "Local2Global takes; this one says all of it, so leave it away"
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
    named = public_name if public else str
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
    named = public_name if public else str
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
    by_heads = any("sampling_offsets" in name or "attention_weights" in name for name in shaped)
    raise CheckpointError(
        f"{path}: the tensors do not fit the model. {'. '.join(parts)}. "
        f"Check {'num_heads' if by_heads else 'the overrides'}, or whether the file is complete"
    )
