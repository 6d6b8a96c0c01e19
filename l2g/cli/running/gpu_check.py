"""Is everything that runs on this GPU right, how fast is it, and what would be possible? One call, one report.

    l2g gpu-check --output outputs/gpu
    l2g gpu-check --compare outputs/before/report.json outputs/gpu/report.json

Every step is a process with a time limit: what crashes or hangs costs itself. The report is on the disk after every
number; the same command goes on where another ended, so --prepare can make the graphs on a machine without a GPU.
Exit code: 0 all that runs here is right; 1 a number is beyond its limit, or a step broke; 2 bad input, or no GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import add_quiet, note, size
from l2g.cli.entry import main_of

if TYPE_CHECKING:
    from l2g.gpucheck.plan import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the check; what is there is gone on with (default: none)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="l2g_tiny alone, 1 and 4 streams, 30 frames, 2 videos, where not told"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same on the processor")
    parser.add_argument("--prepare", action="store_true", help="make all that needs no GPU, and measure nothing")
    parser.add_argument("--retry", action="store_true", help="also run again what failed, crashed or took too long")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin nothing after N minutes (default: no such limit)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="steps whose names hold one of these, such as latency"
    )
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", help="checkpoints or presets (default: l2g_r50 l2g_tiny)"
    )
    parser.add_argument("--size", type=size, metavar="HxW", help="canvas of the latencies (default: 480x864)")
    parser.add_argument("--streams", type=int, nargs="+", metavar="B", help="batches (default: 1 4 8)")
    parser.add_argument("--frames", type=int, help="that count of each latency (default: 60)")
    parser.add_argument("--videos", type=int, help="of val, for AP (default: 8)")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="two reports side by side, nothing run (default: none)",
    )
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.errors import L2GError

    if options.compare:
        return _compare(*options.compare)
    if options.output is None:
        raise L2GError("no --output given; name the folder of the check")
    from l2g.gpucheck.page import summary
    from l2g.gpucheck.run import PAGE_FILE, How, check

    how = How(
        device=options.device,
        prepare=options.prepare,
        retry=options.retry,
        only=tuple(options.only),
        minutes=options.minutes,
    )
    report = check(options.output, asked(options), how, (lambda line: None) if options.quiet else note)
    print(summary(report))
    print(f"report: {options.output / PAGE_FILE}")
    return 0 if report.passed else 1


def asked(options: argparse.Namespace) -> Options:
    """What is checked; checkpoints are copied into the folder of the check."""
    from dataclasses import replace

    from l2g.gpucheck.plan import QUICK, Options
    from l2g.gpucheck.run import carry

    chosen = QUICK if options.quick else Options()
    given = {name: getattr(options, name) for name in ("size", "frames", "videos")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.streams is not None:
        given["streams"] = tuple(options.streams)
    if options.models is not None:
        given["models"] = carry(options.output, options.models)
    return replace(chosen, **given)


def _compare(one: Path, other: Path) -> int:
    from l2g.gpucheck.compare import compare
    from l2g.gpucheck.run import read_report

    found = compare(read_report(one), read_report(other))
    print(found.text())
    return 1 if found.worse else 0


main = main_of("gpu-check")
