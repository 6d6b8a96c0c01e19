"""The few things that an engine needs of a GPU: memory, copies, one stream, captured graphs. Needs no torch.

`Device` is the interface; `CudaDevice` is the GPU, through NVIDIA's own Python bindings. Tests run the backend on a
device whose memory is the host's, so that everything above this interface is tested on machines without a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from l2g.artifacts.sidecar import Gpu
from l2g.errors import EngineError
from l2g.runtime.arrays import Array

INSTALL = "install it with: pip install cuda-bindings"


class Device(Protocol):
    """Memory and work on one GPU, in order, on one stream. Addresses and handles are opaque integers and objects.

    Everything but `allocate`, `synchronize` and what frees is asynchronous: it is done when `synchronize` returns.
    """

    stream: int

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, all zero."""

    def free(self, address: int) -> None: ...

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A host array that copies can go to and from while other work runs."""

    def release(self, array: Array) -> None:
        """Give the memory of a `pinned` array back."""

    def upload(self, address: int, array: Array) -> None: ...

    def download(self, array: Array, address: int) -> None: ...

    def synchronize(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what `work` puts on the stream as a graph; EngineError where that is not possible."""

    def launch(self, graph: Any) -> None: ...

    def destroy(self, graph: Any) -> None: ...

    def close(self) -> None: ...


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU of that number; None where there is none, or no driver, or no binding to ask with."""
    try:
        runtime = _runtime()
    except EngineError:
        return None
    error, count = runtime.cudaGetDeviceCount()
    if _failed(error) or not count or index >= count:
        return None
    error, properties = runtime.cudaGetDeviceProperties(index)
    if _failed(error) or _failed(runtime.cudaSetDevice(index)[0]):
        return None
    error, free, total = runtime.cudaMemGetInfo()
    if _failed(error):
        return None
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(name.rstrip("\0"), (properties.major, properties.minor), int(total), int(free))


class CudaDevice:
    """A GPU by its number; see `Device`. EngineError where there is none."""

    def __init__(self, index: int = 0):
        self._cuda = _runtime()
        self._do("cudaSetDevice", index)
        # Not ordered after the default stream, so that nobody else's work waits for ours.
        self._stream = self._do("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self.stream = int(self._stream)
        self._pinned: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        address = int(self._do("cudaMalloc", max(size, 1)))
        self._do("cudaMemsetAsync", address, 0, size, self._stream)
        return address

    def free(self, address: int) -> None:
        self._do("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._do("cudaHostAlloc", max(size, 1), self._cuda.cudaHostAllocDefault))
        memory = memoryview((ctypes.c_char * size).from_address(address))
        array: Array = np.frombuffer(memory, dtype=np.dtype(dtype)).reshape(shape)
        self._pinned[array.ctypes.data] = address
        return array

    def release(self, array: Array) -> None:
        self._do("cudaFreeHost", self._pinned.pop(array.ctypes.data))

    def upload(self, address: int, array: Array) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: Array, address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        self._do("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        # Of this thread only: decoders of other threads may allocate meanwhile.
        self._do(
            "cudaStreamBeginCapture", self._stream, self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        failure = None
        try:
            work()
        except EngineError as refused:
            failure = refused
        error, graph = self._cuda.cudaStreamEndCapture(self._stream)
        if failure is not None or _failed(error):
            self._cuda.cudaGetLastError()  # a failed capture is reported once more otherwise
            raise failure or EngineError(f"the work cannot be captured as a CUDA graph ({self._text(error)})")
        try:
            return self._do("cudaGraphInstantiate", graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        self._do("cudaGraphLaunch", graph, self._stream)

    def destroy(self, graph: Any) -> None:
        self._do("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        for address in self._pinned.values():
            self._do("cudaFreeHost", address)
        self._pinned = {}
        self._do("cudaStreamDestroy", self._stream)

    def _do(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, function)(*arguments)
        if _failed(error):
            raise EngineError(f"{function} failed: {self._text(error)}; is the GPU out of memory or lost (nvidia-smi)?")
        return values[0] if values else None

    def _text(self, error: Any) -> str:
        _, text = self._cuda.cudaGetErrorString(error)
        return f"{text.decode() if isinstance(text, bytes) else text} (cudaError {int(error)})"


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"'{error.name or 'cuda.bindings'}' is not installed, and the GPU is driven by it; {INSTALL}"
        ) from None
    return runtime


def _failed(error: Any) -> bool:
    return int(error) != 0
