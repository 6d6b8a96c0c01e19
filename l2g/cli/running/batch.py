"""Run a model over many videos, on the cores of this machine or a Ray cluster.

    l2g batch --model model.onnx --input videos --output results

Each video's files are in OUTPUT/NAME as `l2g run` writes them, with video.json; OUTPUT/manifest.parquet has a row a
video, OUTPUT/summary.html says how it went. The same command goes on where a run was stopped or killed, and leaves
alone what is there. Exit code: 0 all done, 1 some videos failed or are damaged, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import add_model, add_quiet, add_running, add_untold, note, refuse_idle, running, untold
from l2g.cli.entry import INTERRUPTED, main_of
from l2g.cli.running.run import OF_OVERLAY, add_frame_options, add_overlay_options

if TYPE_CHECKING:
    from l2g.batch.records import Outcome, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--input",
        required=True,
        help="a folder of videos (folders of pictures in it are videos too), a pattern in quotes, a list (.txt, a path "
        "or URL a line), a video, or any of them in an object store (s3://...)",
    )
    parser.add_argument("--output", required=True, help="a folder that every worker sees, or a URL such as s3://...")
    add_frame_options(parser)
    add_overlay_options(parser)
    add_untold(parser)
    add_running(parser)
    group = parser.add_argument_group("work")
    group.add_argument("--address", help="of a Ray cluster, auto or HOST:PORT (default: this machine alone)")
    group.add_argument("--workers", type=int, metavar="N", help="replicas of the model (default: as many as fit)")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of each; 1: all that it does is done in one (default: this machine's cores, divided; on a cluster 1)",
    )
    group.add_argument(
        "--gpus", type=float, metavar="N", help="GPUs of each, parts too (default: 1 where there are some)"
    )
    group.add_argument("--retries", type=int, default=2, metavar="N", help="of a video whose worker died")
    group.add_argument("--no-copies", action="store_true", help="begin no second copy of what is slow at the end")
    group.add_argument(
        "--piece", type=float, default=0.0, metavar="SECONDS", help="cut longer videos into pieces; 0 takes them whole"
    )
    group.add_argument(
        "--overlap", type=float, default=0.0, metavar="SECONDS", help="of pieces, by which identities are joined"
    )
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.batch.page import rate, verdict
    from l2g.batch.records import DONE
    from l2g.batch.run import run_batch
    from l2g.runtime.video.live.address import without_password

    if options.no_overlay:
        refuse_idle(options, add_arguments, OF_OVERLAY, "it is of the overlay, which --no-overlay leaves out")
    settings = settings_of(options)
    with _bar(options.quiet) as (on_video, say):
        progress = run_batch(
            settings,
            options.input,
            options.output,
            address=options.address,
            workers=options.workers,
            threads=options.threads,
            gpus=options.gpus,
            retries=options.retries,
            copies=not options.no_copies,
            say=say,
            on_video=on_video,
        )
    output = without_password(options.output)
    print(f"{verdict(progress)}\n{rate(progress)}\n  {output}/manifest.parquet\n  {output}/summary.html")
    if progress.interrupted:
        note("interrupted: what was done is kept, and the same command goes on from here")
        return INTERRUPTED
    return 0 if progress.counts[DONE] == progress.total else 1


def settings_of(options: argparse.Namespace) -> Settings:
    from l2g.batch.records import Settings
    from l2g.files import sha256_of_file
    from l2g.public.hub import weights_of

    weights = weights_of(Path(options.model))
    return Settings(
        os.path.abspath(options.model) if os.path.exists(options.model) else options.model,
        sha256_of_file(weights) if weights.is_file() else None,
        options.score_threshold,
        options.top_k,
        options.max_age,
        options.start,
        options.end,
        options.stride,
        options.cuts,
        options.fps,
        options.size,
        class_names=options.class_names,
        **untold(options),
        **running(options) | {"fp32_blocks": tuple(options.fp32_blocks or ())},
        overlay=not options.no_overlay,
        labels=not options.no_labels,
        opacity=options.opacity,
        trails=options.trails,
        hud=options.hud,
        piece=options.piece,
        overlap=options.overlap,
    )


@contextmanager
def _bar(quiet: bool) -> Iterator[tuple[Callable[[int, Outcome], None], Callable[[str], None]]]:
    """A bar where stderr is a terminal: what to call with each outcome, and with a line to be said."""
    if quiet or not sys.stderr.isatty():
        yield (lambda total, outcome: None), note
        return
    from tqdm import tqdm

    with tqdm(unit="video", smoothing=0.05) as bar:
        frames = 0

        def on_video(total: int, outcome: Outcome) -> None:
            nonlocal frames
            bar.total = total
            frames += 0 if outcome.before else outcome.record.frames
            bar.update()
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-9):.1f} frames/s")

        yield on_video, lambda text: bar.write(text, file=sys.stderr)


main = main_of("batch")
