"""Run a model over a video: masks and tracks into a folder.

Writes `overlay.mp4` (H.264; of a single picture `overlay.png`), `results.json` (YouTube-VIS results format) and
`frames.jsonl` (a line a frame). Several inputs run at once, as streams of one batch, each into a folder of its own name
inside the output folder.
While it runs the files grow in `unfinished`, a folder there, from which --resume goes on after a crash or Ctrl-C.
Exit code: 0 done, 1 the source is damaged (what could be decoded is done), 2 bad input, 130 interrupted (what was
done is kept).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import add_model, add_quiet, names, note, size
from l2g.cli.entry import INTERRUPTED, main_of

if TYPE_CHECKING:
    from l2g.runtime.video.job import JobSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        help="video files, named pipes, URLs that FFmpeg reads, pictures or folders of pictures; several run at once, "
        "and several picture files (*.jpg) are one video",
    )
    parser.add_argument("--output", required=True, help="the folder for the results, made when it is missing")
    parser.add_argument(
        "--track", type=int, metavar="N", help="video track of files that hold several, from 0 (default: the film)"
    )
    parser.add_argument("--score-threshold", type=float, default=0.5, help="lowest score shown, 0..1")
    parser.add_argument("--top-k", type=int, default=50, help="most instances looked at in a frame")
    parser.add_argument("--stride", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="first moment used")
    parser.add_argument("--end", type=float, metavar="SECONDS", help="moment to stop before (default: the whole video)")
    parser.add_argument(
        "--size", type=size, metavar="HxW", help="network canvas, multiples of 32 (default: the model's)"
    )
    parser.add_argument("--num-queries", type=int, help="queries of a .pth, which does not tell (default: 300)")
    parser.add_argument(
        "--class-names",
        type=names,
        metavar="FILE",
        help="names of a .pth's classes, one a line (default: COCO's for 80 classes, else numbers)",
    )
    parser.add_argument("--max-age", type=int, default=30, help="frames a hidden track keeps its id")
    parser.add_argument("--fps", type=float, default=30.0, help="frame rate of pictures")
    parser.add_argument(
        "--resume", action="store_true", help="go on where an unfinished run into the same folder stopped"
    )
    add_overlay_options(parser)
    add_quiet(parser)


def add_overlay_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("overlay")
    group.add_argument("--no-overlay", action="store_true", help="write no overlay.mp4 or overlay.png")
    group.add_argument("--no-labels", action="store_true", help="no class, track id and score beside the objects")
    group.add_argument("--opacity", type=float, default=0.45, help="of masks, 0 (contours alone) to 1")
    group.add_argument(
        "--trails", type=int, default=0, metavar="N", help="draw each object's way over the last N frames"
    )
    group.add_argument("--hud", action="store_true", help="draw frame number, time and frames per second")


def run(options: argparse.Namespace) -> int:
    from l2g.runtime.video.source import group_inputs, input_name

    summaries = process(options)
    for source, summary in zip(group_inputs(options.input), summaries, strict=True):
        print_summary(summary, input_name(source) if len(summaries) > 1 else "")
        for notice in summary.notices:
            note(f"note: {notice}")
        if summary.damage and not summary.interrupted:
            note(f"warning: {summary.damage}; the results hold what could be decoded")
    if any(summary.interrupted for summary in summaries):
        note("interrupted: the files hold what was done")
        return INTERRUPTED
    return 1 if any(summary.damage for summary in summaries) else 0


def process(options: argparse.Namespace) -> list[JobSummary]:
    """Open the sources and the model as `options` say, and process the ones with the other."""
    from l2g.runtime.backends.open import open_backend
    from l2g.runtime.identity.tracks import TrackParameters
    from l2g.runtime.video.job import process_videos
    from l2g.runtime.video.overlay import OverlayStyle
    from l2g.runtime.video.source import Selection, group_inputs, input_name, open_source

    parameters = TrackParameters(birth_score=options.score_threshold, max_age=options.max_age)
    style = OverlayStyle(not options.no_labels, options.opacity, options.trails, options.hud)
    selection = Selection(options.start, options.end, options.stride)
    with ExitStack() as stack:
        # The sources first: a wrong path should not cost the time it takes to load a model.
        inputs = group_inputs(options.input)
        sources = [stack.enter_context(open_source(path, selection, options.fps, options.track)) for path in inputs]
        # Raw outputs: masks at full precision. The best slots are chosen on the host.
        backend = open_backend(
            options.model,
            top_k=None,
            canvas=options.size,
            portrait=all(source.is_portrait for source in sources),
            num_queries=options.num_queries,
            class_names=options.class_names,
        )
        stack.enter_context(closing(backend))
        expected = [source.expected_frames for source in sources]
        count = stack.enter_context(_frame_bar(_total(expected), options.quiet))
        return process_videos(
            backend,
            list(zip(sources, output_folders([input_name(path) for path in inputs], options.output), strict=True)),
            parameters=parameters,
            top_k=options.top_k,
            overlay=not options.no_overlay,
            style=style,
            on_frame=count,
            resume=options.resume,
        )


@contextmanager
def _frame_bar(total: int | None, quiet: bool) -> Iterator[Callable[[], object] | None]:
    """A bar where stderr is a terminal, and what to call after each frame; tqdm is loaded only for that."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="frame") as bar:
        yield bar.update


def _total(counts: Sequence[int | None]) -> int | None:
    """None where one is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def output_folders(inputs: Sequence[str], output: str) -> list[Path]:
    """`output` itself for one input; for several a folder inside it after each input's name, numbered where equal."""
    if len(inputs) == 1:
        return [Path(output)]
    folders: list[Path] = []
    for path in inputs:
        name = re.sub(r"[^\w.-]+", "_", Path(path).stem).strip(".") or "video"
        count = 1
        while (folder := Path(output) / (name if count == 1 else f"{name}-{count}")) in folders:
            count += 1
        folders.append(folder)
    return folders


def print_summary(summary: JobSummary, name: str = "") -> None:
    rate = summary.frames / max(summary.seconds, 1e-9)
    print(
        f"{name}{': ' if name else ''}{summary.frames} frames in {summary.seconds:.1f} s ({rate:.2f} frames/s), "
        f"{summary.tracks} tracks"
    )
    for file in summary.files:
        print(f"  {file}")


main = main_of("run")
