"""List what is wrong with a data set, by name.

    l2g data check ovis:DIR --split train --decode

With --decode every picture is decoded too, by several processes.

Exit code: 0 nothing is broken (something may be odd), 1 entries are broken, 2 it cannot be opened.
"""

from __future__ import annotations

import argparse

from l2g.cli.arguments import add_allow_outside, add_quiet, add_split
from l2g.cli.entry import main_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATASET", help="a directory, or a name such as ovis:DIR or synthetic:val")
    add_split(parser, default="train")
    parser.add_argument("--decode", action="store_true", help="decode every picture, to find the damaged ones")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode (default: one for each CPU)")
    add_allow_outside(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.errors import L2GError
    from l2g.metrics.files import no_collection

    if options.workers is not None and options.workers < 1:
        raise L2GError(f"--workers {options.workers} found, at least 1 expected")
    with no_collection():  # what was read is gone before it is looked at for garbage
        return check(options)


def check(options: argparse.Namespace) -> int:
    """Read the data set and print what is wrong with it; the exit code."""
    from l2g.data.pictures import unreadable_frames
    from l2g.data.registry import load_dataset

    outside = options.allow_outside
    dataset = load_dataset(options.source, split=options.split, skip_broken=True, allow_outside=outside)
    problems = dataset.problems
    if options.decode:
        problems += tuple(unreadable_frames(dataset, options.workers, not options.quiet).values())
    for problem in problems:
        print(problem)
    print(f"{dataset.name}: {len(dataset)} videos, {len(dataset.categories)} categories, {len(problems)} problems")
    return 1 if any(problem.fatal for problem in problems) else 0


main = main_of("data check")
