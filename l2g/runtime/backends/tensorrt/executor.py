"""An engine that is ready to run: shapes and addresses in, work on a stream out. Needs no torch.

`Executor` is what the backend drives; `EngineExecutor` is TensorRT's or TensorRT-RTX's execution context.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from l2g.artifacts.sidecar import Sidecar
from l2g.contract import GraphContract
from l2g.errors import EngineError
from l2g.runtime.backends.contract_check import describe
from l2g.runtime.backends.tensorrt.library import Library, LibraryLog

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT8": "int8", "INT64": "int64"}
_MEND = {
    "UNSUPPORTED_CC": "it has no kernels for this GPU: build with --library tensorrt",
    "OLD_CUDA_DRIVER": "install a newer driver",
    "OLD_CUDA_RUNTIME": "install a newer CUDA runtime",
    "INSUFFICIENT_GPU_MEMORY": "free memory of the GPU, or build with fewer --max-streams",
    "CUDA_ERROR": "check the driver with nvidia-smi",
}


def why_invalid(trt: ModuleType, diagnostics: int) -> str:
    """What TensorRT-RTX's flags say of an engine that it refuses, and the ways to mend it."""
    flags = trt.EngineInvalidityDiagnostics.__members__
    found = [name for name, flag in flags.items() if int(diagnostics) & int(flag)]
    if not found:
        return f"diagnostics {int(diagnostics)}; build it again"
    return "; ".join(f"{name.lower().replace('_', ' ')}, {_MEND.get(name, 'build it again')}" for name in found)


class Executor(Protocol):
    """One execution context. max_streams: the most that the engine's profile allows. captures_itself: it makes CUDA
    graphs of its own, so nobody else should."""

    max_streams: int
    captures_itself: bool

    def shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input; EngineError where the engine does not take it."""

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies on the device, until it is bound again."""

    def enqueue(self, stream: int) -> None:
        """Put one frame's work on the stream; EngineError, with the library's log, where that fails."""

    def close(self) -> None: ...


class EngineExecutor:
    """A serialised engine in a library, checked against its contract; see `Executor`.

    Raises EngineError for an engine that the library does not open or whose inputs and outputs are not the contract's.
    """

    def __init__(self, path: Path, content: bytes, library: Library, sidecar: Sidecar):
        trt = library.trt
        self._path, self._log = path, LibraryLog(most=100)
        self._logger = self._log.logger(trt)
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = trt.Runtime(self._logger)
        if library.lean and self._log.errors:
            # 11.4 gives an object all the same, and ends the process when anything is asked of it or when it is freed:
            # so it never is.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))
            raise self._failure("cannot be opened, since the lean runtime does not start")
        if sidecar.engine.holds_host_code:
            # Engines are code anyhow, and this one is the one that its sidecar vouches for.
            self._runtime.engine_host_code_allowed = True
        if library.rtx:
            self._check_validity(trt, content)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise self._failure("cannot be opened")
        self._check_boundary(trt, sidecar.contract)
        self.max_streams = int(self._engine.get_tensor_profile_shape("frames", 0)[2][0])
        self.captures_itself = False
        self._context = self._create_context(trt) if library.rtx else self._engine.create_execution_context()
        if self._context is None:
            raise self._failure("gives no execution context (is the GPU's memory full?)")

    def shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise self._failure(f"does not take input '{name}' of shape {list(shape)}")

    def bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._failure(f"does not take an address for '{name}'")

    def enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise self._failure("failed in a step")

    def close(self) -> None:
        # In this order: a context uses its engine, an engine its runtime.
        self._context = self._engine = self._runtime = None

    def _check_validity(self, trt: ModuleType, content: bytes) -> None:
        """TensorRT-RTX says beforehand, and why, when an engine is not for this GPU."""
        try:
            validity, diagnostics = self._runtime.get_engine_validity(content)
        except (AttributeError, TypeError, ValueError):
            return  # another version's interface; opening the engine will tell
        if validity == trt.EngineValidity.INVALID:
            raise EngineError(
                f"{self._path}: TensorRT-RTX does not run it on this machine: {why_invalid(trt, diagnostics)}"
            )

    def _create_context(self, trt: ModuleType) -> Any:
        """TensorRT-RTX compiles kernels while it runs, so only itself knows when a graph is worth capturing."""
        try:
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        except (AttributeError, TypeError, RuntimeError) as error:
            warnings.warn(f"{self._path}: runs without CUDA graphs ({error})", stacklevel=2)
            context = None
        self.captures_itself = True
        return context or self._engine.create_execution_context()

    def _check_boundary(self, trt: ModuleType, contract: GraphContract) -> None:
        """The engine's inputs and outputs are those that the contract names."""
        engine = self._engine
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = [dim if dim >= 0 else "B" for dim in engine.get_tensor_shape(name)]
            found[name] = describe(_DTYPES.get(engine.get_tensor_dtype(name).name, "another type"), shape)
        expected = {spec.name: describe(spec.dtype, spec.shape) for spec in (*contract.inputs, *contract.outputs)}
        for name in [*expected, *found]:
            if found.get(name) != expected.get(name):
                raise EngineError(
                    f"{self._path}: tensor '{name}': the engine has {found.get(name, 'none of that name')}, its "
                    f"contract says {expected.get(name, 'none of that name')}: it is another model's; build it again"
                )

    def _failure(self, what: str) -> EngineError:
        return EngineError(f"{self._path}: the engine {what}; the library's log ends with\n  {self._log.tail()}")
