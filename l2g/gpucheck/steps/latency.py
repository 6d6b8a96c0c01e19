"""How long a frame takes, from the host's memory and back to it, at every number of streams."""

from __future__ import annotations

import time
from contextlib import closing

import numpy as np

from l2g.errors import L2GError
from l2g.evaluation.bench.measure import WARM_UP, moving_noise, take_turns
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.report import Figure
from l2g.gpucheck.steps.opening import open_way
from l2g.gpucheck.steps.sensors import Sensors
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.memory import resident_bytes

# The choice of kernels, compiling and the capture of both directions' CUDA graphs fall on the first frames.
_WARM_UP = max(WARM_UP, 6)
# Seconds that one number of streams may take once it is warm; a slow way gets fewer frames.
_ENOUGH = 12.0


def run(context: Context) -> None:
    way = context.step.way
    assert way is not None  # of a step of this kind
    with Sensors() as sensors:
        began, held = time.perf_counter(), resident_bytes()
        idle = _settled(sensors, began)
        began = time.perf_counter()
        with closing(open_way(context, way)) as backend:
            # Compiled PyTorch runs fewer streams in what was made for more.
            counts = sorted(context.options.streams)
            first = counts[0]
            _first_frame(backend, first)
            start, now = time.perf_counter() - began, resident_bytes()
            added = None if held is None or now is None else (now - held) / 1e6
            context.notebook.add(
                Figure(context.subject, way.name, "start, to the first results", "s", start, first),
                Figure(context.subject, way.name, "memory of the process", "MB", added, first),
            )
            for streams in counts:
                _at(context, backend, streams, sensors, idle)


def _at(context: Context, backend: Backend, streams: int, sensors: Sensors, idle: float | None) -> None:
    way = context.step.way
    assert way is not None
    try:
        seconds, cpu, began = _timed(context, backend, streams)
    except L2GError as error:  # an engine for fewer streams, too little memory: the others are measured
        context.notebook.add(Figure(context.subject, way.name, "median", "ms", None, streams, note=str(error)))
        return
    median = float(np.median(seconds))
    power, memory = sensors.mean("power", began), sensors.most("memory", began)
    found = {
        ("median", "ms"): 1e3 * median,
        ("p99", "ms"): 1e3 * float(np.percentile(seconds, 99)),
        ("best", "ms"): 1e3 * min(seconds),
        ("processor time", "ms"): 1e3 * float(np.median(cpu)),
        ("rate, all streams", "frames/s"): streams / median,
        ("memory of the device", "MB"): None if memory is None or idle is None else (memory - idle) / 1e6,
        ("power", "W"): power,
        ("energy of a frame", "J"): None if power is None else power * median / streams,
        ("device busy", "percent"): sensors.mean("busy", began),
        ("clock", "MHz"): sensors.mean("clock", began),
    }
    context.notebook.add(
        *(
            Figure(context.subject, way.name, quantity, unit, value, streams, note=f"{len(seconds)} frames" * (not i))
            for i, ((quantity, unit), value) in enumerate(found.items())
            if value is not None
        )
    )


def _timed(context: Context, backend: Backend, streams: int) -> tuple[list[float], list[float], float]:
    """Seconds of each frame, on the wall and of the processor; and when that began."""
    contract = backend.contract
    canvas = (contract.height, contract.width)
    backend.write_state(HostState.empty(contract, streams))
    pictures = moving_noise(canvas, WARM_UP + 1, streams)
    warming = time.perf_counter()
    for index in range(_WARM_UP):
        backend.step(pictures[index % len(pictures)], np.full(streams, index == 0))
        last, warming = time.perf_counter() - warming, time.perf_counter()
    frames = max(3, min(context.options.frames, int(_ENOUGH / max(last, 1e-6))))
    began = time.perf_counter()
    pictures = [pictures[index % len(pictures)] for index in range(WARM_UP + frames)]
    wall, cpu = take_turns({"": backend}, pictures)
    return wall[""], cpu[""], began


def _first_frame(backend: Backend, streams: int) -> None:
    spec = backend.contract.input("frames")
    backend.step(np.zeros(spec.sized(streams), np.uint8), np.ones(streams, bool))


def _settled(sensors: Sensors, began: float) -> float | None:
    """Bytes of the device that are in use before anything is opened; waits a moment for the first reading."""
    if not sensors.running:
        return None
    while not sensors.readings and time.perf_counter() - began < 2:
        time.sleep(0.05)
    return sensors.most("memory", 0.0)
