"""A model as it is run and no longer trained: folded norms, reduced precision with float32 islands, fused attention.

The islands are those of an exported FP16 graph (`l2g.export.precision.islands`), reached from the other side.
Parameters live in the reduced type, and every layer that has some takes its inputs in its own type. What modules
compute between them (normalisation of frames, locations and softmax of deformable attention, sine embedding, boxes,
extents of masks) has no parameters, begins in float32 and stays so, since PyTorch does arithmetic of two types in the
wider one. The heads that tokens are ranked by keep float32 parameters, and so do the norms of the layers that add to
queries, which thereby stay float32 from layer to layer.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from l2g.errors import L2GError
from l2g.modeling.aligner import AlignerLayer
from l2g.modeling.backbones.resnet import Conv, FrozenBatchNorm
from l2g.modeling.decoder import DecoderLayer
from l2g.modeling.deformable import DeformableAttention
from l2g.modeling.encoder import EncoderLayer
from l2g.modeling.family import CLASS_HEADS
from l2g.modeling.family.protocol import VideoModel
from l2g.runtime.backends.compiled.attention import FusedDeformableAttention

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Layers that compute with what they are given and their own parameters only.
_LEAVES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention)
# Of layers that add to what they are given: how many of the first arguments are tokens. Boxes stay as they are.
_ADDING: dict[type[nn.Module], int] = {EncoderLayer: 2, DecoderLayer: 2, AlignerLayer: 4}
# The modules, in each family, whose results a product makes masks of: both in one type, whichever of them is kept.
_MASK_FACTORS = ("mask_embed", "mask_features", "mask_head", "upscale_block")


def prepare(model: VideoModel, precision: str, keep: Collection[str] = ()) -> VideoModel:
    """A copy of `model`, in evaluation mode, on its device.

    precision: "fp32", "fp16" or "bf16". keep: modules by their path ("encoder.layers.0"), as an exported graph's blocks
    are named, that stay float32 beside the islands. Raises L2GError for a precision or a module that is not there.
    """
    if precision not in PRECISIONS:
        raise L2GError(f"precision '{precision}' found, one of {', '.join(PRECISIONS)} expected")
    prepared = deepcopy(model).eval().requires_grad_(False)
    _check_kept(prepared, keep)
    _fold_norms(prepared)
    for module in prepared.modules():
        if type(module) is DeformableAttention:
            module.__class__ = FusedDeformableAttention
    _reduce(prepared, PRECISIONS[precision], keep)
    # Frames arrive with their channels last; only the weights have to follow. Tensor cores want them so.
    return prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def island(path: str) -> bool:
    """Whether a module's parameters stay float32 whatever the precision: of those that rank tokens, and of the norms
    of queries."""
    parts = path.split(".")
    queries = parts[0] in ("aligner", "decoder") or path == "heads.norm"
    return any(part in CLASS_HEADS for part in parts) or (queries and parts[-1].startswith("norm"))


def _check_kept(model: VideoModel, keep: Collection[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for name in keep:
        if name not in known:
            layers = [each for each in known if each.count(".") == 1]
            raise L2GError(f"the model has no block '{name}'; it has {', '.join(layers)} and what is inside of them")


def _fold_norms(model: nn.Module) -> None:
    """A convolution and its frozen norm become one convolution with a bias, computed in float32."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv) and isinstance(child.norm, FrozenBatchNorm):
                setattr(parent, name, _folded(child, child.norm))


def _folded(conv: Conv, norm: FrozenBatchNorm) -> nn.Conv2d:
    scale, shift = norm.scale_and_shift()
    channels, kernel = (conv.in_channels, conv.out_channels), conv.kernel_size
    plain = nn.Conv2d(*channels, kernel, conv.stride, conv.padding, device="meta")  # type: ignore[arg-type]
    plain.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    plain.bias = nn.Parameter(shift, requires_grad=False)
    return plain.eval()


def _reduce(model: VideoModel, dtype: torch.dtype, keep: Collection[str]) -> None:
    """Parameters into `dtype` but for islands and what is kept, and each layer's inputs into its own type."""
    for path, module in model.named_modules():
        # What the model itself holds goes into its own arithmetic, which is an island.
        if not path or island(path) or any(f"{path}.".startswith(f"{kept}.") for kept in keep):
            continue
        own = list(module.parameters(recurse=False))
        # A weight beyond the type's end would be infinite.
        if all(parameter.abs().max() <= torch.finfo(dtype).max for parameter in own if parameter.numel()):
            for parameter in own:
                parameter.data = parameter.data.to(dtype)
    for path, module in model.named_modules():
        if isinstance(module, _LEAVES):
            module.register_forward_pre_hook(_own_type, with_kwargs=True)
        elif type(module) in _ADDING:
            module.register_forward_pre_hook(_tokens_type)
        if path.rpartition(".")[2] in _MASK_FACTORS:
            module.register_forward_hook(lambda _, __, result: _cast(result, dtype))


def _own_type(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    own = next(module.parameters()).dtype
    return tuple(_cast(value, own) for value in given), {name: _cast(value, own) for name, value in named.items()}


def _tokens_type(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    own = module.get_parameter("norm1.weight").dtype
    count = _ADDING[type(module)]
    return (*(_cast(value, own) for value in given[:count]), *given[count:])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
