"""What this machine can run of some models: every library and device, and why the rest is not run."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from l2g.errors import L2GError
from l2g.evaluation.bench.start import Start, start_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import GRAPH_SUFFIX, open_backend


@dataclass(frozen=True)
class Candidate:
    """One model in one library on one device, "" where the model's name says it. how: options of `open_backend`, which
    `l2g run` gives it too. whole: whether it is called by its path, since another model's file has the same name."""

    model: str
    runs_on: str
    how: Mapping[str, Any] = field(default_factory=dict, hash=False)
    whole: bool = False

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.model if self.whole else Path(self.model).name, self.runs_on)))

    @property
    def keeps(self) -> bool:
        """Whether its first opening leaves something for the next ones."""
        return self.how.get("library") == "openvino" or self.how.get("device") == "cpu"

    def open(self) -> Backend:
        """With raw outputs where it is not exported."""
        return open_backend(self.model, top_k=None, **self.how)

    def start(self, kept: bool) -> Start:
        """See `start_of`."""
        return start_of(self.model, self.how, kept=kept)


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
    found: list[Candidate] = []
    left: list[Left] = []
    for model in dict.fromkeys(models):
        suffix = Path(model).suffix.lower()
        if suffix == GRAPH_SUFFIX:
            _add_graph(model, threads, found, left)
        elif suffix == ".engine":
            found.append(Candidate(model, "TensorRT"))
        else:
            of_checkpoint = {"canvas": canvas, "threads": threads, **(told or {})}
            found.append(Candidate(model, "PyTorch", of_checkpoint))
            for precision in compiled:
                name = f"PyTorch compiled {precision.upper()}"
                found.append(Candidate(model, name, {**of_checkpoint, "compile": True, "precision": precision}))
    files = Counter(Path(model).name for model in {*models})
    return tuple(replace(one, whole=files[Path(one.model).name] > 1) for one in found), tuple(left)


def _add_graph(model: str, threads: int | None, found: list[Candidate], left: list[Left]) -> None:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
        for device in ("cpu", "cuda"):
            if f"{device.upper()}ExecutionProvider" in onnxruntime.get_available_providers():
                how = {"library": "onnxruntime", "device": device, "threads": threads}
                found.append(Candidate(model, f"ONNX Runtime {device.upper()}", how))
    except ModuleNotFoundError:
        left.append(Left(f"{Path(model).name}, ONNX Runtime", "not installed; pip install 'l2g[cpu]'"))
    try:
        openvino = importlib.import_module("l2g.runtime.backends.openvino.backend")
        for device in openvino.devices():
            how = {"library": "openvino", "device": device, "threads": threads if device == "CPU" else None}
            found.append(Candidate(model, f"OpenVINO {device}", how))
    except ModuleNotFoundError:
        left.append(Left(f"{Path(model).name}, OpenVINO", "not installed; pip install 'l2g[openvino]'"))
