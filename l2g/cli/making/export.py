"""Turn a checkpoint into one ONNX file that serves the first frame and every later one and carries its contract.

The file gets its name only after ONNX Runtime has given PyTorch's numbers with it. Exit code: 0 written, 2 bad input or
a graph that is not the model (nothing is written).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from l2g.errors import ExportError, L2GError

if TYPE_CHECKING:
    from l2g.contract import GraphContract
    from l2g.export.exporter import Exported


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="to_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt", required=True, help="a .safetensors, a public Mask DINO .pth, or a shipped model's name"
    )
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    parser.add_argument("--height", type=int, help="canvas height, a multiple of 32 (default: the model's)")
    parser.add_argument("--width", type=int, help="canvas width, a multiple of 32 (default: the model's)")
    parser.add_argument("--max-streams", type=int, default=8, help="most streams in one batch (default 8)")
    parser.add_argument(
        "--outputs",
        choices=("raw", "detections"),
        default="raw",
        help="raw: all logits and masks, for parity and evaluation; detections: the best, for a runtime (default raw)",
    )
    parser.add_argument("--top-k", type=int, default=50, help="instances chosen for detections (default 50)")
    parser.add_argument(
        "--lowering",
        choices=("gather", "gridsample", "plugin"),
        default="gather",
        help="how deformable attention is spelled (default gather; docs/guides/export.md says why)",
    )
    parser.add_argument(
        "--target",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="which library the gather is laid out for (default onnxruntime)",
    )
    parser.add_argument("--opset", type=int, default=17, help="17 to 20 (default 17)")
    parser.add_argument("--plugin-version", choices=("1", "2"), default="1", help="1: TensorRT 10, 2: TensorRT 11")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "auto"),
        default="fp32",
        help="fp16: mixed, with float32 islands; auto: fp16, and what it hurts stays float32, found by measuring "
        "(default fp32)",
    )
    parser.add_argument(
        "--fp32-blocks", nargs="+", default=[], metavar="BLOCK", help="with fp16: keep these float32, encoder.layers.0"
    )
    parser.add_argument("--simplify", action="store_true", help="run onnxslim over the graph")
    auto = parser.add_argument_group("what --precision auto measures on, and what FP16 may cost")
    auto.add_argument("--dataset", help="directory in YouTube-VIS layout, FORMAT:DIR, or synthetic:{val,occluded,long}")
    auto.add_argument("--split", default="valid", help="split of a directory (default valid)")
    auto.add_argument("--videos", type=int, metavar="N", help="only the first N videos")
    auto.add_argument("--ap-budget", type=float, default=0.2, help="percent points of AP (default 0.2)")
    auto.add_argument("--min-identity", type=float, default=95.0, help="same objects, percent, by quarter (default 95)")
    auto.add_argument("--min-iou", type=float, default=0.9, help="mean mask IoU by quarter (default 0.9)")
    auto.add_argument(
        "--granularity", choices=("stage", "layer", "module"), default="layer", help="size of a block (default layer)"
    )
    auto.add_argument("--log", help="every trial, to go on from after an interruption (default: OUTPUT.search.jsonl)")
    unknown = parser.add_argument_group("what the shapes in a public .pth do not tell")
    unknown.add_argument("--num-queries", type=int, help="slots (default: the checkpoint's own, or 300)")
    unknown.add_argument("--num-heads", type=int, help="attention heads (default: the checkpoint's own, or 8)")
    unknown.add_argument("--box-init", choices=("mask2box", "bitmask"), help="(default: its own, or mask2box)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        exported = run(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verification = exported.verification
    print(f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB, verified by {verification.library}")
    print("  " + ", ".join(f"{name} {value:.2g}" for name, value in verification.differences.items()))
    return 0


def run(options: argparse.Namespace) -> Exported:
    try:
        from l2g.checkpoint import WEIGHTS, load_checkpoint, shipped_checkpoints
        from l2g.export.exporter import ExportOptions, export
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise ExportError(f"'{error.name}' is not installed; pip install 'l2g[export]'") from None

    choices = ExportOptions(
        height=options.height,
        width=options.width,
        max_streams=options.max_streams,
        top_k=options.top_k if options.outputs == "detections" else None,
        lowering=options.lowering,
        target=options.target,
        opset=options.opset,
        plugin_version=options.plugin_version,
        simplify=options.simplify,
        precision="fp32" if options.precision == "fp32" else "fp16",
        fp32_blocks=tuple(options.fp32_blocks),
    )
    choose = chooser(options) if options.precision == "auto" else None
    model = load_checkpoint(
        options.ckpt, num_queries=options.num_queries, num_heads=options.num_heads, box_init=options.box_init
    )
    shipped = options.ckpt in shipped_checkpoints()
    checkpoint = WEIGHTS / f"{options.ckpt}.safetensors" if shipped else options.ckpt
    return export(model, options.output, choices, checkpoint, choose)


def chooser(options: argparse.Namespace) -> Callable[[bytes, GraphContract], tuple[str, ...]]:
    """The search of --precision auto, with its data set open and its trials printed as they end."""
    from l2g.data.registry import load_dataset
    from l2g.export.precision.search import Budget, search

    if options.fp32_blocks:
        raise ExportError("--precision auto finds the blocks itself; give --fp32-blocks with --precision fp16")
    if not options.dataset:
        raise ExportError("--precision auto measures AP and needs videos; add --dataset, such as synthetic:val")
    if options.outputs != "raw":
        raise ExportError(
            "--precision auto measures AP and needs raw outputs; search with --outputs raw, then export the detections "
            "with --precision fp16 and the --fp32-blocks that it found"
        )
    dataset = load_dataset(options.dataset, options.split)
    dataset = replace(dataset, videos=dataset.videos[: options.videos])
    budget = Budget(options.ap_budget, options.min_identity, options.min_iou)
    log = options.log or f"{options.output}.search.jsonl"

    def choose(graph: bytes, contract: GraphContract) -> tuple[str, ...]:
        found = search(graph, contract, dataset, budget=budget, granularity=options.granularity, log=log)
        print(f"{found.table()}\ntrials: {log}")
        return found.kept

    return choose


if __name__ == "__main__":
    sys.exit(main())
