"""Export full-size models in every lowering and canvas, and print how far each file is from PyTorch.

    python benchmarks/full_size_export.py                                       # all 16 files, one after the other
    python benchmarks/full_size_export.py --models l2g_r50 --sizes 256x448      # some of them
    python benchmarks/full_size_export.py --models maskdino_r50_coco.pth        # a checkpoint instead of a preset

A preset has random weights. Every file is made and verified by `l2g.export`, as `export/to_onnx.py` does it; the files
of one model and canvas share their trace and PyTorch's frames, which are nine tenths of the time. Each finished line is
printed at once. Exit code: 0 all agree, 1 some file was refused by its verification, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import onnx
import onnx_ir as ir
import torch

from l2g.artifacts.onnx_file import read_model
from l2g.checkpoint import load_checkpoint
from l2g.config import PRESETS
from l2g.errors import ExportError, L2GError
from l2g.export import exporter
from l2g.export.deformable.lowering import plugin_nodes
from l2g.export.graph.tracing import trace
from l2g.export.verification.rollouts import rollouts
from l2g.modeling.local2global import Local2Global, build_model

MODELS, SIZES = ("l2g_r50", "maskdino_r50"), ("480x864", "256x448")
WAYS = {
    "gather": exporter.ExportOptions(),
    "gather, tensorrt": exporter.ExportOptions(target="tensorrt"),
    "gridsample": exporter.ExportOptions(lowering="gridsample"),
    "plugin": exporter.ExportOptions(lowering="plugin", target="tensorrt"),
}
MEASURES = ("queries", "boxes", "logits", "mask_logits")


def export_all(models: list[str], sizes: list[tuple[int, int]], ways: list[str], folder: Path) -> bool:
    """Print one line a file; True when every one passed its verification."""
    print(f"| model | canvas | lowering | {' | '.join(MEASURES)} | ties | MB | checked |")
    print("|" + "---|" * (6 + len(MEASURES)))
    passed = True
    for name in models:
        model = open_model(name)
        for height, width in sizes:
            with shared_work(model, height, width):
                for way in ways:
                    passed &= export_one(name, model, (height, width), way, folder)
    return passed


def export_one(name: str, model: Local2Global, size: tuple[int, int], way: str, folder: Path) -> bool:
    choices = {**vars(WAYS[way]), "height": size[0], "width": size[1]}
    path = folder / f"{Path(name).stem}_{size[0]}x{size[1]}_{way.replace(', ', '_')}.onnx"
    start = time.perf_counter()
    cells = [Path(name).name, f"{size[0]}x{size[1]}", way]
    try:
        done = exporter.export(model, path, exporter.ExportOptions(**choices))
    except ExportError as error:
        print(f"| {' | '.join(cells)} | refused: {error} |", flush=True)
        return False
    nodes = len(plugin_nodes(ir.from_proto(read_model(path))))
    how = f"{nodes} plugin nodes; the gather in their place was run" if nodes else "run in ONNX Runtime"
    cells += [f"{done.verification.differences[measure]:.1e}" for measure in MEASURES]
    cells += [str(done.verification.ties), f"{path.stat().st_size / 1e6:.0f}", how]
    print(f"| {' | '.join(cells)} |", flush=True)
    print(f"{' '.join(cells[:3])}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return True


@contextmanager
def shared_work(model: Local2Global, height: int, width: int) -> Iterator[None]:
    """While open, an export takes the trace and PyTorch's frames of the first one: no lowering changes either."""
    traces: list[bytes] = []
    steps = []

    def traced(*arguments) -> ir.Model:
        if not traces:
            traces.append(ir.to_proto(trace(*arguments)).SerializeToString())
        return ir.from_proto(onnx.load_from_string(traces[0]))

    def rolled_out(*arguments) -> list:
        if not steps:
            steps.extend(rollouts(*arguments))
        return steps

    with mock.patch.object(exporter, "trace", traced), mock.patch.object(exporter, "rollouts", rolled_out):
        yield


def open_model(name: str) -> Local2Global:
    if name not in PRESETS:
        return load_checkpoint(name)
    torch.manual_seed(0)
    return build_model(name)


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width)
    except ValueError:
        raise L2GError(f"size '{text}' found, HEIGHTxWIDTH expected, such as 480x864") from None
    exporter.ExportOptions(*size)  # refuses a canvas that no model takes
    return size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help=f"presets or checkpoints ({' '.join(MODELS)})"
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help=f"canvases ({' '.join(SIZES)})")
    parser.add_argument("--lowerings", nargs="+", choices=list(WAYS), default=list(WAYS), help="(default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: the machine's)")
    parser.add_argument("--output", type=Path, help="keep the files in this folder (default: they are thrown away)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        sizes = [parse_size(text) for text in args.sizes]
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.output or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            passed = export_all(args.models, sizes, args.lowerings, folder)
    except (L2GError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
