"""Deformable attention from what the projections give, as one operator: `l2g::fused_deformable_attention`.

    value      [B, S, M, D]             S tokens of all levels after each other, M heads of width D
    sizes      (h, w, h, w, ...)        of each of the L levels
    reference  float32 [1 or B, Q, 2]   points in 0..1, or [B, Q, 4] boxes
    offsets    [B, Q, M, L, P, 2]       pixels of a level around a point, shares of the sides around a box
    logits     [B, Q, M, L * P]         of whose softmax the weights are
    returns    [B, Q, M * D]            in the type of the values

Floating point of any type goes in; locations, weights and sums are float32. On a GPU it is the Triton kernel of
`kernel`, elsewhere, and where Triton is not installed, `plain`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from l2g.errors import L2GError
from l2g.modeling.deformable import DeformableAttention, Shapes, sample_locations
from l2g.runtime.backends.contract_check import first_line


def plain(value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """As the model itself computes it, in float32 throughout."""
    locations = sample_locations(reference.float(), offsets.float(), shapes, offsets.shape[4])
    weights = logits.float().softmax(-1).view(locations.shape[:-1])
    flat = [side for shape in shapes for side in shape]
    summed: Tensor = torch.ops.l2g.deformable_attention(value.float(), flat, locations, weights)
    return summed.to(value.dtype)


@cache
def has_kernel(device: torch.device) -> bool:
    """Whether the operator is the kernel on this device: a GPU where it can be compiled and gives what `plain` does."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        from l2g.runtime.backends.compiled.kernel import fused_deformable_attention

        check(fused_deformable_attention, device)
    except Exception as error:  # of Triton, its compiler, the driver: of whatever class
        warnings.warn(f"deformable attention runs without its kernel ({first_line(error)})", stacklevel=2)
        return False
    return True


def check(kernel: Callable[..., Tensor], device: torch.device) -> None:
    """L2GError where a kernel gives something else than `plain`, for points in and around two small levels."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 7), (3, 4))
    sizes = ((2, 47, 2, 32), (2, 9, 4), (2, 9, 2, 2, 4, 2), (2, 9, 2, 8))
    value, reference, offsets, logits = (torch.randn(size, generator=generator).to(device) for size in sizes)
    found = kernel(value, shapes, reference.sigmoid(), offsets, logits)
    apart = (found - plain(value, shapes, reference.sigmoid(), offsets, logits)).abs().max().item()
    if not apart < 1e-4:
        raise L2GError(f"its results are {apart:.2g} away from those of PyTorch's operators")


def _operator(value: Tensor, sizes: list[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    shapes = tuple(zip(sizes[::2], sizes[1::2], strict=True))
    if not has_kernel(value.device):
        return plain(value, shapes, reference, offsets, logits)
    from l2g.runtime.backends.compiled.kernel import fused_deformable_attention

    return fused_deformable_attention(value, shapes, reference, offsets, logits)


def _shape(value: Tensor, sizes: list[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


torch.library.define(
    "l2g::fused_deformable_attention",
    "(Tensor value, int[] sizes, Tensor reference, Tensor offsets, Tensor logits) -> Tensor",
)
torch.library.impl("l2g::fused_deformable_attention", "CompositeExplicitAutograd", _operator)
torch.library.register_fake("l2g::fused_deformable_attention", _shape)


class FusedDeformableAttention(DeformableAttention):
    """The module with the operator in the place of softmax, locations and samples. Inference only."""

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, value: Tensor | None = None
    ) -> Tensor:
        """As the module's; `value` has a row for each of the queries': several that share one are for training."""
        b, q, dim = query.shape
        if value is None:
            value = self.value_proj(memory).view(b, -1, self.heads, dim // self.heads)
        elif value.shape[0] != b:
            raise ValueError(f"{value.shape[0]} memories found for {b} streams, one each expected")
        offsets = self.sampling_offsets(query).view(b, q, self.heads, self.levels, self.points, 2)
        logits = self.attention_weights(query).view(b, q, self.heads, -1)
        sizes = [side for shape in shapes for side in shape]
        read = torch.ops.l2g.fused_deformable_attention(value, sizes, reference, offsets, logits)
        projected: Tensor = self.output_proj(read)
        return projected
