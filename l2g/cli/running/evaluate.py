"""AP of a model on a data set, and how often its identities change; of things and stuff VPQ and STQ.

    l2g evaluate --model l2g_tiny --dataset synthetic:val
    l2g evaluate --model panoptic.onnx --dataset vipseg:VIPSeg --split val --task panoptic

Results are written before they are scored. What was found until an error or Ctrl-C ended the run is kept beside them.
Exit code: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import (
    MERGING,
    add_dataset,
    add_model,
    add_quiet,
    add_running,
    add_streams,
    add_task,
    add_threads,
    add_untold,
    note,
    open_dataset,
    panoptic_options,
    refuse_idle,
    running,
    threads,
    untold,
    warm_up,
)
from l2g.cli.entry import main_of

if TYPE_CHECKING:
    from l2g.data.dataset import VideoDataset
    from l2g.evaluation.panoptic import PanopticBoard
    from l2g.evaluation.run import Scoreboard
    from l2g.runtime.backends.base import Backend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dataset(parser, seed=True)
    add_streams(parser)
    parser.add_argument("--top-k", type=int, default=100, help="results per video")
    parser.add_argument(
        "--no-handover", action="store_true", help="slots as they are: identities stay, shadows are shown"
    )
    parser.add_argument(
        "--cuts",
        choices=("auto", "off"),
        default="off",
        help="auto: where a hard cut is found the video's state and identities start anew; official protocols do not",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="write the results in YouTube-VIS format; of things and stuff a folder, for pred.json and the maps "
        "(default: nowhere)",
    )
    parser.add_argument("--report", metavar="FILE", help="write the scores as JSON, in percent (default: nowhere)")
    add_task(parser, semantic=False, panoptic_where="the data set has maps of things and stuff")
    add_untold(parser)
    add_running(parser)
    add_threads(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.evaluation.panoptic import is_panoptic
    from l2g.evaluation.run import ScoringOptions, evaluate_backend
    from l2g.files import expect_writable, refuse_overwriting, write_json

    dataset = open_dataset(options, decode=False)  # frames that cannot be read are found on the way
    if options.task == "panoptic" or (options.task is None and is_panoptic(dataset)):
        refuse_idle(options, add_arguments, ("top_k",), "it is of instances")
        return run_panoptic(options, dataset)
    refuse_idle(options, add_arguments, MERGING, "it is of things and stuff, --task panoptic")
    written = [path for path in (options.results, options.report) if path is not None]
    for path in written:
        expect_writable(path)
    refuse_overwriting(written, [options.model, *dataset.files])
    scoring = ScoringOptions(top_k=options.top_k, handover=not options.no_handover, cuts=options.cuts)
    with closing(_opened(options)) as backend:
        warm_up(backend, min(options.streams, len(dataset.videos)), options)
        evaluation = evaluate_backend(
            backend,
            dataset,
            streams=options.streams,
            options=scoring,
            progress=not options.quiet,
            skip_broken=options.skip_broken,
            keep=None if options.results is None else partial(keep, path=options.results),
        )
    for line in (*evaluation.notes, *evaluation.report.notes):
        note(f"note: {line}")
    for problem in evaluation.left_out:
        if problem not in dataset.problems:  # those were named when it was opened
            note(f"left out: {problem}")
    if options.report is not None:
        write_json(options.report, {"model": options.model, "dataset": options.dataset, **evaluation.to_json()})
    print(evaluation.report.table())
    print(f"{'switches':<14}{evaluation.identities.switches_per_100_frames:.2f} per object and 100 frames")
    return 0


def _opened(options: argparse.Namespace) -> Backend:
    from l2g.runtime.backends.open import open_backend

    how = {**untold(options), **running(options), **threads(options, add_arguments, options.model)}
    return open_backend(options.model, top_k=None, **how)


def run_panoptic(options: argparse.Namespace, dataset: VideoDataset) -> int:
    from l2g.evaluation.panoptic import evaluate_panoptic
    from l2g.evaluation.run import ScoringOptions
    from l2g.files import expect_writable, refuse_overwriting, write_json

    refuse_overwriting([options.report], [options.model, *dataset.files])
    if options.report:
        expect_writable(options.report)
    with closing(_opened(options)) as backend:
        warm_up(backend, min(options.streams, len(dataset.videos)), options)
        evaluation = evaluate_panoptic(
            backend,
            dataset,
            streams=options.streams,
            scoring=ScoringOptions(handover=not options.no_handover, cuts=options.cuts),
            options=panoptic_options(options),
            progress=not options.quiet,
            skip_broken=options.skip_broken,
            folder=options.results,
            keep=keep_maps if options.results else None,
        )
    for line in (*evaluation.notes, *evaluation.report_notes):
        note(f"note: {line}")
    for problem in evaluation.left_out:
        if problem not in dataset.problems:
            note(f"left out: {problem}")
    if options.report:
        write_json(options.report, {"model": options.model, "dataset": options.dataset, **evaluation.to_json()})
    print(evaluation.table())
    return 0


def keep_maps(board: PanopticBoard) -> None:
    """Say what is kept of a run that did not come to its end; that of one that did is written when it is scored."""
    if board.videos and not board.complete:
        note(f"kept: the maps of {board.videos} of {len(board.match.dataset)} videos, and {board.write()}")


def keep(board: Scoreboard, path: Path) -> None:
    """Write the results to `path`; those of a run that did not come to its end beside it, as NAME.partial.json."""
    from l2g.files import write_json

    if not board.videos:
        return
    partial_path = path.with_name(f"{path.stem}.partial.json")
    if board.complete:
        write_json(path, board.results)
        partial_path.unlink(missing_ok=True)  # of an earlier run
    else:
        write_json(partial_path, board.results)
        note(f"kept: the results of {board.videos} of {len(board.match.dataset)} videos, in {partial_path}")


main = main_of("evaluate")
