"""Run a model over a video: masks and tracks into a folder.

Writes `overlay.mp4` (H.264; of a single picture `overlay.png`), `results.json` (YouTube-VIS results format) and
`frames.jsonl` (a line a frame). Several inputs run at once, as streams of one batch, each into a folder of its own name
inside the output folder.
Exit code: 0 done, 1 the source is damaged (what could be decoded is done), 2 bad input, 130 interrupted (what was
done is kept).
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from l2g.errors import L2GError
from l2g.runtime.backends.open import open_backend
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.video.job import JobSummary, process_videos
from l2g.runtime.video.overlay import OverlayStyle
from l2g.runtime.video.source import Selection, group_inputs, input_name, open_source


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a checkpoint, an .onnx, or the name of a shipped one")
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
    parser.add_argument("--score-threshold", type=float, default=0.5, help="lowest score shown, 0..1 (default 0.5)")
    parser.add_argument("--top-k", type=int, default=50, help="most instances looked at in a frame (default 50)")
    parser.add_argument("--stride", type=int, default=1, help="use every n-th frame (default 1)")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="first moment used (default 0)")
    parser.add_argument("--end", type=float, metavar="SECONDS", help="moment to stop before (default: the whole video)")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="network canvas, multiples of 32 (default: the model's)"
    )
    parser.add_argument("--num-queries", type=int, help="queries of a .pth, which does not tell (default 300)")
    parser.add_argument("--class-names", type=_names, metavar="FILE", help="names of a .pth's classes, one a line")
    parser.add_argument("--max-age", type=int, default=30, help="frames a hidden track keeps its id (default 30)")
    parser.add_argument("--fps", type=float, default=30.0, help="frame rate of pictures (default 30)")
    add_overlay_options(parser)
    return parser.parse_args(argv)


def add_overlay_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("overlay")
    group.add_argument("--no-overlay", action="store_true", help="write no overlay.mp4 or overlay.png")
    group.add_argument("--no-labels", action="store_true", help="no class, track id and score beside the objects")
    group.add_argument(
        "--opacity",
        type=float,
        default=OverlayStyle.opacity,
        help="of masks, 0 (contours alone) to 1 (default 0.45)",
    )
    group.add_argument(
        "--trails", type=int, default=0, metavar="N", help="draw each object's way over the last N frames (default 0)"
    )
    group.add_argument("--hud", action="store_true", help="draw frame number, time and frames per second")


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        with _terminate_like_interrupt():
            summaries = run(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first frame", file=sys.stderr)
        return 130
    for source, summary in zip(group_inputs(options.input), summaries, strict=True):
        print_summary(summary, input_name(source) if len(summaries) > 1 else "")
        for notice in summary.notices:
            print(f"note: {notice}", file=sys.stderr)
        if summary.damage and not summary.interrupted:
            print(f"warning: {summary.damage}; the results hold what could be decoded", file=sys.stderr)
    if any(summary.interrupted for summary in summaries):
        print("interrupted: the files hold what was done", file=sys.stderr)
        return 130
    return 1 if any(summary.damage for summary in summaries) else 0


def run(options: argparse.Namespace) -> list[JobSummary]:
    """Open the sources and the model as `options` say, and process the ones with the other."""
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
        # disable=None: no bar where stderr is not a terminal.
        bar = tqdm(total=None if None in expected else sum(expected), unit="frame", disable=None)
        return process_videos(
            backend,
            list(zip(sources, output_folders([input_name(path) for path in inputs], options.output), strict=True)),
            parameters=parameters,
            top_k=options.top_k,
            overlay=not options.no_overlay,
            style=style,
            on_frame=stack.enter_context(bar).update,
        )


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


@contextmanager
def _terminate_like_interrupt():
    """SIGTERM (a container that is stopped) keeps what was done, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' found, HxW expected, for example 480x864") from None
    return height, width


def _names(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: cannot be read as text ({error})") from None
    return tuple(line.strip() for line in lines if line.strip())


if __name__ == "__main__":
    sys.exit(main())
