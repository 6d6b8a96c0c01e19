"""How fast an exported graph runs on a CPU, against eager and against the bare arithmetic.

    python benchmarks/graph.py                          # R50 at 480 x 864, 2 threads

Takes turns, in one process and so under one load, between an eager frame, the same frame in ONNX Runtime and a large
matrix product. The floor is the graph's counted FLOPs at that product's rate: the time if everything but the
arithmetic were free. Asked for: ONNX Runtime within 1.5 times the floor, and faster than eager. Exit code 1: a target
was missed. What the whole job takes beside the graph: `benchmarks/video.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch

from l2g.config import PRESETS
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, export
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.modeling.local2global import build_model
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

FLOOR_TARGET = 1.5
GEMM_SIZE = 2048


def compare(args: argparse.Namespace, folder: Path) -> bool:
    """Print eager, ONNX Runtime and floor side by side; True when both targets are met."""
    torch.manual_seed(0)
    model = build_model(args.preset, input_size=(args.height, args.width))
    path = folder / "model.onnx"
    export(model, path, ExportOptions())
    flops = counted_flops(path)
    backends = {"eager": EagerBackend(model), "ONNX Runtime": OnnxRuntimeBackend(path, threads=args.threads)}
    frames = np.random.default_rng(0).integers(0, 256, (args.repeats + 1, 1, args.height, args.width, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in (*backends, "floor")}
    for index, frame in enumerate(frames):
        for name, backend in backends.items():
            seconds[name].append(timed(lambda b=backend, f=frame, i=index: b.step(f, np.array([i == 0]))))
        seconds["floor"].append(flops / gemm_rate())
    print(f"{args.preset}, {args.height} x {args.width}, {args.threads} threads, FP32, {flops / 1e9:.1f} GFLOP a frame")
    print(f"{args.repeats} interleaved frames after one to warm up; torch {torch.__version__}\n")
    print(f"{'':14}{'median s':>10}{'best s':>10}")
    for name, values in seconds.items():
        print(f"{name:14}{statistics.median(values[1:]):10.3f}{min(values[1:]):10.3f}")
    eager, graph, floor = (statistics.median(values[1:]) for values in seconds.values())
    print(f"\nmatrix product: {flops / floor / 1e9:.0f} GFLOP/s")
    print(f"ONNX Runtime: {graph / floor:.2f} times the floor (asked for: {FLOOR_TARGET}), ", end="")
    print(f"{eager / graph:.2f} times as fast as eager\n")
    return graph <= FLOOR_TARGET * floor and graph < eager


def counted_flops(path: Path) -> int:
    """Of one frame of one stream, a multiply-add counted as two."""
    model = onnx.load(path)
    by_kind, uncounted = count_flops(model, shapes_for_one_stream(model))
    if uncounted:
        raise L2GError(f"{path}: {uncounted} nodes have no static shape and cannot be counted")
    return sum(by_kind.values())


def gemm_rate() -> float:
    """FLOP/s of one large float32 matrix product, with the threads that torch has."""
    one, other = torch.rand(2, GEMM_SIZE, GEMM_SIZE)
    seconds = timed(lambda: one @ other)
    return 2 * GEMM_SIZE**3 / seconds


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="l2g_r50", choices=list(PRESETS), help="(default: %(default)s)")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="frames that count (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    try:
        with tempfile.TemporaryDirectory() as folder:
            met = compare(args, Path(folder))
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
