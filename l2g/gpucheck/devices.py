"""The device that is checked: what PyTorch, ONNX Runtime and engines are told of it. Tests imagine one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.errors import L2GError
from l2g.gpucheck.ways import COMPILED, LIBRARY_OF, ONNXRUNTIME, PYTORCH, RTX, TENSORRT, Way
from l2g.runtime.backends.base import Backend

if TYPE_CHECKING:
    import torch

    from l2g.artifacts.sidecar import Gpu

NO_GPU = "no GPU"


class Hardware:
    """A GPU, or with kind "cpu" the processor. Nothing heavy is imported before it is asked for."""

    def __init__(self, kind: str = "cuda"):
        self.kind = kind

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.kind)

    def synchronize(self) -> None:
        """Wait until PyTorch's work on the device is done."""
        if self.kind == "cuda":
            import torch

            torch.cuda.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record PyTorch's work as a CUDA graph; what comes back runs it again. L2GError where it cannot be."""
        import torch

        try:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries choose and allocate in the first calls, which a capture does not survive
                    work()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
        except RuntimeError as error:
            raise L2GError(f"the work cannot be captured as a CUDA graph: {str(error).splitlines()[0]}") from None
        replay: Callable[[], None] = graph.replay
        return replay

    def gpu(self) -> Gpu | None:
        """As engines see it."""
        from l2g.runtime.backends.tensorrt.device import find_gpu

        return find_gpu() if self.kind == "cuda" else None

    def names(self) -> tuple[str, ...]:
        """Of the GPUs, as the CUDA bindings or else PyTorch know them: a Jetson has no nvidia-smi."""
        if (gpu := self.gpu()) is not None:
            return (f"{gpu.name}, compute capability {gpu.capability}",)
        with contextlib.suppress(ImportError):
            import torch

            if self.kind == "cuda" and torch.cuda.is_available():
                return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return ()

    def why_not(self) -> dict[str, str]:
        """By what could run a model, why it cannot here; "" where it can."""
        asked: dict[str, Callable[[], str]] = {
            PYTORCH: self._without_pytorch,
            COMPILED: self._without_compiling,
            ONNXRUNTIME: self._without_onnxruntime,
            TENSORRT: lambda: self._without_engines(LIBRARY_OF[TENSORRT]),
            RTX: lambda: self._without_engines(LIBRARY_OF[RTX]),
        }
        found: dict[str, str] = {}
        for name, ask in asked.items():
            try:
                found[name] = ask()
            except Exception as error:  # a library that does not load is a reason, whatever it raises
                found[name] = f"{type(error).__name__}: {error}"
        return found

    def open_graph(self, path: Path, way: Way) -> Backend:
        from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

        if self.kind == "cpu":
            return OnnxRuntimeBackend(path, ["CPUExecutionProvider"])
        return OnnxRuntimeBackend(path, [("CUDAExecutionProvider", {"use_tf32": str(int(way.precision == "tf32"))})])

    def open_engine(self, path: Path) -> Backend:
        from l2g.runtime.backends.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(path)

    def open_compiled(
        self, checkpoint: str, precision: str, canvas: tuple[int, int] | None, top_k: int | None
    ) -> Backend:
        from l2g.runtime.backends.open import open_backend

        return open_backend(checkpoint, top_k=top_k, canvas=canvas, compile=True, precision=precision, device=self.kind)

    def _without_pytorch(self) -> str:
        import torch

        return "" if self.kind == "cpu" or torch.cuda.is_available() else "PyTorch sees no GPU (a build for CPUs?)"

    def _without_compiling(self) -> str:
        return self._without_pytorch() if self.kind == "cuda" else NO_GPU

    def _without_onnxruntime(self) -> str:
        import onnxruntime

        provider = "CUDAExecutionProvider" if self.kind == "cuda" else "CPUExecutionProvider"
        known = onnxruntime.get_available_providers()
        return "" if provider in known else f"this ONNX Runtime has {', '.join(known)}; pip install 'l2g[gpu]'"

    def _without_engines(self, name: str) -> str:
        from l2g.artifacts.sidecar import runs_on
        from l2g.engines.builder import known_capabilities
        from l2g.runtime.backends.tensorrt.library import load_library

        if (gpu := self.gpu()) is None:
            return NO_GPU if self.kind == "cpu" else "the CUDA bindings see no GPU; pip install 'l2g[cuda]'"
        try:
            library = load_library(name)
        except L2GError as error:
            return str(error)
        if library.rtx and not runs_on(gpu, known := known_capabilities(library)):
            return (
                f"{name} {library.version} has no kernels for {gpu.name} ({gpu.capability}; it has {', '.join(known)})"
            )
        return ""
