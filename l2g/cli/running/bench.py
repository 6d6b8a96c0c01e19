"""How fast models are on this machine: every library and device that can run them, in turn, frame by frame.

    l2g bench tiny.onnx tiny.bf16.onnx tiny.int8.onnx --dataset synthetic:val --videos 12 --output outputs/bench

With a data set AP is measured beside it, and the fastest within the budget is recommended. Writes bench.json and
bench.html into the output folder. Exit code: 0 measured, 1 nothing is within the AP budget, 2 bad input.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from l2g.cli.arguments import (
    MODEL,
    UNTOLD,
    add_dataset,
    add_quiet,
    add_streams,
    add_untold,
    open_dataset,
    refuse_idle,
    size,
    untold,
)
from l2g.cli.entry import main_of
from l2g.errors import L2GError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL}; several of one canvas")
    add_dataset(parser, "for AP: ", required=False, seed=True)
    parser.add_argument(
        "--ap-budget",
        "--vpq-budget",
        type=float,
        default=0.5,
        help="percent points of AP (VPQ) that the recommended may lose",
    )
    add_streams(parser)
    parser.add_argument("--frames", type=int, default=50, help="interleaved frames that count")
    parser.add_argument("--threads", type=int, metavar="N", help="on a CPU (default: each library's own choice)")
    parser.add_argument(
        "--compile",
        nargs="+",
        choices=("fp32", "bf16", "fp16"),
        default=[],
        metavar="PRECISION",
        help="checkpoints also compiled for a GPU, in these: fp32, bf16, fp16",
    )
    parser.add_argument("--size", type=size, metavar="HxW", help="canvas of a checkpoint (default: the model's)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for bench.json and bench.html (default: none)"
    )
    add_untold(parser)
    add_quiet(parser)


_OF_SCORES = ("ap_budget", "streams", "videos", "seed", "classes", "skip_broken")
_BUILT = (".onnx", ".engine")  # the canvas is in the file


def run(options: argparse.Namespace) -> int:
    from l2g.evaluation.bench.candidates import candidates
    from l2g.evaluation.bench.measure import measure
    from l2g.evaluation.bench.page import render_page, table
    from l2g.files import expect_writable, made_folder, write_json, write_text

    if not options.dataset:
        refuse_idle(options, add_arguments, _OF_SCORES, "it is of AP, which --dataset asks for")
    if all(Path(model).suffix.lower() in _BUILT for model in options.models):
        refuse_idle(options, add_arguments, ("size", "compile", *UNTOLD), "it is of checkpoints, and none is given")
    if not options.ap_budget >= 0:
        raise L2GError(f"--ap-budget {options.ap_budget:g} found, points from 0 up expected")
    with made_folder(options.output) if options.output else nullcontext() as folder:
        if folder:
            expect_writable(folder / "report")
        dataset = open_dataset(options) if options.dataset else None
        found, left = candidates(options.models, options.size, options.threads, options.compile, untold(options))
        report = measure(
            found,
            left=left,
            frames=options.frames,
            threads=options.threads,
            dataset=dataset,
            ap_budget=options.ap_budget,
            streams=options.streams,
            progress=not options.quiet,
        )
        print(table(report))
        if folder:
            write_json(folder / "bench.json", report.to_json())
            write_text(folder / "bench.html", render_page(report))
            print(f"report: {folder / 'bench.html'}")
    return 0 if report.recommended else 1


main = main_of("bench")
