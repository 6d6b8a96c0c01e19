"""Run a model over a video: masks and tracks into a folder.

Writes `overlay.mp4` (H.264; of a single picture `overlay.png`), `results.json` (YouTube-VIS results format) and
`frames.jsonl` (a line a frame); of a panoptic or semantic run `pred.json` with the maps in `pan_pred/`, and
`panoptic.jsonl`, in their place. Several inputs run at once, as streams of one batch, each into a folder of its own
name inside the output folder.
Exit code: 0 done, 1 the source is damaged (what could be decoded is done), 2 bad input, 130 interrupted (what was
done is kept).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from l2g.cli.arguments import (
    MERGING,
    add_model,
    add_quiet,
    add_running,
    add_task,
    add_threads,
    add_untold,
    cuts,
    names,
    note,
    panoptic_options,
    refuse_idle,
    rotation,
    running,
    size,
    threads,
    untold,
    warm_up,
)
from l2g.cli.entry import INTERRUPTED, main_of

if TYPE_CHECKING:
    from l2g.runtime.video.job import JobSummary
    from l2g.runtime.video.live.address import LiveOptions
    from l2g.runtime.video.live.cameras import Camera
    from l2g.runtime.video.live.watcher import Watcher
    from l2g.runtime.video.source import VideoSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        help="video files, pipes (- is stdin), cameras (0, /dev/video0), URLs that FFmpeg reads (rtsp, rtmp, srt, "
        "http, udp), lists of cameras (*.yaml), pictures or folders of pictures; several run at once, and several "
        "picture files (*.jpg) are one video",
    )
    parser.add_argument("--output", required=True, help="the folder for the results, made when it is missing")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where a run into this folder that was killed, interrupted or failed has stopped",
    )
    parser.add_argument(
        "--track", type=int, metavar="N", help="video track of files that hold several, from 0 (default: the film)"
    )
    add_frame_options(parser)
    add_task(parser)
    add_overlay_options(parser)
    add_hardware_options(parser)
    add_live_options(parser)
    add_untold(parser)
    add_running(parser)
    add_threads(parser)
    add_quiet(parser)


def add_frame_options(parser: argparse.ArgumentParser) -> None:
    """Which frames are looked at, by what canvas, and what counts as a track."""
    parser.add_argument("--score-threshold", type=float, default=0.5, help="lowest score of an instance shown, 0..1")
    parser.add_argument("--top-k", type=int, default=50, help="most instances looked at in a frame")
    parser.add_argument("--stride", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="first moment used")
    parser.add_argument("--end", type=float, metavar="SECONDS", help="moment to stop before (default: the whole video)")
    parser.add_argument(
        "--size", type=size, metavar="HxW", help="network canvas, multiples of 32 (default: the model's)"
    )
    parser.add_argument(
        "--class-names",
        type=names,
        metavar="FILE",
        help="names of a .pth's classes, one a line (default: COCO's for 80 classes, else numbers)",
    )
    parser.add_argument("--max-age", type=int, default=30, help="frames a hidden track keeps its id")
    parser.add_argument(
        "--cuts",
        type=cuts,
        default="auto",
        metavar="auto|off|TIME,...",
        help="where a new scene begins, with new ids: found in the picture, nowhere, or at these seconds",
    )
    parser.add_argument("--fps", type=float, default=30.0, help="frame rate of pictures")


def add_overlay_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("overlay")
    group.add_argument("--no-overlay", action="store_true", help="write no overlay.mp4 or overlay.png")
    group.add_argument("--no-labels", action="store_true", help="no class, track id and score beside the objects")
    group.add_argument("--opacity", type=float, default=0.45, help="of masks, 0 (contours alone) to 1")
    group.add_argument(
        "--trails", type=int, default=0, metavar="N", help="draw each object's way over the last N frames"
    )
    group.add_argument("--hud", action="store_true", help="draw frame number, time and frames per second")


def add_hardware_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hardware; what is not there is done by the processor")
    group.add_argument(
        "--decoder",
        choices=("software", "auto", "nvdec", "vaapi"),
        default="software",
        help="of video files; auto: the first that is there. The results are the same",
    )
    group.add_argument(
        "--encoder",
        choices=("software", "auto", "nvenc", "vaapi", "v4l2m2m"),
        default="software",
        help="of overlay.mp4; auto: the first that is there",
    )


# Of live sources: seconds, and attempts in a row.
_OPEN_TIMEOUT, _READ_TIMEOUT, _RECONNECT = 10.0, 10.0, 10
_OF_LIVE = ("open_timeout", "read_timeout", "reconnect", "transport")
OF_OVERLAY = ("no_labels", "opacity", "trails", "hud")
# Options that are of other tasks, by the task.
_OF_OTHERS = {
    "instances": MERGING,
    "panoptic": ("score_threshold", "top_k"),
    "semantic": (
        *("score_threshold", "top_k", "max_age"),
        *("object_mask_threshold", "overlap_threshold", "min_thing_area"),
    ),
}


def add_live_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("live sources (docs/guides/live.md)")
    group.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest: the newest frame, older ones that wait are dropped; all: every frame (default: latest for live "
        "sources, all for others)",
    )
    group.add_argument("--wait", type=float, default=10.0, metavar="MS", help="a batch waits for other streams")
    group.add_argument(
        "--open-timeout", type=float, default=_OPEN_TIMEOUT, metavar="SECONDS", help="for a source to open"
    )
    group.add_argument("--read-timeout", type=float, default=_READ_TIMEOUT, metavar="SECONDS", help="without a frame")
    group.add_argument(
        "--reconnect", type=int, default=_RECONNECT, metavar="N", help="attempts in a row; -1 without end"
    )
    group.add_argument("--transport", choices=("tcp", "udp"), default="tcp", help="of RTSP")
    group.add_argument("--jsonl", metavar="FILE", help="where frames.jsonl goes; - is stdout (default: the folder)")
    group.add_argument(
        "--results",
        action=argparse.BooleanOptionalAction,
        help="write results.json (default: for all but live sources)",
    )
    group.add_argument(
        "--rotate",
        type=rotation,
        nargs="+",
        default=[],
        metavar="TIME|SIZE",
        help="begin new files of a live source, and a new FILE of --jsonl, after 30s, 10m, 2h, at 500MB, 2GB, or "
        "whichever of both comes first (default: never)",
    )
    group.add_argument(
        "--serve", metavar="[HOST:]PORT", help="a page with the live overlay, and /metrics (default: none)"
    )
    group.add_argument(
        "--send",
        nargs="+",
        default=[],
        metavar="URL",
        help="send the lines of frames.jsonl on as they come: mqtt[s]://HOST/TOPIC, http[s]://... (default: nowhere)",
    )
    group.add_argument("--token", help="asked for by the page of --serve; needed beyond this machine (default: none)")


@dataclass(frozen=True)
class _Input:
    """name: for messages. path: what is opened. camera: its entry in a list of cameras."""

    name: str
    path: str | tuple[str, ...]
    camera: Camera | None = None

    @property
    def title(self) -> str:
        """What its folder of results is called after: all of a camera's name, else the last part of what is opened."""
        from l2g.runtime.video.source import last_part

        return self.camera.name if self.camera else last_part(self.name)


