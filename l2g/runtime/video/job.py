"""Videos through one model, each into a folder of results; several at once are streams of one batch."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2

from l2g.errors import L2GError, VideoError
from l2g.files import refuse_overwriting
from l2g.runtime.backends.base import Backend
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.panoptic.options import PanopticOptions, check_task
from l2g.runtime.session import VideoSession
from l2g.runtime.video.cuts import Cuts
from l2g.runtime.video.lane import Decoded, Inferred, Lane, OutputOptions, overlay_name
from l2g.runtime.video.live.health import Stepper, Watchdog
from l2g.runtime.video.live.pace import NEARLY_DUE
from l2g.runtime.video.live.watcher import Watcher
from l2g.runtime.video.overlay import DEFAULT_STYLE, OverlayStyle
from l2g.runtime.video.pipeline import DEPTH, ReadAhead, run_in_turn, run_pipeline
from l2g.runtime.video.results import LINES, PANOPTIC_LINES
from l2g.runtime.video.run_folder import KEY_FRAMES, UNFINISHED
from l2g.runtime.video.source import VideoSource

_POLL_SECONDS = 0.05
# For the readers of all sources together, at the end; one that is blocked inside a decoder is left behind.
_LAST_WAIT_SECONDS = 0.5
POLICIES = ("latest", "all")


@dataclass(frozen=True)
class FlowOptions:
    """How streams share the model's time.

    policy: "latest": a stream's newest frame is taken and older ones that wait are dropped; "all": every frame; None:
    "latest" for live sources, "all" for others. wait: seconds that a batch with a live source waits at most, from its
    first frame on, for frames of the other streams and for newer ones, where such are due within them; a stream that is
    alone waits for a newer one up to 0.4 of its spacing, 0: never. stall: seconds without a frame or without an
    answer of the model after which that is said; 0 never. overlap: whether decoding, inference, results and encoding
    overlap, in a thread each; without, a frame goes all the way before the next, for processes that have one core and
    share the others.
    """

    policy: str | None = None
    wait: float = 0.01
    stall: float = 10.0
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.policy not in (None, *POLICIES):
            raise VideoError(f"policy '{self.policy}' found, one of {', '.join(POLICIES)} expected")
        for name, seconds, most in (("wait", self.wait, 60), ("stall", self.stall, 1e6)):
            if not 0 <= seconds < most:
                raise VideoError(f"a {name} of {seconds:g} s found, 0 to less than {most:g} expected")

    def latest(self, source: VideoSource) -> bool:
        return source.is_live if self.policy is None else self.policy == "latest"


@dataclass(frozen=True)
class JobSummary:
    """What a run did. seconds: wall time from the first frame asked for to the last file closed.

    damage: None, or what could not be read of the source. interrupted: Ctrl-C ended it; the files hold what was done.
    notices: what else a user should know of the source. dropped: frames that were passed over because newer ones had
    come. resets: how often the stream began anew, by reason. done_before: of the frames, how many an earlier run did.
    """

    frames: int
    seconds: float
    tracks: int
    files: tuple[Path, ...]
    damage: str | None
    interrupted: bool
    notices: tuple[str, ...] = ()
    dropped: int = 0
    resets: dict[str, int] = field(default_factory=dict)
    done_before: int = 0


@dataclass(frozen=True)
class _Round:
    """Frames that go through the model together, and the lanes that have had their last one before."""

    items: list[Decoded]
    finished: list[Lane]


def _refuse_own_inputs(jobs: Sequence[tuple[VideoSource, str | Path]], overlay: bool, options: OutputOptions) -> None:
    """VideoError where a run would write over a file that it reads, in whatever way that is named."""
    outputs = [
        Path(folder) / name
        for source, folder in jobs
        for name in (LINES, PANOPTIC_LINES, "results.json", "pred.json", *([overlay_name(source)] if overlay else []))
    ]
    # What an unfinished run left is read by this one, or removed.
    outputs += [path for _, folder in jobs for path in Path(folder, UNFINISHED).glob("*")]
    if options.lines and options.lines != "-":
        outputs.append(Path(options.lines))
    if options.rotate and overlay:
        outputs += [path for _, folder in jobs for path in Path(folder).glob("overlay-*.mp4")]
    refuse_overwriting(outputs, (file for source, _ in jobs for file in source.files), VideoError)


def process_video(
    backend: Backend,
    source: VideoSource,
    folder: str | Path,
    *,
    parameters: TrackParameters | None = None,
    top_k: int = 50,
    overlay: bool = True,
    style: OverlayStyle = DEFAULT_STYLE,
    on_frame: Callable[[], object] | None = None,
    cuts: Cuts = "auto",
    flow: FlowOptions | None = None,
    output: OutputOptions | None = None,
    watcher: Watcher | None = None,
    task: str | None = None,
    panoptic: PanopticOptions | None = None,
) -> JobSummary:
    """Write `frames.jsonl`, `results.json` and, with `overlay`, `overlay.mp4` of `source` into `folder`; of a single
    picture `overlay.png`. A task that gives maps writes `panoptic.jsonl`, `pred.json` and `pan_pred/` in place of the
    first two.

    style: what the overlay shows. cuts: where the stream begins anew, see `Tracker`. flow: which frames are taken.
    output: what else is chosen of the files; its style is that of `overlay` and `style`. watcher: is told of everything
    as it happens. task, panoptic: as in `Tracker`.
    Decoding, inference and writing overlap; memory does not grow with the video. `on_frame` is called after each frame.
    Whatever ends the run, the files hold every frame that was finished; where that is an error and the folder holds
    results of an earlier run, these stay, and the new ones are in `unfinished`. Neither `backend` nor `source` is
    closed.
    Raises VideoError when the folder cannot be written, a file that is read would be written over, or the source gives
    no frame.
    """
    return process_videos(
        backend,
        [(source, folder)],
        parameters=parameters,
        top_k=top_k,
        overlay=overlay,
        style=style,
        on_frame=on_frame,
        cuts=cuts,
        flow=flow,
        output=output,
        watcher=watcher,
        task=task,
        panoptic=panoptic,
    )[0]


def process_videos(
    backend: Backend,
    jobs: Sequence[tuple[VideoSource, str | Path]],
    *,
    parameters: TrackParameters | None = None,
    top_k: int = 50,
    overlay: bool = True,
    style: OverlayStyle = DEFAULT_STYLE,
    on_frame: Callable[[], object] | None = None,
    cuts: Cuts = "auto",
    flow: FlowOptions | None = None,
    output: OutputOptions | None = None,
    watcher: Watcher | None = None,
    task: str | None = None,
    panoptic: PanopticOptions | None = None,
) -> list[JobSummary]:
    """`process_video` for several videos at once, as streams of one batch; jobs are (source, folder).

    Of files every step takes the next frame of each that has one left, and the slowest source sets the pace of all;
    where a source is live, streams have a pace each, see `FlowOptions`. A source that fails ends alone, with the reason
    as its summary's `damage`; its error is raised when it is the only one, or when all fail.
    """
    check_task(task, backend.contract)
    _refuse_own_inputs(jobs, overlay, output or OutputOptions())
    flow, watcher = flow or FlowOptions(), watcher or Watcher()
    output = replace(output or OutputOptions(), style=style if overlay else None)
    resumable = [not (source.is_live or flow.latest(source) or output.lines) for source, _ in jobs]
    if output.resume and not all(resumable):
        raise VideoError(
            f"{jobs[resumable.index(False)][0].name}: cannot be resumed: that takes a source that gives the same "
            f"frames again, every frame and a {LINES} in the output folder; leave out --resume, or --policy latest and "
            "--jsonl"
        )
    started = time.perf_counter()
    interrupted, finishing = False, _Finishing()
    with ExitStack() as stack:
        stack.callback(finishing.end)
        stack.enter_context(_one_opencv_thread())
        lanes: list[Lane] = []
        # A frame that is to be the latest may not wait in a line.
        live = any(source.is_live or flow.latest(source) for source, _ in jobs)
        overlap = flow.overlap or live
        for (source, folder), again in zip(jobs, resumable, strict=True):
            name = Path(folder).name if len(jobs) > 1 else ""
            choices = parameters, top_k, cuts, name, again, task, panoptic, overlap, _runner(backend)
            lane = Lane(source, Path(folder), backend.contract, output, *choices)
            lanes.append(lane)
            stack.callback(lane.close)
        watcher.expect([lane.name for lane in lanes])
        for lane in lanes:
            if output.resume and not lane.done:
                replaced = ", in place of the results there" if lane.run.earlier else ""
                watcher.say(f"nothing to resume in {lane.folder}: from the beginning{replaced}")
        # Decoders and encoders work outside the interpreter's lock: several videos have a thread each for either.
        writers = None
        if len(lanes) > 1:
            from concurrent.futures import ThreadPoolExecutor  # here: it loads what one video does not need

            writers = stack.enter_context(ThreadPoolExecutor(len(lanes)))
        watchdog = stack.enter_context(Watchdog(lanes, flow.stall, watcher))
        stepper = Stepper(VideoSession(backend), watcher, watchdog)

        def infer(round_: _Round) -> tuple[list[Inferred], list[Lane]]:
            return stepper.step(round_.items, round_.finished), round_.finished

        def consume(done: tuple[list[Inferred], list[Lane]]) -> None:
            items, finished = done
            for lane in finished:
                lane.close()
            list((writers.map if writers else map)(lambda item: item.lane.write(item, watcher), items))
            for _ in items:
                if on_frame:
                    on_frame()

        try:
            rounds = _rounds(lanes, flow, live, watchdog)
            if overlap:
                run_pipeline(rounds, infer, consume, 1 if live else DEPTH, direct=live)
            else:
                run_in_turn(rounds, infer, consume)
        except KeyboardInterrupt:
            interrupted = True
            for lane in lanes:
                lane.run.unended = True
        except BaseException as error:
            raise _failed(lanes, error) from error
        finally:
            finishing.begin()
        failures = [lane.failure for lane in lanes if lane.failure]
        if lanes and len(failures) == len(lanes):
            raise _failed(lanes, failures[0])
    seconds = time.perf_counter() - started
    return [_summary(lane, seconds, interrupted or finishing.asked) for lane in lanes]


def _runner(backend: Backend) -> str:
    """What the numbers of a model depend on beside it, as far as its backend tells."""
    told = (getattr(backend, name, None) for name in ("library", "device", "precision", "fp32_blocks"))
    return " ".join([type(backend).__name__, *(str(fact) for fact in told if fact)])


def _summary(lane: Lane, seconds: float, interrupted: bool) -> JobSummary:
    damage = lane.source.damage
    if lane.failure:
        damage = str(_failed([lane], lane.failure))
    results = lane.results
    return JobSummary(
        frames=lane.frames,
        seconds=seconds,
        tracks=results.tracks if results else 0,
        files=tuple(path for path in results.paths if path.exists()) if results and not lane.run.kept else (),
        damage=damage,
        interrupted=interrupted,
        notices=(
            *lane.source.notices,
            *(results.notices if results else ()),
            *([f"went on after {lane.done} frames"] if lane.done else []),
        ),
        dropped=lane.dropped,
        resets=dict(lane.resets),
        done_before=lane.done,
    )


def _failed(lanes: Sequence[Lane], error: BaseException) -> BaseException:
    """The error that ends all lanes; where earlier results stay, what was done is elsewhere, and a user is told so."""
    places = [(lane.frames, lane.run.fail(lane.frames), lane) for lane in lanes]
    frames, place, lane = max(places, key=lambda found: found[0])
    if not frames or not isinstance(error, L2GError):
        return error
    how = "; --resume goes on from there" if lane.resumable and frames >= KEY_FRAMES else ""
    return type(error)(f"{error} ({frames} frames were done and are in {place}{how})")


class _Finishing:
    """Holds Ctrl-C and SIGTERM back between `begin` and `end`, while files get their names; a second one ends that too.

    asked: whether one came. Only where the caller's thread is the one that gets them.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def begin(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(self) -> None:
        for number, handler in self._before.items():
            # None: of a handler that is not Python's, which nothing here can put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """The stages are the threads: OpenCV's own would wake for every small picture and take turns with the model's."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _rounds(lanes: Sequence[Lane], flow: FlowOptions, live: bool, watchdog: Watchdog) -> Generator[_Round, None, None]:
    """What goes through the model together, until no lane has a frame left.

    Of files the next frame of each. With a live source among them: whoever has a frame once the first one waited for
    `flow.wait`.
    """
    if len(lanes) == 1 and not live:
        for item in lanes[0].decode():
            yield _Round([item], [])
        return
    changed = threading.Condition()
    readers = {
        lane: ReadAhead(lane.decode(latest), latest=latest, changed=changed)
        for lane, latest in ((lane, flow.latest(lane.source)) for lane in lanes)
    }
    running = list(lanes)
    try:
        while True:
            with changed:
                ready = _wait(readers, running, flow.wait if live else None, changed)
            finished = [lane for lane in running if readers[lane].ended]
            running = [lane for lane in running if lane not in finished]
            if not running:
                return
            items = [readers[lane].take() for lane in ready]
            for item in items:
                item.lane.dropped = readers[item.lane].dropped + item.lane.passed_over
                watchdog.frame(item.lane)
            yield _Round(items, finished)
    finally:
        for lane in lanes:
            lane.source.stop()
        limit = time.monotonic() + _LAST_WAIT_SECONDS
        for reader in readers.values():
            reader.close(max(0.0, limit - time.monotonic()))


def _wait(
    readers: dict[Lane, ReadAhead], running: Sequence[Lane], wait: float | None, changed: threading.Condition
) -> list[Lane]:
    """The lanes that have a frame: all that still run, or with `wait` those that have one so long after the first, and
    sooner where nothing better is due."""
    deadline: float | None = None
    while True:
        left = [lane for lane in running if not readers[lane].ended]
        ready = [lane for lane in left if readers[lane].ready]
        if len(ready) == len(left) and (wait is None or not ready):
            return ready
        seconds = _POLL_SECONDS
        if ready and wait is not None:
            now = time.monotonic()
            if deadline is None:
                deadline = _deadline([readers[lane] for lane in left], now, wait)
            if now >= deadline or not any(readers[lane].awaited(now, deadline - now) > now for lane in left):
                return ready
            seconds = min(seconds, deadline - now)
        changed.wait(seconds)


def _deadline(readers: Sequence[ReadAhead], now: float, wait: float) -> float:
    """Until when a model that is free waits, with a frame that it could take."""
    if len(readers) > 1 or not wait:
        return now + wait
    spacing = readers[0].arrivals.spacing or 0.0
    return readers[0].awaited(now, max(wait, NEARLY_DUE * spacing))
