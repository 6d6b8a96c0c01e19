"""Turn a checkpoint into one ONNX file that serves the first frame and every later one and carries its contract.

The file gets its name only after ONNX Runtime has given PyTorch's numbers with it. Exit code: 0 written, 2 bad input or
a graph that is not the model (nothing is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from l2g.cli.arguments import (
    add_canvas,
    add_checkpoint,
    add_dataset,
    add_outputs,
    add_quiet,
    add_untold,
    open_dataset,
    refuse_idle,
    untold,
)
from l2g.cli.entry import main_of
from l2g.cli.stages import Stages
from l2g.cli.table import table, verification_rows
from l2g.errors import ExportError
from l2g.progress import Progress

if TYPE_CHECKING:
    from l2g.contract import GraphContract
    from l2g.export.exporter import Exported, ExportOptions

_LOADING = "load PyTorch and the checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    add_canvas(parser)
    parser.add_argument("--max-streams", type=int, default=8, help="most streams in one batch")
    add_outputs(parser)
    parser.add_argument(
        "--lowering",
        choices=("gather", "gridsample", "plugin"),
        default="gather",
        help="how deformable attention is spelled; docs/guides/export.md says why",
    )
    parser.add_argument(
        "--target",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="which library the gather is laid out for",
    )
    parser.add_argument("--opset", type=int, default=17, help="17 to 20; BF16 is traced at 20 and written as 22")
    parser.add_argument("--plugin-version", choices=("1", "2"), default="1", help="1: TensorRT 10, 2: TensorRT 11")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "auto"),
        default="fp32",
        help="fp16, bf16: mixed, with float32 islands; auto: fp16, and what it hurts stays float32, by measuring; "
        "bf16 with --dataset: the same of bf16. bf16 is for OpenVINO and TensorRT; ONNX Runtime's CPU has none",
    )
    parser.add_argument(
        "--fp32-blocks",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="with fp16 or bf16: keep these float32, encoder.layers.0",
    )
    parser.add_argument("--simplify", action="store_true", help="run onnxslim over the graph")
    add_quiet(parser)
    auto = parser.add_argument_group(
        "what the search of --precision auto, or of bf16, measures on, and what 16 bits may cost"
    )
    add_dataset(auto, required=False)
    auto.add_argument(
        "--ap-budget",
        "--vpq-budget",
        type=float,
        default=0.2,
        help="percent points of AP, or of VPQ where the data set has maps of things and stuff",
    )
    auto.add_argument("--min-identity", type=float, default=95.0, help="same objects, percent, by quarter")
    auto.add_argument("--min-iou", type=float, default=0.9, help="mean mask IoU by quarter")
    auto.add_argument("--granularity", choices=("stage", "layer", "module"), default="layer", help="size of a block")
    auto.add_argument("--log", help="every trial, to go on from after an interruption (default: OUTPUT.search.jsonl)")
    add_untold(parser)


# Options of the search alone.
_SEARCH = ("dataset", "videos", "classes", "skip_broken", "ap_budget", "min_identity", "min_iou", "granularity", "log")


def run(options: argparse.Namespace) -> int:
    from l2g.provenance import Verification

    with Stages(options.quiet) as stages:
        exported = make(options, stages)
    verification = exported.verification
    print(f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB, verified by {verification.library}")
    # An FP16 graph is held to what rounding costs on the average, a float32 graph to its largest difference.
    if isinstance(verification, Verification):
        rows = verification_rows(verification.differences, verification.tolerances, "largest difference")
    else:
        rows = verification_rows(verification.errors, verification.limits, "root mean square of differences")
    print(table(rows))
    return 0


def make(options: argparse.Namespace, progress: Progress) -> Exported:
    progress.plan({_LOADING: 1})
    progress.stage(_LOADING)
    from l2g.artifacts.onnx_file import expect_onnx_name
    from l2g.checkpoint import find_checkpoint, load_checkpoint
    from l2g.export.exporter import export

    expect_onnx_name(options.output)  # a checkpoint may have to be fetched
    choices = export_options(options)
    searched = options.precision == "auto" or (options.precision == "bf16" and options.dataset)
    if not searched:
        refuse_idle(options, add_arguments, _SEARCH, "a search measures, with --precision auto, or bf16 and --dataset")
    if options.outputs == "raw":
        refuse_idle(options, add_arguments, ("top_k",), "it is of --outputs detections")
    if options.lowering != "plugin":
        refuse_idle(options, add_arguments, ("plugin_version",), "it is of --lowering plugin")
    choose = chooser(options) if searched else None
    checkpoint = find_checkpoint(options.ckpt)
    model = load_checkpoint(checkpoint, **untold(options))
    return export(model, options.output, choices, checkpoint, choose, progress)


def export_options(options: argparse.Namespace) -> ExportOptions:
    from l2g.export.exporter import BF16_OPSET, ExportOptions

    return ExportOptions(
        height=options.height,
        width=options.width,
        max_streams=options.max_streams,
        top_k=options.top_k if options.outputs == "detections" else None,
        lowering=options.lowering,
        target=options.target,
        # 17 holds no BF16 and is what nobody asked for.
        opset=BF16_OPSET if (options.precision, options.opset) == ("bf16", 17) else options.opset,
        plugin_version=options.plugin_version,
        simplify=options.simplify,
        precision="fp16" if options.precision == "auto" else options.precision,
        fp32_blocks=tuple(options.fp32_blocks),
    )


def chooser(options: argparse.Namespace) -> Callable[[bytes, GraphContract], tuple[str, ...]]:
    """The search of --precision auto, with its data set open and its trials printed as they end."""
    from l2g.export.precision.convert import REDUCED
    from l2g.export.precision.fp32_blocks import Budget, search_fp32_blocks

    if options.fp32_blocks:
        raise ExportError(
            "a search finds the blocks itself; give --fp32-blocks with --precision fp16, or with bf16 and no --dataset"
        )
    if not options.dataset:
        raise ExportError("--precision auto measures AP and needs videos; add --dataset, such as synthetic:val")
    if options.outputs != "raw":
        raise ExportError(
            "--precision auto measures AP and needs raw outputs; search with --outputs raw, then export the detections "
            "with that precision and the --fp32-blocks that it found"
        )
    dataset = open_dataset(options)
    budget = Budget(options.ap_budget, options.min_identity, options.min_iou)
    log = options.log or f"{options.output}.search.jsonl"

    def choose(graph: bytes, contract: GraphContract) -> tuple[str, ...]:
        found = search_fp32_blocks(
            graph,
            contract,
            dataset,
            target=REDUCED["fp16" if options.precision == "auto" else options.precision],
            budget=budget,
            granularity=options.granularity,
            log=log,
            progress=not options.quiet,
        )
        print(f"{found.table()}\ntrials: {log}")
        return found.kept

    return choose


main = main_of("export")
