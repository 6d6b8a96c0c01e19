"""Write a data set in another format, and name what that one cannot hold.

    l2g data convert cvat:EXPORT --to youtube_vis --output DIR

The format of a plain directory is looked for. Frames are copied as they are where the format allows it. Exit code: 0
written, 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from l2g.cli.arguments import add_allow_outside, add_split
from l2g.cli.entry import main_of

FORMATS = ("youtube_vis", "ovis", "coco_video", "cvat", "label_studio", "vipseg", "mots", "masks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATASET", help="a directory, FORMAT:DIR, or synthetic:SPLIT")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format to write")
    parser.add_argument("--output", type=Path, required=True, help="directory to make; must not exist or be empty")
    add_split(parser, default="train")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken videos and annotations out")
    add_allow_outside(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.data.convert.job import convert
    from l2g.data.registry import load_dataset, split_source

    synthetic = options.source.startswith(("synthetic:", "synthetic_panoptic:"))
    source = options.source if synthetic else ":".join(split_source(options.source))
    how = {"skip_broken": options.skip_broken, "allow_outside": options.allow_outside}
    dataset = load_dataset(source, options.split, **how)
    for problem in dataset.problems:
        print(f"left out: {problem}" if problem.fatal else f"note: {problem}")
    done = convert(dataset, options.to, options.output, options.split)
    for what in done.lost:
        print(f"lost: {what}")
    print(f"wrote {done.folder}: {done.videos} videos, {done.frames} frames, {done.objects} objects")
    return 0


main = main_of("data convert")