def _inputs(given: Sequence[str]) -> list[_Input]:
    """What --input names: lists of cameras are taken apart, picture files put together."""
    from l2g.runtime.video.source import group_inputs, input_name

    found: list[_Input] = []
    for path in group_inputs(given):
        if isinstance(path, str) and path.lower().endswith((".yaml", ".yml")) and Path(path).is_file():
            from l2g.runtime.video.live.cameras import read_cameras

            found += [_Input(camera.name, camera.url, camera) for camera in read_cameras(path)]
        else:
            found.append(_Input(input_name(path), path))
    return found


def run(options: argparse.Namespace) -> int:
    named = process(options)
    summaries = [summary for _, summary in named]
    for name, summary in named:
        taken = sys.stderr if options.jsonl == "-" else None
        print_summary(summary, name if len(summaries) > 1 else "", taken)
        for notice in summary.notices:
            note(f"note: {notice}")
        if summary.damage and not summary.interrupted:
            note(f"warning: {summary.damage}; the results hold what could be decoded")
    if any(summary.interrupted for summary in summaries):
        note("interrupted: the files hold what was done")
        return INTERRUPTED
    return 1 if any(summary.damage for summary in summaries) else 0


def process(options: argparse.Namespace) -> list[tuple[str, JobSummary]]:
    """Open the sources and the model as `options` say, and process the ones with the other; each input's name beside
    what was done of it."""
    from l2g.errors import VideoError
    from l2g.runtime.backends.open import open_backend
    from l2g.runtime.identity.tracks import TrackParameters
    from l2g.runtime.panoptic.options import check_task
    from l2g.runtime.video.job import FlowOptions, process_videos
    from l2g.runtime.video.lane import OutputOptions
    from l2g.runtime.video.overlay import OverlayStyle
    from l2g.runtime.video.results import Rotation
    from l2g.runtime.video.source import Selection, open_sources

    parameters = TrackParameters(birth_score=options.score_threshold, max_age=options.max_age)
    style = OverlayStyle(not options.no_labels, options.opacity, options.trails, options.hud)
    selection = Selection(options.start, options.end, options.stride)
    flow = FlowOptions(options.policy, options.wait / 1000)
    rotate = Rotation(**dict(options.rotate)) if options.rotate else None
    output = OutputOptions(
        results=options.results,
        lines=options.jsonl,
        rotate=rotate,
        resume=options.resume,
        encoder=options.encoder,
    )
    panoptic = panoptic_options(options)
    if options.no_overlay:
        refuse_idle(
            options, add_arguments, (*OF_OVERLAY, "encoder"), "it is of the overlay, which --no-overlay leaves out"
        )
    if options.token and not options.serve:
        raise VideoError("--token is asked for by the page of --serve; give --serve PORT too, or leave --token out")
    with ExitStack() as stack:
        # The sources first: a wrong path should not cost the time it takes to load a model.
        inputs = _inputs(options.input)
        live = _live_options(options, inputs)
        paths = [each.path for each in inputs]
        sources = open_sources(paths, selection, options.fps, options.track, live, _say, options.decoder)
        for source in sources:
            stack.enter_context(source)
        _refuse_of_others(options, paths, sources)
        if rotate and options.jsonl in (None, "-") and not any(source.is_live for source in sources):
            raise VideoError(
                "--rotate is for live sources and for a FILE of --jsonl, and no input is live: videos, pictures and "
                "pipes end by themselves; leave --rotate out, or give --jsonl FILE"
            )
        sources = [
            each.camera.view(source) if each.camera else source for source, each in zip(sources, inputs, strict=True)
        ]
        # Raw outputs: masks at full precision. The best slots are chosen on the host.
        backend = open_backend(
            options.model,
            top_k=None,
            canvas=options.size,
            portrait=all(source.is_portrait for source in sources if source.is_open),
            class_names=options.class_names,
            **untold(options),
            **running(options),
            **threads(options, add_arguments, options.model),
        )
        stack.enter_context(closing(backend))
        task = check_task(options.task, backend.contract)
        refuse_idle(options, add_arguments, _OF_OTHERS[task], f"it is of another --task than {task}")
        warm_up(backend, len(sources), options)
        watcher = stack.enter_context(_watcher(options, sources))
        expected = [source.expected_frames for source in sources]
        count = stack.enter_context(_frame_bar(_total(expected), options.quiet))
        summaries = process_videos(
            backend,
            list(zip(sources, output_folders([each.title for each in inputs], options.output), strict=True)),
            parameters=parameters,
            top_k=options.top_k,
            overlay=not options.no_overlay,
            style=style,
            on_frame=count,
            cuts=options.cuts,
            flow=flow,
            output=output,
            watcher=watcher,
            task=options.task,
            panoptic=panoptic,
        )
    # By the names of the beginning: a list of cameras may be another one by now.
    return [(each.name, summary) for each, summary in zip(inputs, summaries, strict=True)]


