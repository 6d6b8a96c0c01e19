"""Candidates in turn, frame by frame, in one process and so under one load."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from l2g.data.dataset import VideoDataset
from l2g.errors import L2GError
from l2g.evaluation.bench.candidates import Candidate, Left
from l2g.evaluation.bench.start import Start
from l2g.evaluation.panoptic import metric_of, score
from l2g.records import Record
from l2g.runtime.backends.base import Backend

# The choice of kernels falls on the first frames.
WARM_UP = 3
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Measured(Record):
    """One candidate. Times in milliseconds of one frame of one stream, but for `start`.

    precision: what it runs in, and the file's own where that is another. median, p99, best: from giving the frame to
    having the results. cpu: of the processor, all threads together. rate: frames a second at the median. cold: what a
    start takes in a process of its own, where nothing is kept of an earlier one; kept: where something is, None of what
    keeps nothing. ap: percent, of the report's `metric`; None where it was not asked for.
    """

    name: str
    model: str
    runs_on: str
    precision: str
    median: float
    p99: float
    best: float
    cpu: float
    rate: float
    cold: Start
    kept: Start | None
    ap: float | None


@dataclass(frozen=True)
class BenchReport(Record):
    """What `measure` found. frames: that count. load: of the machine before and after, processes that want to run (one
    minute's mean). metric: that the data set is scored by, "AP" or "VPQ". reference: the candidate whose `ap` the
    others are held to. recommended: the fastest within `ap_budget`, or of all where none was measured; None where none
    is."""

    canvas: tuple[int, int]
    frames: int
    threads: int | None
    cores: int
    load: tuple[float, float]
    dataset: str | None
    metric: str
    ap_budget: float
    measured: tuple[Measured, ...]
    left: tuple[tuple[str, str], ...]
    reference: str | None
    recommended: str | None


def measure(
    candidates: Sequence[Candidate],
    *,
    left: Sequence[Left] = (),
    frames: int = 50,
    threads: int | None = None,
    dataset: VideoDataset | None = None,
    ap_budget: float = 0.5,
    streams: int = 4,
    progress: bool = True,
) -> BenchReport:
    """Time all candidates, and score them where a data set is given.

    Before it is opened here, and after it, each is started in a process of its own, which tells what that takes. A
    candidate that this machine cannot run goes to what is left out, with the reason. The frames that are timed are
    moving noise. dataset: for the scores. streams: videos that share a step while AP is measured.
    Raises L2GError where nothing can be run and where the models have different canvases.
    """
    for name, count in (("frames", frames), ("streams", streams)):
        if count < 1:
            raise L2GError(f"{count} {name} asked for, at least 1 expected")
    before = _load()
    refused = [(item.name, item.reason) for item in left]
    with ExitStack() as stack:
        opened: dict[Candidate, tuple[Backend, Start, Start | None]] = {}
        for candidate in tqdm(candidates, desc="open", disable=None if progress else True):
            try:
                cold = candidate.start(kept=False)
                backend = stack.enter_context(closing(candidate.open()))
                opened[candidate] = backend, cold, candidate.start(kept=True) if candidate.keeps else None
            except L2GError as error:
                refused.append((candidate.name, str(error)))
        if not opened:
            raise L2GError("nothing here can be run: " + "; ".join(f"{name}: {reason}" for name, reason in refused))
        canvas = _canvas({c.name: backend for c, (backend, *_) in opened.items()})
        pictures = moving_noise(canvas, frames + WARM_UP)
        wall, cpu = take_turns({c: backend for c, (backend, *_) in opened.items()}, pictures, progress)
        scores = {c: _ap(backend, dataset, streams, progress) for c, (backend, *_) in opened.items()}
        measured = tuple(
            _row(candidate, backend, wall[candidate], cpu[candidate], cold, kept, scores[candidate])
            for candidate, (backend, cold, kept) in opened.items()
        )
    reference = _reference(measured)
    return BenchReport(
        canvas=canvas,
        frames=frames,
        threads=threads,
        cores=os.cpu_count() or 1,
        load=(before, _load()),
        dataset=None if dataset is None else dataset.name,
        metric="AP" if dataset is None else metric_of(dataset),
        ap_budget=ap_budget,
        measured=measured,
        left=tuple(refused),
        reference=reference.name if reference else None,
        recommended=_recommended(measured, reference, ap_budget),
    )


def take_turns(
    backends: Mapping[Key, Backend], pictures: Sequence[np.ndarray], progress: bool = False
) -> tuple[dict[Key, list[float]], dict[Key, list[float]]]:
    """Seconds of every step after the warm-up: on the wall and of the processor. pictures: uint8 [B, H, W, 3] each."""
    wall: dict[Key, list[float]] = {candidate: [] for candidate in backends}
    cpu: dict[Key, list[float]] = {candidate: [] for candidate in backends}
    for index, frame in enumerate(tqdm(pictures, desc="frames", disable=None if progress else True)):
        for candidate, backend in backends.items():
            start, used = time.perf_counter(), time.process_time()
            backend.step(frame, np.full(len(frame), index == 0))
            if index >= WARM_UP:
                wall[candidate].append(time.perf_counter() - start)
                cpu[candidate].append(time.process_time() - used)
    return wall, cpu


def _row(
    candidate: Candidate,
    backend: Backend,
    wall: list[float],
    cpu: list[float],
    cold: Start,
    kept: Start | None,
    ap: float | None,
) -> Measured:
    build = backend.contract.build
    own = build.precision or "fp32"
    if build.int8 is not None:
        own += f" + {build.int8.scales}"
    # ONNX Runtime does not say what it computes in: on a CPU float32 where a graph has FP16.
    on_cpu = getattr(backend, "device", None) == "cpu"
    runs = getattr(backend, "precision", own.replace("fp16", "fp32") if on_cpu else own)
    median = float(np.median(wall))
    return Measured(
        name=candidate.name,
        model=candidate.model,
        runs_on=candidate.runs_on,
        # The numbers of a BF16 file are rounded whatever they are computed in: it is no reference.
        precision=runs if runs.startswith(own) else f"{runs} (file: {own})",
        median=1e3 * median,
        p99=1e3 * float(np.percentile(wall, 99)),
        best=1e3 * min(wall),
        cpu=1e3 * float(np.median(cpu)),
        rate=1 / median,
        cold=cold,
        kept=kept,
        ap=ap,
    )


def _ap(backend: Backend, dataset: VideoDataset | None, streams: int, progress: bool) -> float | None:
    if dataset is None:
        return None
    return score(backend, dataset, streams, progress)


def _reference(measured: Sequence[Measured]) -> Measured | None:
    """The first in FP32, whose `ap` the others are to keep; else the one of the highest."""
    scored = [item for item in measured if item.ap is not None]
    float32 = [item for item in scored if item.precision == "fp32"]
    return next(iter(float32 or sorted(scored, key=lambda item: -(item.ap or 0))), None)


def _recommended(measured: Sequence[Measured], reference: Measured | None, budget: float) -> str | None:
    def within(item: Measured) -> bool:
        if reference is None or reference.ap is None:
            return True
        return item.ap is not None and reference.ap - item.ap <= budget + 1e-9

    kept = [item for item in measured if within(item)]
    return min(kept, key=lambda item: item.median).name if kept else None


def _canvas(backends: dict[str, Backend]) -> tuple[int, int]:
    sizes = {name: (b.contract.height, b.contract.width) for name, b in backends.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name}: {height}x{width}" for name, (height, width) in sizes.items())
        raise L2GError(f"models of several canvases found ({shown}); give models of one, or --size for a checkpoint")
    return next(iter(sizes.values()))


def moving_noise(canvas: tuple[int, int], count: int, streams: int = 1) -> list[np.ndarray]:
    """uint8 [streams, H, W, 3] each: the time does not depend on what is seen."""
    noise = np.random.default_rng(0).integers(0, 256, (streams, *canvas, 3), np.uint8)
    return [np.roll(noise, 4 * number, axis=2) for number in range(count)]


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
