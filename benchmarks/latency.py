"""Latency of one frame: eager, compiled, ONNX Runtime and engines side by side, with the floors beneath them.

    python benchmarks/latency.py --model l2g_tiny
    python benchmarks/latency.py --model l2g_r50 --height 480 --width 864 --engines fp32.engine fp16.engine int8.engine

A frame goes in as uint8 from the host's memory and the chosen instances come back to it; each side carries its own
state over the same frames. The sides take turns frame by frame, in one process and so under one load. Everything runs
on the GPU where there is one, and on the CPU where there is none; what cannot run on this machine is listed with the
reason. An engine without a GPU is bad input. Compiling for a CPU takes many minutes and is done when asked for.

The floors are the graph's counted FLOPs at the rate of a large matrix product, and the bytes of the weights, the frame
and the results at the rate of a large copy: both measured in the same run, both the time if nothing else cost any.
Exit code: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from l2g.artifacts.onnx_file import read_model
from l2g.checkpoint import load_checkpoint, shipped_checkpoints
from l2g.config import PRESETS
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, export
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.export.verification.rollouts import random_video
from l2g.gpucheck.steps.floors import copy_rate, gemm_rate
from l2g.gpucheck.steps.opening import AutocastBackend
from l2g.modeling.local2global import Local2Global, build_model
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.open import open_backend

TOP_K = 50
# Compiling, the choice of kernels and the capture of CUDA graphs all fall on the first frames.
WARM_UP = 5


class CompiledBackend(EagerBackend):
    """Eager through `torch.compile`; the state is as ever."""

    def __init__(self, model: Local2Global, **options):
        super().__init__(model, **options)
        self._step = torch.compile(model.step, dynamic=False)

    def step(self, frames, reset):
        eager, self.model.step = self.model.step, self._step
        try:
            return super().step(frames, reset)
        finally:
            self.model.step = eager


@dataclass(frozen=True)
class Floor:
    """Seconds that the arithmetic and the traffic of a frame take by themselves."""

    arithmetic: float
    traffic: float


def sides(
    model: Local2Global, graph: Path, engines: list[str], threads: int, compiled: bool
) -> tuple[dict[str, Backend], dict[str, str]]:
    """What runs here by name, and why the rest does not."""
    device = next(model.parameters()).device.type
    found: dict[str, Backend] = {"eager FP32": EagerBackend(model, top_k=TOP_K)}
    missing: dict[str, str] = {}
    if device == "cuda":
        found["eager FP16"] = AutocastBackend(model, "fp16", top_k=TOP_K)
    else:
        missing["eager FP16"] = "no GPU; on a CPU it is no gain"
    if device == "cuda" or compiled:
        found["torch.compile FP32"] = CompiledBackend(model, top_k=TOP_K)
    else:
        missing["torch.compile FP32"] = "no GPU; --compile does it on a CPU"
    if device == "cpu":
        found["ONNX Runtime CPU FP32"] = OnnxRuntimeBackend(graph, threads=threads)
        missing["ONNX Runtime CUDA"] = "no GPU"
    else:
        try:
            found["ONNX Runtime CUDA FP32"] = OnnxRuntimeBackend(graph, providers=["CUDAExecutionProvider"])
        except L2GError as error:
            missing["ONNX Runtime CUDA"] = str(error)
    for path in engines:
        found[Path(path).name] = open_backend(path)
    if not engines:
        missing["engines"] = "none given with --engines"
    return found, missing


def measure(backends: dict[str, Backend], frames: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Seconds of every frame after the warm-up, by side; a side that fails in the warm-up gives none."""
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for index, frame in enumerate(tqdm(frames, desc="frames", disable=None)):
        for name, backend in backends.items():
            start = time.perf_counter()
            backend.step(frame, np.array([index == 0]))
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[WARM_UP:]) for name, values in seconds.items()}


def floors(graph: Path, device: str) -> dict[str, Floor]:
    """By precision: FP32, and FP16 on a GPU."""
    model = read_model(graph)
    flops, uncounted = count_flops(model, shapes_for_one_stream(model))
    if uncounted:
        raise L2GError(f"{graph}: {uncounted} nodes have no static shape and cannot be counted")
    numbers = sum(int(np.prod(weight.dims)) for weight in model.graph.initializer)
    dims = [[dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in model.graph.output]
    results = 4 * sum(int(np.prod(shape)) for shape in dims)
    found = {}
    copied = copy_rate(device)
    for name, dtype in {"FP32": torch.float32, **({"FP16": torch.float16} if device == "cuda" else {})}.items():
        traffic = numbers * dtype.itemsize + results
        found[name] = Floor(sum(flops.values()) / gemm_rate(device, dtype), traffic / copied)
    return found


def load(name: str, canvas: tuple[int, int] | None, device: str) -> Local2Global:
    """A preset with random weights, or a checkpoint."""
    torch.manual_seed(0)
    if name in PRESETS and name not in shipped_checkpoints():
        return build_model(name, **({"input_size": canvas} if canvas else {})).to(device)
    return load_checkpoint(name).eval().to(device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny", help="a checkpoint, or a preset with random weights (l2g_tiny)")
    parser.add_argument("--height", type=int, help="canvas of a preset (default: its own)")
    parser.add_argument("--width", type=int)
    parser.add_argument("--engines", nargs="+", default=[], metavar="ENGINE", help="engines of the same model")
    parser.add_argument("--repeats", type=int, default=100, help="frames that count (default 100)")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU (default: all)")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.threads)
    if (args.height is None) != (args.width is None):
        parser.error("--height and --width go together")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} found, at least 1 expected")
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model = load(args.model, (args.height, args.width) if args.height else None, device)
            height, width = model.config.input_size
            graph = Path(folder) / "model.onnx"
            export(model.cpu(), graph, ExportOptions(top_k=TOP_K))
            backends, missing = sides(model.to(device), graph, args.engines, args.threads, args.compile)
            for backend in backends.values():
                stack.enter_context(closing(backend))
            frames = list(random_video(1, WARM_UP + args.repeats, height, width, 0))
            measured = measure(backends, frames)
            beneath = floors(graph, device)
    except (L2GError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    where = torch.cuda.get_device_name() if device == "cuda" else f"a CPU with {args.threads} threads"
    print(f"{args.model}, {height} x {width}, one stream, on {where}, torch {torch.__version__}")
    print(f"{args.repeats} interleaved frames after {WARM_UP} to warm up\n")
    print(f"{'':26}{'median ms':>11}{'p99 ms':>10}{'frames/s':>10}")
    for name, seconds in measured.items():
        median, late = np.median(seconds), np.percentile(seconds, 99)
        print(f"{name:26}{1e3 * median:11.2f}{1e3 * late:10.2f}{1 / median:10.1f}")
    for precision, floor in beneath.items():
        print(f"{'floor, arithmetic ' + precision:26}{1e3 * floor.arithmetic:11.2f}")
        print(f"{'floor, traffic ' + precision:26}{1e3 * floor.traffic:11.2f}")
    for name, reason in missing.items():
        print(f"not measured: {name} ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
