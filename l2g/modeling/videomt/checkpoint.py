"""A VidEoMT out of a Hugging Face folder or a file of its authors, and into a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import VideomtConfig, VideomtForUniversalSegmentation
from transformers.utils import logging

from l2g.errors import CheckpointError, ConfigError
from l2g.files import folder_atomically, write_atomically
from l2g.modeling.family.weight_sums import SUM_KEY, check_sum, save_with_sum
from l2g.modeling.videomt import preprocessing
from l2g.modeling.videomt.dinov3 import VideomtDinov3Config, VideomtDinov3ForUniversalSegmentation
from l2g.modeling.videomt.model import Config, Network, Videomt
from l2g.public.hub import model_type

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# By what a config calls them.
_NETWORKS: dict[str, tuple[type[Config], type[Network]]] = {
    "videomt": (VideomtConfig, VideomtForUniversalSegmentation),
    "videomt_dinov3": (VideomtDinov3Config, VideomtDinov3ForUniversalSegmentation),
}
# Of training: a file may have them or not.
_TRAINING = re.compile(r"^(criterion\..*|attn_mask_probs|embeddings\.mask_token)$")
# The channels of an attention head, the same in every public ViT: a file of tensors does not tell it.
_HEAD_CHANNELS = 64
# What the published models with DINOv3 have and no tensor tells: their canvas, by the classes, and the norms' epsilon.
_CANVAS, _LARGE_CANVAS, _LARGE_CLASSES = 640, 1280, 124
_DINOV3_EPS = 1e-5
# The authors' names and transformers', by prefix. Query, key and value of an attention lie in one tensor there.
_TRUNK = "backbone.encoder.backbone."
_AUTHORS = (
    (_TRUNK + "patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    (_TRUNK + "patch_embed.", "embeddings."),  # with DINOv3, whose modules are transformers' own
    (_TRUNK + "cls_token", "embeddings.cls_token"),
    (_TRUNK + "reg_token", "embeddings.register_tokens"),
    (_TRUNK + "pos_embed", "embeddings.position_embeddings.weight"),
    (_TRUNK + "norm.", "layernorm."),
    (_TRUNK + "blocks.", "layers."),
    ("backbone.q.", "query."),
    ("backbone.query_updater.", "query_updater."),
    ("backbone.class_head.", "class_predictor."),
    ("backbone.mask_head.0.", "mask_head.fc1."),
    ("backbone.mask_head.2.", "mask_head.fc2."),
    ("backbone.mask_head.4.", "mask_head.fc3."),
    ("backbone.upscale.", "upscale_block.block."),
    ("backbone.attn_mask_probs", "attn_mask_probs"),
)
# What follows the number of a layer or of an upscaling.
_INSIDE = (
    (".attn.proj.", ".attention.out_proj."),
    (".ls1.gamma", ".layer_scale1.lambda1"),
    (".ls2.gamma", ".layer_scale2.lambda1"),
    (".norm.", ".layernorm2d."),
)


def load(folder: Path, class_names: tuple[str, ...] | None = None) -> Videomt:
    """The model of `folder` (config.json, *.safetensors) in float32, in evaluation mode on the CPU.

    class_names: in place of the config's `id2label`. Raises CheckpointError where a file is missing, damaged or not of
    this network.
    """
    configuration, public = _NETWORKS[model_type(folder)]
    with _quiet(), _named(folder, "expected config.json and model.safetensors as transformers writes them"):
        config = configuration.from_pretrained(folder, local_files_only=True)
        loaded: Any = public.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # which is refused below, with the names
            output_loading_info=True,
        )
        network, report = loaded
        side = config.image_size if isinstance(config.image_size, int) else 0  # which the model refuses
        model = Videomt(network, class_names, preprocessing.read_normalisation(folder, side))
    shaped = [f"{name} is {list(found)}, expected {list(wanted)}" for name, found, wanted in report["mismatched_keys"]]
    _check(folder, report["missing_keys"], report["unexpected_keys"], shaped)
    _check_finite(folder, network)
    _check_sums(folder)
    return model.eval()


def from_tensors(path: Path, tensors: dict[str, Tensor], class_names: tuple[str, ...] | None = None) -> Videomt:
    """The model of the authors' own file, whose names and shapes tell the network; as `load` otherwise."""
    renamed = dict(pair for name, tensor in tensors.items() for pair in _renamed(name, tensor))
    with _quiet(), _named(path, "expected a whole VidEoMT with a DINOv2 or DINOv3 backbone"):
        network = _dinov3(renamed) if "layers.0.attention.o_proj.weight" in renamed else _dinov2(renamed)
        model = Videomt(network, class_names)
    expected = network.state_dict()
    shaped = [
        f"{name} is {list(renamed[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in renamed and renamed[name].shape != tensor.shape
    ]
    _check(path, set(expected) - set(renamed), set(renamed) - set(expected), shaped)
    network.load_state_dict({name: renamed.get(name, tensor) for name, tensor in expected.items()})
    _check_finite(path, network)
    return model.eval()


def save(model: Videomt, folder: Path) -> None:
    """Write config.json, model.safetensors and what frames are normalised by, which transformers reads too, whole or
    not at all; of a folder that is there these are replaced."""
    network = model.network
    network.config.id2label = dict(enumerate(model.config.class_names))
    network.config.label2id = {name: index for index, name in network.config.id2label.items()}
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: a file is there; a VidEoMT is saved into a folder, give its name")
    try:
        with _quiet(), TemporaryDirectory(prefix="l2g-save-") as made:
            network.save_pretrained(made)
            tensors, config = load_file(Path(made, WEIGHTS)), Path(made, CONFIG).read_bytes()
            processor = preprocessing.to_json(model.config.normalisation, model.config.input_size[0])
            with _files(folder) as files:
                save_with_sum(tensors, files[WEIGHTS], {"format": "pt"})
                files[CONFIG].write_bytes(config)
                files[preprocessing.FILE].write_text(processor, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder}: cannot be written ({text}); make room, or check its permissions") from None


