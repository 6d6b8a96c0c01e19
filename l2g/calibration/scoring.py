"""What a graph is worth on whole videos, its own state fed back."""

from __future__ import annotations

import statistics
import time
import warnings
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.calibration.recording import Sample
from l2g.data.dataset import VideoDataset
from l2g.errors import DataError
from l2g.evaluation.panoptic import score
from l2g.evaluation.parity.report import ParityReport
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.open import backend_module, open_backend

SPEED_ROUNDS = 15


@dataclass(frozen=True)
class Verdict:
    """A quantised graph against the FP32 one over a data set.

    ap_reference, ap: percent; of a data set of things and stuff VPQ. identity: percent of the objects seen that both
    hold in the same slot. drift: per quarter of the videos, mean mask IoU of the free run.
    """

    dataset: str
    frames: int
    ap_reference: float
    ap: float
    identity: float | None
    drift: tuple[float | None, ...]

    @property
    def loss(self) -> float:
        return self.ap_reference - self.ap


def judge_of(graph: str, layout: str, scales: str) -> tuple[str, str | None]:
    """(the library that runs quantised graphs of a layout on this CPU, what they hold around the integers that this CPU
    cannot compute in, "bf16", so that float32 takes its place; None where it can). graph: its name, for messages.
    L2GError where that library is not installed."""
    if layout != "openvino":
        return "onnxruntime", None
    native = backend_module(graph, layout).native_precisions()
    return layout, None if scales in native else scales


def open_candidate(path: Path, library: str) -> Backend:
    """A graph that is one of many, of which none is kept: the cache of compiled models has no room for them."""
    if library != "openvino":
        return open_backend(path, library=library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what takes BF16's place was said before the work began
        backend: Backend = backend_module(str(path), library).OpenVinoBackend(path, cached=False)
    return backend


def average_precision(
    path: Path, dataset: VideoDataset, streams: int, progress: bool = True, library: str = "onnxruntime"
) -> float:
    """AP (VPQ of a data set of things and stuff) in percent of a graph in a library; DataError where nothing is
    annotated."""
    with closing(open_candidate(path, library)) as backend:
        return score(backend, dataset, streams, progress)


def compare_on(
    reference: Path,
    candidate: Path,
    dataset: VideoDataset,
    streams: int,
    progress: bool = True,
    library: str = "onnxruntime",
) -> Verdict:
    """Both over the whole data set, each feeding back its own state. library: what runs the candidate."""
    with ExitStack() as stack:
        opened = (OnnxRuntimeBackend(reference), *(open_candidate(candidate, library) for _ in range(2)))
        backends = [stack.enter_context(closing(backend)) for backend in opened]
        options = ParityOptions(streams=streams, pictures=0)
        names = (str(reference), str(candidate))
        one, other, forced = backends
        report = run_parity(one, other, forced, dataset, options=options, names=names, progress=progress)
    return _verdict(report, dataset)


def interleaved_speed(
    paths: dict[str, Path | Backend], sample: Sample, rounds: int = SPEED_ROUNDS, threads: int | None = None
) -> dict[str, float]:
    """Median seconds of one frame of each graph, by name; they take turns, so that what disturbs disturbs all.

    paths: of graphs for ONNX Runtime, with so many threads; or open backends, which are closed.
    """
    backends: dict[str, Backend] = {
        name: OnnxRuntimeBackend(path, threads=threads) if isinstance(path, Path) else path
        for name, path in paths.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, backend in backends.items():
            start = time.perf_counter()
            backend.step(sample.inputs["frames"], np.array([number == 0]))
            seconds[name].append(time.perf_counter() - start)
    for backend in backends.values():
        backend.close()
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _verdict(report: ParityReport, dataset: VideoDataset) -> Verdict:
    metric = report.metric
    reference, candidate = ((ap or {}).get(metric) for ap in (report.ap_reference, report.ap_candidate))
    if reference is None or candidate is None:
        raise DataError(
            f"data set '{dataset.name}' holds no annotation that counts, so there is no {metric}; use another"
        )
    identity = next((check.value for check in report.checks if check.name.startswith("identity")), None)
    drift = tuple(quarter["mask_iou"] for quarter in report.drift())
    return Verdict(dataset.name, sum(len(video.free) for video in report.videos), reference, candidate, identity, drift)
