"""Video panoptic quality, as VIPSeg's official evaluator has it.

Exit code: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse

from l2g.cli.entry import main_of
from l2g.cli.learning.scores import add_json, add_panoptic, keep_inputs, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_panoptic(parser)
    parser.add_argument("--windows", type=_length, nargs="+", default=(1, 2, 4, 6, 8), help="window lengths, in frames")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.metrics.panoptic import submission
    from l2g.metrics.vpq import evaluate_vpq

    files = options.ground_truth, options.ground_truth_maps, *submission(options.results)
    keep_inputs(options.json, options.ground_truth, files[2])
    return show(evaluate_vpq(*files, options.windows), options.json)


def _length(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no window length; expected a positive number of frames")
    return int(text)


main = main_of("metrics vpq")
