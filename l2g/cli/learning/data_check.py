"""List what is wrong with a data set, by name.

    l2g data check ovis:DIR --split train

Exit code: 0 nothing is broken (something may be odd), 1 entries are broken, 2 it cannot be opened.
"""

from __future__ import annotations

import argparse

from l2g.cli.arguments import add_split
from l2g.cli.entry import main_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATASET", help="a directory, or a name such as ovis:DIR or synthetic:val")
    add_split(parser, default="train")


def run(options: argparse.Namespace) -> int:
    from l2g.data.registry import load_dataset

    dataset = load_dataset(options.source, split=options.split, skip_broken=True)
    for problem in dataset.problems:
        print(problem)
    counts = f"{len(dataset)} videos, {len(dataset.categories)} categories, {len(dataset.problems)} problems"
    print(f"{dataset.name}: {counts}")
    return 1 if any(problem.fatal for problem in dataset.problems) else 0


main = main_of("data check")
