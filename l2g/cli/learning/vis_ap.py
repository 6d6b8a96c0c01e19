"""Average precision and recall of video instance segmentation, as the YouTube-VIS and OVIS evaluators have them.

Exit code: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse

from l2g.cli.entry import main_of
from l2g.cli.learning.scores import add_json, keep_inputs, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ground-truth", required=True, metavar="GT", help="annotations JSON, YouTube-VIS or OVIS")
    parser.add_argument("--results", required=True, metavar="RESULTS", help="results JSON, a list of predictions")
    parser.add_argument("--ovis", action="store_true", help="the OVIS statistics, with occlusion ranges")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.metrics.vis_ap import evaluate_vis

    keep_inputs(options.json, options.ground_truth, options.results)
    return show(evaluate_vis(options.ground_truth, options.results, options.ovis), options.json)


main = main_of("metrics vis-ap")