def _refuse_of_others(
    options: argparse.Namespace, paths: Sequence[str | tuple[str, ...]], sources: Sequence[VideoSource]
) -> None:
    """L2GError for what is of another kind of source than all of these."""
    from l2g.runtime.video.source import is_pictures, may_wait

    if not any(map(is_pictures, paths)):
        refuse_idle(options, add_arguments, ("fps",), "it is of pictures, and videos have their own")
    if not any(map(may_wait, paths)):
        refuse_idle(options, add_arguments, _OF_LIVE, "it is of live sources and pipes")
    if options.policy != "latest" and not any(source.is_live for source in sources):
        refuse_idle(options, add_arguments, ("wait",), "it is of live sources and of --policy latest")


def _live_options(options: argparse.Namespace, inputs: Sequence[_Input]) -> LiveOptions | None:
    """What the options say of live sources; None where they say nothing and no input can be one."""
    from l2g.runtime.video.source import may_wait

    chosen = (options.open_timeout, options.read_timeout, options.reconnect)
    if not any(may_wait(each.path) for each in inputs) and chosen == (_OPEN_TIMEOUT, _READ_TIMEOUT, _RECONNECT):
        return None
    from l2g.runtime.memory import keep_memory_together
    from l2g.runtime.video.live.address import LiveOptions

    keep_memory_together()
    return LiveOptions(
        options.open_timeout,
        options.read_timeout,
        None if options.reconnect < 0 else options.reconnect,
        transport=options.transport,
    )


