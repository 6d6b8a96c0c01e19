"""A trace without the arithmetic: it keeps no values, so what is dear in a step need only have the right shape."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# PyTorch's names of what nearly all of a step's time goes to.
_DEAR = (
    "_convolution",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_dot_product_flash_attention_for_cpu",
    "deformable_attention",
)


@contextmanager
def nothing_computed(module: nn.Module) -> Iterator[None]:
    """While it is open, convolutions, products and attention in the module's `forward` give zeros of their shape."""
    forward = module.forward
    with ThreadPoolExecutor(1) as aside:

        def shaped(*inputs: Tensor):
            with _RecordedConvolutions(), _ShapesAlone(aside):
                return forward(*inputs)

        module.forward = shaped
        try:
            yield
        finally:
            del module.forward


class _ShapesAlone(TorchDispatchMode):
    def __init__(self, aside: Executor):
        super().__init__()
        self._aside = aside

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.overloadpacket.__name__ not in _DEAR:
            return operator(*args, **(kwargs or {}))
        # Another thread: in the one that traces every size is a tensor, for which no shape can be computed.
        return self._aside.submit(zeros, operator, args, kwargs or {}).result()


def zeros(operator, args, kwargs):
    """What the operator would give, without its numbers."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), operator(*args, **kwargs))


class _RecordedConvolutions(TorchFunctionMode):
    """Convolutions by the name under which a trace records them, which it does too late for a dispatch mode."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return _RECORDED.get(function, function)(*args, **(kwargs or {}))


def _conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return _convolution(x, weight, bias, (stride, padding, dilation), False, 0, groups)


def _conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return _convolution(x, weight, bias, (stride, padding, dilation), True, output_padding, groups)


def _convolution(x, weight, bias, sizes, transposed, added, groups):
    stride, padding, dilation, added = ((n, n) if isinstance(n, int) else n for n in (*sizes, added))
    flags = False, False, True, True  # those of a convolution on a CPU; no graph has them
    return torch._convolution(x, weight, bias, stride, padding, dilation, transposed, added, groups, *flags)


_RECORDED = {torch.conv2d: _conv2d, torch.conv_transpose2d: _conv_transpose2d}
