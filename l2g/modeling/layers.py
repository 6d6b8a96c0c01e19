"""Small layers that several parts share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a layer computes with at a time on a CPU. A feed-forward network of 34,537 tokens, 256 channels and 2048 inside
# takes two threads with AVX2 0.45 s so, and 0.56 s whole.
PART_BYTES = 1 << 23


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Base of a post-norm layer's second half: `norm(x + linear2(relu(linear1(x))))`."""

    def add_feed_forward(self, hidden_dim: int, ffn_dim: int) -> None:
        self.linear1 = nn.Linear(hidden_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, hidden_dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def feed_forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        def layer(x: Tensor) -> Tensor:
            # In place saves memory. Where gradients are wanted it costs three passes through memory more: a layer's
            # result is a view, and PyTorch copies the gradient of what a view was taken from.
            hidden = F.relu(self.linear1(x), inplace=not torch.is_grad_enabled())
            return norm(x + self.linear2(hidden))

        return by_rows(layer, x, self.linear1.out_features)


def by_rows(layer: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """layer(x) of [..., C], which is another [..., C] of each row alone; where numbers are all that is wanted on a CPU,
    of so few rows at a time that its inner tensor, of `width` numbers each, stays in the cache."""
    if not by_hand(x):
        return layer(x)
    size = max(1, PART_BYTES // (width * x.element_size()))
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= size:
        return layer(x)
    out = torch.empty_like(rows)
    for part, into in zip(rows.split(size), out.split(size), strict=True):
        into.copy_(layer(part))
    return out.view(x.shape)


def by_hand(*tensors: Tensor) -> bool:
    """Whether nothing but the numbers is wanted, on a CPU: no gradient, no graph, and no other precision."""
    followed = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return plain and not followed and not torch.is_grad_enabled()


def zero_bias(layer: nn.Conv2d) -> None:
    """Start a convolution that has a bias with a bias of zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention; not asking for its weights keeps the fused kernel. `mask`: True where forbidden."""
    return attention(query, key, value, attn_mask=mask, need_weights=False)[0]
