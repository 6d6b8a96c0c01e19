"""Turn a checkpoint into an INT8 ONNX file, calibrated on rollouts and held to an AP budget.

    l2g quantize --ckpt l2g_tiny --dataset synthetic:val --output l2g_tiny.int8.onnx

Interrupted, the same command goes on where it was. Beside the file a report says what was measured (.report.md, .json).
Exit code: 0 written, 1 more AP is lost than the budget allows (nothing but the report is written), 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import (
    DATASET,
    UNTOLD,
    add_canvas,
    add_checkpoint,
    add_outputs,
    add_quiet,
    add_reading,
    add_split,
    add_streams,
    add_untold,
    note,
    open_dataset,
    refuse_idle,
    untold,
)
from l2g.cli.entry import main_of
from l2g.cli.table import Row, table
from l2g.errors import ExportError
from l2g.files import locked, refuse_overwriting

if TYPE_CHECKING:
    from l2g.calibration.job import Quantised, QuantizeOptions
    from l2g.calibration.report import Report
    from l2g.data.dataset import VideoDataset

    Data = tuple[VideoDataset, VideoDataset, tuple[VideoDataset, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, also=", or an FP32 .onnx of this package")
    parser.add_argument("--dataset", required=True, metavar="DATASET", help=f"AP is measured here: {DATASET}")
    add_split(parser)
    add_reading(parser)
    parser.add_argument("--output", required=True, type=Path, help="the ONNX file to write")
    parser.add_argument("--calibrate-on", metavar="DATASET", help="rollouts are recorded here (default: --dataset)")
    parser.add_argument(
        "--also-on", nargs="+", default=[], metavar="DATASET", help="the budget is to hold on these too, at the end"
    )
    parser.add_argument(
        "--ap-budget",
        "--vpq-budget",
        default="0.5",
        help="points that may be lost of AP, or of VPQ where the data set has maps of things and stuff; or 'none'",
    )
    parser.add_argument(
        "--layout",
        choices=("onnxruntime", "tensorrt", "openvino"),
        default="onnxruntime",
        help="which library is to be quick with it; onnxruntime, openvino: on a CPU",
    )
    parser.add_argument(
        "--scales",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="what is around the integers; fp16: for TensorRT, bf16: for OpenVINO",
    )
    add_canvas(parser)
    add_outputs(parser, text="; needs a checkpoint")
    calibration = parser.add_argument_group("calibration")
    calibration.add_argument("--videos", type=int, default=8, help="videos that rollouts are recorded of")
    calibration.add_argument("--frames", type=int, default=12, help="frames kept of each")
    calibration.add_argument("--span", type=int, default=72, help="frames run of each at most")
    calibration.add_argument(
        "--method",
        choices=("best", "auto", "max", "percentile", "entropy"),
        default="best",
        help="of ranges; auto: per tensor, best: whichever changes the outputs least",
    )
    calibration.add_argument("--percentile", type=float, default=99.99, help="of the magnitudes")
    calibration.add_argument(
        "--state", choices=("rollout", "zeros", "random"), default="rollout", help="zeros, random: to be compared with"
    )
    effort = parser.add_argument_group("search")
    effort.add_argument("--search-videos", type=int, default=32, help="videos that sets are tried on")
    effort.add_argument("--max-trials", type=int, default=10, help="sets tried; 0: the default set")
    effort.add_argument("--probe-frames", type=int, default=8, help="recorded frames per sensitivity")
    effort.add_argument("--verdict-videos", type=int, metavar="N", help="judge on the first N videos (default: all)")
    add_streams(effort)
    parser.add_argument("--work", type=Path, help="folder to resume from (default: OUTPUT.work)")
    parser.add_argument("--fresh", action="store_true", help="forget what the folder holds and start again")
    add_untold(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    quantised = quantise(options)
    report = quantised.report
    for line in report.notes:
        note(f"note: {line}")
    print(report.table())
    print(table(rows(report)))
    if quantised.path is None:
        note(
            f"refused: {report.loss:.2f} {report.metric} lost, {options.ap_budget} allowed; {options.output} "
            "is not written. Record more frames (--videos, --frames), try more sets (--max-trials), or raise "
            "--ap-budget"
        )
        return 1
    print(f"{quantised.path}: {quantised.path.stat().st_size / 1e6:.1f} MB")
    return 0


def rows(report: Report) -> list[Row]:
    """What the verdict rests on."""
    budget = report.options.ap_budget
    lost = [
        Row(f"{report.metric} lost on {verdict.dataset}", "percent points", verdict.loss, budget)
        for verdict in report.verdicts
    ]
    return [
        *lost,
        Row("arithmetic in INT8", "%", report.share),
        Row("one frame here, FP32", "ms", 1000 * report.speed["fp32"]),
        Row("one frame here, INT8", "ms", 1000 * report.speed["int8"]),
    ]


def quantise(arguments: argparse.Namespace) -> Quantised:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from l2g.calibration.job import QuantizeOptions, clear
    from l2g.calibration.recording import RecordingOptions

    options = QuantizeOptions(
        layout=arguments.layout,
        scales=arguments.scales,
        method=arguments.method,
        percentile=arguments.percentile,
        ap_budget=parse_budget(arguments.ap_budget),
        recording=RecordingOptions(arguments.videos, arguments.frames, arguments.span),
        search_videos=arguments.search_videos,
        probe_frames=arguments.probe_frames,
        max_trials=arguments.max_trials,
        streams=arguments.streams,
        state=arguments.state,
    )
    output: Path = arguments.output
    if output.suffix.lower() != ".onnx" or not output.parent.is_dir():
        raise ExportError(f"{output}: expected the path of an .onnx file in a folder that exists")
    refuse_overwriting([output], [arguments.ckpt], ExportError)
    if arguments.ckpt.lower().endswith(".onnx"):
        refuse_idle(arguments, add_arguments, UNTOLD, "it is of a checkpoint, and an .onnx says all of it")
    dataset = open_dataset(arguments, arguments.dataset).first(arguments.verdict_videos)
    other = arguments.calibrate_on
    calibration = dataset if other is None else open_dataset(arguments, other, endless=True)
    others = tuple(open_dataset(arguments, name).first(arguments.verdict_videos) for name in arguments.also_on)
    work = arguments.work or output.with_name(f"{output.name}.work")
    with locked(work, ExportError):
        if arguments.fresh:
            clear(work)
        return _quantise(arguments, options, (dataset, calibration, others), work)


def _quantise(arguments: argparse.Namespace, options: QuantizeOptions, data: Data, work: Path) -> Quantised:
    from l2g.calibration.job import QuantizeJob, export_base
    from l2g.files import write_json, write_text

    output: Path = arguments.output
    dataset, calibration, others = data
    canvas, deployed = (arguments.height, arguments.width), None
    if not arguments.ckpt.lower().endswith(".onnx"):
        base = export_base(arguments.ckpt, work, options, *canvas, **untold(arguments))
        if arguments.outputs == "detections":
            deployed = export_base(arguments.ckpt, work, options, *canvas, top_k=arguments.top_k, **untold(arguments))
    elif arguments.outputs == "detections" or canvas != (None, None):
        raise ExportError(
            f"{arguments.ckpt}: an .onnx has its outputs and its canvas; give the checkpoint to change them"
        )
    else:
        base = Path(arguments.ckpt)
    job = QuantizeJob(base, dataset, calibration, output, work, options, not arguments.quiet, deployed, others)
    quantised = job.run()
    stem = output.with_suffix("")
    write_json(f"{stem}.report.json", quantised.report.to_json())
    write_text(Path(f"{stem}.report.md"), quantised.report.table())
    return quantised


def parse_budget(text: str) -> float | None:
    """A number from 0 up, None for "none"; ExportError for anything else."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ExportError(f"AP budget '{text}' found, a number of percent points or 'none' expected") from None


main = main_of("quantize")