@contextmanager
def _files(folder: Path) -> Iterator[dict[str, Path]]:
    """Where each file is to be written; a new folder appears with all of them, in an old one each is replaced."""
    names = (preprocessing.FILE, CONFIG, WEIGHTS)
    if not folder.exists():
        with folder_atomically(folder, CheckpointError) as fresh:
            yield {name: fresh / name for name in names}
        return
    with ExitStack() as stack:
        yield {name: stack.enter_context(write_atomically(folder / name, CheckpointError)) for name in names}


def _dinov2(tensors: dict[str, Tensor]) -> VideomtForUniversalSegmentation:
    """The network that names and shapes describe; KeyError for a tensor that is missing for that."""
    settings = _sizes(tensors, tensors["embeddings.patch_embeddings.projection.weight"])
    side = round(len(tensors["embeddings.position_embeddings.weight"]) ** 0.5)
    settings["image_size"] = side * settings["patch_size"]
    settings["mlp_ratio"] = len(tensors["layers.0.mlp.fc1.weight"]) // settings["hidden_size"]
    return VideomtForUniversalSegmentation(VideomtConfig(**settings))


def _dinov3(tensors: dict[str, Tensor]) -> VideomtDinov3ForUniversalSegmentation:
    """The same. No tensor tells the canvas: it is the published ones', which for VIPSeg and VSPW is larger; those two
    hand on normed queries."""
    settings = _sizes(tensors, tensors["embeddings.patch_embeddings.weight"])
    large = settings["num_labels"] == _LARGE_CLASSES
    settings |= {"image_size": _LARGE_CANVAS if large else _CANVAS, "norm_queries": large}
    mlp, attention = "layers.0.mlp.", "layers.0.attention."
    settings |= {
        "intermediate_size": len(tensors[mlp + "up_proj.weight"]),
        "use_gated_mlp": mlp + "gate_proj.weight" in tensors,
        "mlp_bias": mlp + "up_proj.bias" in tensors,
        "layer_norm_eps": _DINOV3_EPS,
    }
    for name in ("query", "key", "value", "proj"):
        letter = "o" if name == "proj" else name[0]
        settings[f"{name}_bias"] = f"{attention}{letter}_proj.bias" in tensors
    return VideomtDinov3ForUniversalSegmentation(VideomtDinov3Config(**settings))


def _sizes(tensors: dict[str, Tensor], patches: Tensor) -> dict[str, Any]:
    """What both backbones' configurations have. patches: the weight that embeds them."""
    hidden = tensors["embeddings.cls_token"].shape[-1]
    if hidden % _HEAD_CHANNELS:
        raise ConfigError(f"a width of {hidden} channels found, a multiple of {_HEAD_CHANNELS} expected")
    return {
        "hidden_size": hidden,
        "num_attention_heads": hidden // _HEAD_CHANNELS,
        "num_hidden_layers": _count(tensors, "layers."),
        "patch_size": patches.shape[-1],
        "num_register_tokens": tensors["embeddings.register_tokens"].shape[1],
        "num_upscale_blocks": _count(tensors, "upscale_block.block."),
        "num_blocks": len(tensors["attn_mask_probs"]),
        "num_queries": len(tensors["query.weight"]),
        "num_labels": len(tensors["class_predictor.weight"]) - 1,
    }


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of the authors under transformers' name; three of a fused attention."""
    tensor = tensor.float()
    known = next((pair for pair in _AUTHORS if name.startswith(pair[0])), None)
    if known is None:
        if not name.startswith("criterion."):
            yield name, tensor
        return
    new = known[1] + name.removeprefix(known[0])
    for old, public in _INSIDE:
        if new.startswith(("layers.", "upscale_block.")):
            new = new.replace(old, public)
    if ".attn.qkv." in new:
        for part, third in zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True):
            yield new.replace(".attn.qkv.", f".attention.{part}."), third
    else:
        yield new, tensor[0] if new == "embeddings.position_embeddings.weight" else tensor


def _check_sums(folder: Path) -> None:
    """Of a folder that `save` wrote; another's files carry none."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if SUM_KEY in metadata:
                check_sum(file, {name: opened.get_tensor(name) for name in opened.keys()}, metadata)  # noqa: SIM118


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(match[1]) for name in tensors if (match := pattern.match(name))), default=-1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and warnings: what it would warn of is refused here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _named(path: Path, expected: str) -> Iterator[None]:
    """One CheckpointError for whatever the libraries say, whose classes share no other base."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{path}: no whole VidEoMT ({type(error).__name__}: {reason}); {expected}; copy or download it again"
        ) from None


def _check(path: Path, missing: Any, unexpected: Any, shaped: list[str]) -> None:
    parts = []
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        if names := sorted(name for name in names if not _TRAINING.match(name)):
            parts.append(f"{len(names)} {kind}: {', '.join(names[:3])}")
    if shaped:
        parts.append(f"{len(shaped)} of another shape: {'; '.join(sorted(shaped)[:3])}")
    if parts:
        raise CheckpointError(
            f"{path}: the tensors do not fit the network. {'. '.join(parts)}. Is it of one checkpoint?"
        )


def _check_finite(path: Path, network: torch.nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: tensor '{name}' holds NaN or infinity: the training that wrote it had diverged, or the file "
                "is damaged; download it again"
            )
