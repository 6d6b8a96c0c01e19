"""The compiled backend against eager PyTorch and ONNX Runtime on a GPU: medians, ratios, and the floors beneath them.

    python -m benchmarks.compiled --model l2g_r50 --height 480 --width 864
    python -m benchmarks.compiled --model l2g_r50 --height 480 --width 864 --streams 8
    python -m benchmarks.compiled --sweep

Frames go in as uint8 from the host's memory and the chosen instances come back to it; each side carries its own state
over the same frames. The sides take turns step by step, in one process and so under one load. Beside each compiled side
stands what it computes its products in. The targets are judged where a GPU is: at one stream FP16 at least 4 times as
fast as eager FP32 and 2.5 times ONNX Runtime's CUDA, at 8 streams within 2.5 times the FP16 floor.

--sweep times the kernel of deformable attention by its block of queries, at the shapes of an R50's encoder and decoder,
with the bytes that it has to move at the rate of a copy as its floor.
Exit code: 0 measured, 1 a target is missed, 2 bad input or no GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.latency import TOP_K, WARM_UP, Floor, floors, load, measure
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, export
from l2g.export.verification.rollouts import random_video
from l2g.gpucheck.steps.floors import best, copy_rate
from l2g.modeling.local2global import Local2Global
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.compiled.backend import CompiledBackend
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

EAGER, LIBRARY = "eager FP32", "ONNX Runtime CUDA FP32"
PRECISIONS = ("fp32", "bf16", "fp16")
# By how much compiled FP16 is to be faster at one stream, and how near to its floor at eight.
TARGETS = {EAGER: 4.0, LIBRARY: 2.5}
FLOOR_STREAMS, FLOOR_FACTOR = 8, 2.5
# (height, width) of an R50's levels at 480x864, and the queries of encoder and decoder.
LEVELS = ((60, 108), (30, 54), (15, 27), (8, 14))
QUERIES = {"encoder": sum(h * w for h, w in LEVELS), "decoder": 300}
BLOCKS = (4, 8, 16, 32, 64)


def sides(model: Local2Global, graph: Path, fuse: bool | None) -> tuple[dict[str, Backend], dict[str, str]]:
    """What runs here by name, and why the rest does not."""
    found: dict[str, Backend] = {EAGER: EagerBackend(model, top_k=TOP_K)}
    missing: dict[str, str] = {}
    for precision in PRECISIONS:
        found[compiled(precision)] = CompiledBackend(model, precision, TOP_K, fuse=fuse)
    try:
        found[LIBRARY] = OnnxRuntimeBackend(graph, providers=["CUDAExecutionProvider"])
    except L2GError as error:
        missing[LIBRARY] = str(error)
    return found, missing


def compiled(precision: str) -> str:
    return f"compiled {precision.upper()}"


def judged(median: dict[str, float], floor: Floor, streams: int) -> dict[str, tuple[float, float, bool]]:
    """By target: what was found, what was asked for, whether it is met. median: seconds; floor: of one stream."""
    fast = median[compiled("fp16")]
    found = {}
    if streams == 1:
        for name, factor in TARGETS.items():
            if name in median:
                ratio = median[name] / fast
                found[f"times as fast as {name}"] = ratio, factor, ratio >= factor
    if streams == FLOOR_STREAMS:
        ratio = fast / (streams * max(floor.arithmetic, floor.traffic))
        found["times the FP16 floor"] = ratio, FLOOR_FACTOR, ratio <= FLOOR_FACTOR
    return found


def sweep() -> None:
    """Print the kernel's time by block of queries."""
    from l2g.runtime.backends.compiled.kernel import fused_deformable_attention

    rate = copy_rate("cuda")
    print(f"{'':24}" + "".join(f"{f'block {block}, us':>16}" for block in BLOCKS) + f"{'floor, us':>12}")
    for dtype in (torch.float16, torch.float32):
        for part, queries in QUERIES.items():
            tokens, heads, width = QUERIES["encoder"], 8, 32
            given = (
                torch.randn(1, tokens, heads, width, device="cuda", dtype=dtype),
                LEVELS,
                torch.rand(1, queries, 2 if part == "encoder" else 4, device="cuda"),
                torch.randn(1, queries, heads, len(LEVELS), 4, 2, device="cuda", dtype=dtype),
                torch.randn(1, queries, heads, len(LEVELS) * 4, device="cuda", dtype=dtype),
            )
            moved = sum(x.numel() * x.element_size() for x in given if isinstance(x, torch.Tensor))
            moved += queries * heads * width * dtype.itemsize
            cells = []
            for block in BLOCKS:
                work = partial(fused_deformable_attention, *given, block)
                work()
                cells.append(best(work, "cuda", 20))
            text = "".join(f"{1e6 * cell:16.1f}" for cell in cells)
            print(f"{part + ', ' + str(dtype).removeprefix('torch.'):24}{text}{1e6 * moved / rate:12.1f}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny", help="a checkpoint, or a preset with random weights (l2g_tiny)")
    parser.add_argument("--height", type=int, help="canvas of a preset (default: its own)")
    parser.add_argument("--width", type=int)
    parser.add_argument("--graph", type=Path, help="its export of 50 detections (default: made here, in minutes)")
    parser.add_argument("--streams", type=int, default=1, help="of each step (default 1)")
    parser.add_argument("--repeats", type=int, default=100, help="steps that count (default 100)")
    parser.add_argument("--no-fuse", action="store_true", help="without torch.compile between the products")
    parser.add_argument("--sweep", action="store_true", help="time the kernel alone, by block of queries")
    args = parser.parse_args(argv)
    if (args.height is None) != (args.width is None):
        parser.error("--height and --width go together")
    if min(args.repeats, args.streams) < 1:
        parser.error("--repeats and --streams are at least 1")
    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU, and this measures one; `l2g bench` measures CPUs", file=sys.stderr)
        return 2
    if args.sweep:
        sweep()
        return 0
    try:
        return run(args)
    except (L2GError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = load(args.model, (args.height, args.width) if args.height else None, "cpu")
        height, width = model.config.input_size
        graph = args.graph or Path(folder) / "model.onnx"
        if args.graph:
            kind = read_contract(read_model(graph), graph).output_kind
            if kind != "detections":
                raise L2GError(f"{graph}: gives {kind} outputs; export it with --outputs detections --top-k {TOP_K}")
        else:
            export(model, graph, ExportOptions(top_k=TOP_K, max_streams=max(8, args.streams)))
        backends, missing = sides(model.to("cuda"), graph, False if args.no_fuse else None)
        for backend in backends.values():
            stack.enter_context(closing(backend))
        seconds = measure(backends, list(random_video(args.streams, WARM_UP + args.repeats, height, width, 0)))
        floor = floors(graph, "cuda")["FP16"]
        audits = {name: b.audit() for name, b in backends.items() if isinstance(b, CompiledBackend)}
        facts = next(b.facts() for b in backends.values() if isinstance(b, CompiledBackend))
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"{args.model}, {height} x {width}, {args.streams} streams a step, on {where}")
    print("; ".join(f"{name}: {text}" for name, text in facts.items()))
    print(f"{args.repeats} interleaved steps after {WARM_UP} to warm up\n")
    print(f"{'':26}{'median ms':>11}{'p99 ms':>10}{'frames/s':>10}{'x eager':>9}   products")
    for name, values in seconds.items():
        row = f"{1e3 * median[name]:11.2f}{1e3 * np.percentile(values, 99):10.2f}{args.streams / median[name]:10.1f}"
        audit = audits.get(name)
        products = "" if audit is None else f"{100 * audit.share:.1f} % in {audit.asked.upper()}"
        print(f"{name:26}{row}{median[EAGER] / median[name]:9.2f}   {products}")
    for kind in ("arithmetic", "traffic"):
        print(f"{f'floor, {kind} FP16':26}{1e3 * args.streams * getattr(floor, kind):11.2f}")
    for name, reason in missing.items():
        print(f"not measured: {name} ({reason})")
    targets = judged(median, floor, args.streams)
    for name, (found, asked, met) in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {found:.2f} {name}, {asked:g} asked for")
    return 0 if all(met for _, _, met in targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
