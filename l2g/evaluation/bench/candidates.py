"""What this machine can run of some models: every library and device, and why the rest is not run."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from l2g.errors import L2GError
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import GRAPH_SUFFIX, open_backend


@dataclass(frozen=True)
class Candidate:
    """One model in one library on one device, "" where the model's name says it. open: opens it, with raw outputs where
    it is not exported. whole: whether it is called by its path, since another model's file has the same name."""

    model: str
    runs_on: str
    open: Callable[[], Backend]
    whole: bool = False

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.model if self.whole else Path(self.model).name, self.runs_on)))


@dataclass(frozen=True)
class Left:
    """What is not measured, and why."""

    name: str
    reason: str


def candidates(
    models: Sequence[str],
    canvas: tuple[int, int] | None = None,
    threads: int | None = None,
    compiled: Sequence[str] = (),
    told: Mapping[str, Any] | None = None,
) -> tuple[tuple[Candidate, ...], tuple[Left, ...]]:
    """Everything that can be tried of these models, and the libraries that are not installed.

    canvas: of checkpoints; None is the model's own. threads: of CPUs, None is each library's own choice.
    compiled: precisions in which checkpoints are tried as the compiled backend runs them, too.
    told: what public checkpoints do not tell, as `load_checkpoint` takes it.
    """
    if not models:
        raise L2GError("no model given; give a checkpoint, a graph or an engine")
    if threads is not None and threads < 1:
        raise L2GError(f"{threads} threads asked for, at least 1 expected")
    how = dict(told or {})
    found: list[Candidate] = []
    left: list[Left] = []
    for model in dict.fromkeys(models):
        suffix = Path(model).suffix.lower()
        if suffix == GRAPH_SUFFIX:
            _add_graph(model, threads, found, left)
        elif suffix == ".engine":
            found.append(Candidate(model, "TensorRT", partial(open_backend, model, top_k=None)))
        else:
            found.append(Candidate(model, "PyTorch", _eager_opener(model, canvas, threads, **how)))
            for precision in compiled:
                opener = _eager_opener(model, canvas, threads, compile=True, precision=precision, **how)
                found.append(Candidate(model, f"PyTorch compiled {precision.upper()}", opener))
    files = Counter(Path(model).name for model in {*models})
    return tuple(replace(one, whole=files[Path(one.model).name] > 1) for one in found), tuple(left)


def _add_graph(model: str, threads: int | None, found: list[Candidate], left: list[Left]) -> None:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
        graph = importlib.import_module("l2g.runtime.backends.onnxruntime").OnnxRuntimeBackend
        for provider in ("CPUExecutionProvider", "CUDAExecutionProvider"):
            if provider in onnxruntime.get_available_providers():
                where = provider.removesuffix("ExecutionProvider")
                opener = partial(graph, model, providers=[provider], threads=threads)
                found.append(Candidate(model, f"ONNX Runtime {where}", opener))
    except ModuleNotFoundError:
        left.append(Left(f"{Path(model).name}, ONNX Runtime", "not installed; pip install 'l2g[cpu]'"))
    try:
        openvino = importlib.import_module("l2g.runtime.backends.openvino.backend")
        for device in openvino.devices():
            opener = partial(openvino.OpenVinoBackend, model, device, threads=threads if device == "CPU" else None)
            found.append(Candidate(model, f"OpenVINO {device}", opener))
    except ModuleNotFoundError:
        left.append(Left(f"{Path(model).name}, OpenVINO", "not installed; pip install 'l2g[openvino]'"))


def _eager_opener(model: str, canvas: tuple[int, int] | None, threads: int | None, **how: Any) -> Callable[[], Backend]:
    def opened() -> Backend:
        backend = open_backend(model, top_k=None, canvas=canvas, **how)
        if threads:
            import torch

            torch.set_num_threads(threads)
        return backend

    return opened
