"""Write synthetic video with exact annotation, a data set in the YouTube-VIS layout, or things and stuff in VIPSeg's.

    l2g data draw --split val --seed 0 --videos 64 --output DIR
    l2g data draw --panoptic --split val --seed 0 --videos 64 --output DIR

Exit code: 0 written, 2 bad input.
"""

from __future__ import annotations

import argparse

from l2g.cli.entry import main_of

SPLITS = ("crossing", "demo", "long", "occluded", "train", "val")
SIZE = (96, 160)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", required=True, choices=SPLITS, help="which kind of video")
    parser.add_argument(
        "--panoptic", action="store_true", help="things before stuff, in VIPSeg's layout, instead of instances alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="any number from 0 on; splits never share one")
    parser.add_argument("--videos", type=int, help="how many (default: the split's own number)")
    parser.add_argument("--frames", type=int, help="frames of a video (default: the split's own number)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"), help="of the frames, in pixels"
    )
    parser.add_argument("--cuts", type=int, default=0, help="scene cuts in every video")
    parser.add_argument(
        "--format", choices=("jpg", "png"), default="jpg", dest="picture_format", help="of the frames' files"
    )
    parser.add_argument("--output", required=True, help="directory to make; must not exist or be empty")


def run(options: argparse.Namespace) -> int:
    from l2g.data.synthetic.dataset import write_synthetic
    from l2g.data.synthetic.panoptic import write_panoptic

    write = write_panoptic if options.panoptic else write_synthetic
    how = {name: getattr(options, name) for name in ("seed", "videos", "frames", "cuts", "picture_format")}
    directory = write(options.output, options.split, size=tuple(options.size), **how)
    print(f"wrote {directory}")
    return 0


main = main_of("data draw")
