"""The whole job once: the shipped checkpoint on the shipped clip, and its AP against the clip's annotation.

    l2g demo --output outputs/demo

Exit code: as of l2g run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from l2g.cli.arguments import MODEL, add_quiet
from l2g.cli.entry import main_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="l2g_tiny", metavar="MODEL", help=MODEL)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="the folder for the results")
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.cli.running.run import main as run_video
    from l2g.demo import ANNOTATION, CLIP
    from l2g.metrics.vis_ap import evaluate_vis

    arguments = ["--model", options.model, "--input", str(CLIP), "--output", str(options.output)]
    if code := run_video([*arguments, *["--quiet"] * options.quiet]):
        return code
    stats = evaluate_vis(ANNOTATION, options.output / "results.json", allow_empty=True).stats
    print("against the clip's annotation: " + ", ".join(f"{name} {100 * stats[name]:.1f}" for name in ("AP", "AP50")))
    return 0


main = main_of("demo")
