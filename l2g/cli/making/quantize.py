"""Turn a checkpoint into an INT8 ONNX file, calibrated on rollouts and held to an AP budget.

    python calibration/quantize.py --ckpt l2g_tiny --dataset synthetic:val --output l2g_tiny.int8.onnx

Interrupted, the same command goes on where it was. Beside the file a report says what was measured (.report.md, .json).
Exit code: 0 written, 1 more AP is lost than the budget allows (nothing but the report is written), 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.errors import ExportError, L2GError

if TYPE_CHECKING:
    from l2g.calibration.job import Quantised


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quantize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt", required=True, help="a checkpoint, a shipped model's name, or an FP32 .onnx of this package"
    )
    parser.add_argument(
        "--dataset", required=True, help="AP is measured here: a directory, FORMAT:DIR, or synthetic:{val,...}"
    )
    parser.add_argument("--output", required=True, type=Path, help="the ONNX file to write")
    parser.add_argument("--calibrate-on", metavar="DATASET", help="rollouts are recorded here (default: --dataset)")
    parser.add_argument(
        "--also-on", nargs="+", default=[], metavar="DATASET", help="the budget is to hold on these too, at the end"
    )
    parser.add_argument("--split", default="valid", help="split of a directory (default valid)")
    parser.add_argument("--ap-budget", default="0.5", help="AP points that may be lost, or 'none' (default 0.5)")
    parser.add_argument(
        "--layout",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="which library is to be quick with it (default onnxruntime, on a CPU)",
    )
    parser.add_argument(
        "--scales", choices=("fp32", "fp16"), default="fp32", help="fp16: FP16 around the integers, for TensorRT"
    )
    parser.add_argument("--height", type=int, help="canvas height of the export (default: the model's)")
    parser.add_argument("--width", type=int, help="canvas width of the export (default: the model's)")
    parser.add_argument(
        "--outputs", choices=("raw", "detections"), default="raw", help="of the file (needs a checkpoint; default raw)"
    )
    parser.add_argument("--top-k", type=int, default=50, help="instances chosen for detections (default 50)")
    calibration = parser.add_argument_group("calibration")
    calibration.add_argument("--videos", type=int, default=8, help="videos that rollouts are recorded of (default 8)")
    calibration.add_argument("--frames", type=int, default=12, help="frames kept of each (default 12)")
    calibration.add_argument("--span", type=int, default=72, help="frames run of each at most (default 72)")
    calibration.add_argument(
        "--method",
        choices=("best", "auto", "max", "percentile", "entropy"),
        default="best",
        help="of ranges; auto: per tensor, best: whichever changes the outputs least (default best)",
    )
    calibration.add_argument("--percentile", type=float, default=99.99, help="of the magnitudes (default 99.99)")
    calibration.add_argument(
        "--state", choices=("rollout", "zeros", "random"), default="rollout", help="zeros, random: to be compared with"
    )
    effort = parser.add_argument_group("search")
    effort.add_argument("--search-videos", type=int, default=32, help="videos that sets are tried on (default 32)")
    effort.add_argument("--max-trials", type=int, default=10, help="sets tried; 0: the default set (default 10)")
    effort.add_argument("--probe-frames", type=int, default=8, help="recorded frames per sensitivity (default 8)")
    effort.add_argument("--verdict-videos", type=int, metavar="N", help="judge on the first N videos (default: all)")
    effort.add_argument("--streams", type=int, default=4, help="videos that share a step (default 4)")
    parser.add_argument("--work", type=Path, help="folder to resume from (default: OUTPUT.work)")
    parser.add_argument("--fresh", action="store_true", help="forget what the folder holds and start again")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        quantised = run(arguments)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(quantised.report.table())
    if quantised.path is None:
        print(
            f"refused: {quantised.report.loss:.2f} AP lost, {arguments.ap_budget} allowed; {arguments.output} "
            "is not written. Record more frames (--videos, --frames), try more sets (--max-trials), or raise "
            "--ap-budget",
            file=sys.stderr,
        )
        return 1
    print(f"{quantised.path}: {quantised.path.stat().st_size / 1e6:.1f} MB")
    return 0


def run(arguments: argparse.Namespace) -> Quantised:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401

        from l2g.calibration.job import QuantizeJob, QuantizeOptions, clear, export_base
        from l2g.calibration.recording import RecordingOptions
        from l2g.calibration.scoring import first_videos
        from l2g.data.registry import load_dataset
        from l2g.files import write_json, write_text
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise ExportError(f"'{error.name}' is not installed; pip install 'l2g[int8]'") from None

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
    if output.suffix != ".onnx" or not output.parent.is_dir():
        raise ExportError(f"{output}: expected the path of an .onnx file in a folder that exists")
    dataset = first_videos(load_dataset(arguments.dataset, arguments.split), arguments.verdict_videos)
    other = arguments.calibrate_on
    calibration = dataset if other is None else load_dataset(other, arguments.split)
    others = tuple(first_videos(load_dataset(n, arguments.split), arguments.verdict_videos) for n in arguments.also_on)
    work = arguments.work or output.with_name(f"{output.name}.work")
    if arguments.fresh:
        clear(work)
    canvas, deployed = (arguments.height, arguments.width), None
    if not arguments.ckpt.endswith(".onnx"):
        base = export_base(arguments.ckpt, work, options, *canvas)
        if arguments.outputs == "detections":
            deployed = export_base(arguments.ckpt, work, options, *canvas, top_k=arguments.top_k)
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


if __name__ == "__main__":
    sys.exit(main())