def _say(text: str) -> None:
    note(f"note: {text}")


@contextmanager
def _watcher(options: argparse.Namespace, sources: Sequence[VideoSource]) -> Iterator[Watcher]:
    """Who is told of what happens: the terminal, with --serve a page, and whom --send names."""
    from l2g.runtime.video.live.watcher import Terminal

    watching: AbstractContextManager[Watcher]
    if options.serve:
        from l2g.runtime.video.live.server import serve

        watching = serve(options.serve, options.token, _say)
    else:
        watching = nullcontext(Terminal(_say))
    with ExitStack() as stack:
        watcher = stack.enter_context(watching)
        if options.send:
            from l2g.runtime.video.live.sending import open_sender
            from l2g.runtime.video.live.watcher import Together

            senders = [open_sender(url, watcher.say) for url in options.send]
            for sender in senders:
                stack.callback(sender.close)
            watcher = Together([watcher, *senders])
        for source in sources:
            source.say = watcher.say
        yield watcher


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


def output_folders(titles: Sequence[str], output: str) -> list[Path]:
    """`output` itself for one input; for several a folder inside it after each input's title, numbered where equal."""
    from l2g.runtime.video.source import folder_name

    if len(titles) == 1:
        return [Path(output)]
    folders: list[Path] = []
    for title in titles:
        name = folder_name(title)
        count = 1
        while (folder := Path(output) / (name if count == 1 else f"{name}-{count}")) in folders:
            count += 1
        folders.append(folder)
    return folders


# Of a run whose files followed each other the first and the last are told.
_MOST_FILES = 8


def print_summary(summary: JobSummary, name: str = "", file: TextIO | None = None) -> None:
    """On stdout, unless that is taken by the lines."""
    rate = (summary.frames - summary.done_before) / max(summary.seconds, 1e-9)
    dropped = f", {summary.dropped} dropped" if summary.dropped else ""
    new = f", {summary.frames - summary.done_before} of them new," if summary.done_before else ""
    text = (
        f"{name}{': ' if name else ''}{summary.frames} frames{new} in {summary.seconds:.1f} s ({rate:.2f} frames/s), "
        f"{summary.tracks} tracks{dropped}"
    )
    files = [f"  {path}" for path in summary.files]
    if len(files) > _MOST_FILES:
        files[_MOST_FILES // 2 : -_MOST_FILES // 2] = [f"  ... {len(files) - _MOST_FILES} more"]
    print("\n".join([text, *files]), file=file)


main = main_of("run")
