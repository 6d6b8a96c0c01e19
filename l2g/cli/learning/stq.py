"""Segmentation and tracking quality, as VIPSeg's official evaluator has it.

Exit code: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse

from l2g.cli.entry import main_of
from l2g.cli.learning.scores import add_json, add_panoptic, keep_inputs, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_panoptic(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.metrics.panoptic import submission
    from l2g.metrics.stq import evaluate_stq

    files = options.ground_truth, options.ground_truth_maps, *submission(options.results)
    keep_inputs(options.json, options.ground_truth, files[2])
    return show(evaluate_stq(*files), options.json)


main = main_of("metrics stq")
