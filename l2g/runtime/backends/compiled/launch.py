"""Where work runs and how it is started: on a CPU by calling it, on a GPU by launching what was captured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2g.runtime.arrays import Array
from l2g.runtime.backends.contract_check import first_line

# Reads and writes tensors of fixed places; the results are its own until it runs again.
Work = Callable[[], tuple[Tensor, ...]]
# Runs before a capture: kernels are compiled, libraries choose theirs and take their memory.
WARM_UPS = 3


class Launcher:
    """A CPU: work is called, memory is plain. how: what a step is, for people."""

    how = "one operator after another"

    def __init__(self, device: torch.device):
        self.device = device

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What work is run in: no gradients; on a GPU float32 in full, and sums of 16-bit products in float32."""
        with torch.no_grad():
            yield

    def staging(self, like: Tensor) -> Tensor:
        """Host memory from which `like` is filled: here itself."""
        return like

    def ready(self, works: Sequence[Work]) -> list[Work]:
        """The same works in a form that starts fast. They have been run in `scope` when this returns."""
        return list(works)

    def fetch(self, tensors: Sequence[Tensor]) -> list[Array]:
        """Copies on the host, the caller's to keep."""
        return [np.array(tensor.numpy()) for tensor in tensors]


class CudaLauncher(Launcher):
    """A GPU: a stream of its own, a CUDA graph for each work, pinned memory on the host."""

    def __init__(self, device: torch.device, capture: bool = True):
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._capture = capture

    @contextmanager
    def scope(self) -> Iterator[None]:
        matmul = torch.backends.cuda.matmul
        before = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
        # cuDNN computes FP32 convolutions in TF32 unless told; its choice of kernels is measured once for each shape.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        # What the caller's stream was told before (weights moved, converted) is done before this.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.no_grad(), torch.cuda.device(self.device), torch.cuda.stream(self._stream), exact:
            matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
            try:
                yield
            finally:
                matmul.allow_fp16_reduced_precision_reduction = before[0]
                matmul.allow_bf16_reduced_precision_reduction = before[1]

    def staging(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def ready(self, works: Sequence[Work]) -> list[Work]:
        for _ in range(WARM_UPS):
            for work in works:
                work()
        self._stream.synchronize()
        if not self._capture:
            return list(works)
        try:
            # They never run at once, and what one leaves is fetched before the next: they share their memory.
            pool = torch.cuda.graph_pool_handle()
            captured = [self._captured(work, pool) for work in works]
        except RuntimeError as error:
            warnings.warn(f"runs without CUDA graphs ({first_line(error)})", stacklevel=2)
            torch.cuda.synchronize(self.device)
            return list(works)
        self.how = "one launch of a CUDA graph"
        return captured

    def _captured(self, work: Work, pool: Any) -> Work:
        graph = torch.cuda.CUDAGraph()
        # What other threads do (decoding, say) is no part of it and no error.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            results = work()

        def launch() -> tuple[Tensor, ...]:
            graph.replay()
            return results

        return launch

    def fetch(self, tensors: Sequence[Tensor]) -> list[Array]:
        # PyTorch keeps pinned memory that is given back, so that each result can have its own.
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for target, source in zip(pinned, tensors, strict=True):
            target.copy_(source, non_blocking=True)
        self._stream.synchronize()
        return [target.numpy() for target in pinned]
