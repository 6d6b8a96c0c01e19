"""One video on its way through the stages of a run: its frames, its place on the canvas, its files."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import L2GError, VideoError
from l2g.runtime.arrays import Array, ByteArray
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.panoptic.options import PanopticOptions, check_task
from l2g.runtime.panoptic.task import assembler_of
from l2g.runtime.session import VideoSession
from l2g.runtime.video.coding.hardware import ENCODERS, SOFTWARE, Choice
from l2g.runtime.video.cuts import Cuts, cut_finder
from l2g.runtime.video.live.pace import from_now_on
from l2g.runtime.video.live.watcher import Progress, Watcher
from l2g.runtime.video.overlay import OverlayPainter, OverlayStyle
from l2g.runtime.video.picture_writer import PictureWriter
from l2g.runtime.video.pipeline import Behind
from l2g.runtime.video.results import (
    LINES,
    PANOPTIC_LINES,
    JsonLinesSink,
    LiveLines,
    Rotation,
    TubeResultsSink,
    first_number,
    numbered,
)
from l2g.runtime.video.run_folder import KEY_FRAMES, RunFolder, fingerprint
from l2g.runtime.video.source import VideoFrame, VideoSource, folder_name, last_part
from l2g.runtime.video.writer import VideoWriter

if TYPE_CHECKING:
    from l2g.runtime.panoptic.files import PanopticSink

# The rate in the overlay is that of so many frames.
RATE_FRAMES = 30


@dataclass(frozen=True)
class OutputOptions:
    """What a run writes.

    style: of the overlay; None writes none. results: whether `results.json` is written; None: for all but live sources,
    since it waits on the disk for the end; of the tasks that give maps these are `pred.json` and `pan_pred/` instead.
    lines: where `frames.jsonl` (`panoptic.jsonl`) goes instead, "-" is stdout; a live source's lines can be read as
    they come. rotate: when files of a live source, and those of `lines`, are followed by new ones. resume: go on where
    an unfinished run in the folder stopped; its files are then those of a run that was not disturbed. encoder: of the
    overlay, see `VideoWriter`.
    """

    style: OverlayStyle | None = None
    results: bool | None = None
    lines: str | None = None
    rotate: Rotation | None = None
    resume: bool = False
    encoder: str | None = None


@dataclass(frozen=True)
class Decoded:
    """A frame and its canvas. scene: cuts that were found before it. arrived: when, on the monotonic clock."""

    lane: Lane
    frame: VideoFrame
    canvas: ByteArray
    scene: int
    arrived: float


@dataclass(frozen=True)
class Inferred:
    """What the model says of a frame: None where the step failed. reset: why the stream began anew, if it did.

    memory: of the session after this frame, where it is to be kept.
    """

    lane: Lane
    frame: VideoFrame
    outputs: FrameOutputs | None
    reset: str | None
    arrived: float
    memory: dict[str, Array] | None = None


@dataclass(eq=False)
class Lane:
    """What is known of one video. name: what watchers call it. resumable: whether another run could go on with it.
    task, panoptic: see `assembler_of`. overlap: whether its overlay is encoded in a thread of its own. runner: what
    runs the model, in a word.

    done: how many frames a run before this one did. before: the last of those. memory: what the model knew after them.
    """

    source: VideoSource
    folder: Path
    contract: GraphContract
    output: OutputOptions
    parameters: TrackParameters | None = None
    top_k: int = 50
    cuts: Cuts = "auto"
    name: str = ""
    resumable: bool = True
    task: str | None = None
    panoptic: PanopticOptions | None = None
    overlap: bool = True
    runner: str = ""
    failure: L2GError | None = field(default=None, init=False)
    ended: bool = field(default=False, init=False)  # its source gives no more
    dropped: int = field(default=0, init=False)
    passed_over: int = field(default=0, init=False)  # of these, before anybody took frames
    results: Results | None = field(default=None, init=False)  # once the source is open
    resets: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_task(self.task, self.contract)
        self._cuts = cut_finder(self.cuts)
        facts = self._facts() if self.resumable else {}
        lines = LINES if self._task == "instances" else PANOPTIC_LINES
        self.run = RunFolder(self.folder, facts, self.output.resume, keeps=not self.source.is_live, lines=lines)
        saved = self.run.saved
        self.done = self._inferred = saved.frames if saved else 0
        self.memory = saved.memory if saved else None
        self.before: Decoded | None = None
        self._opening, self._closed = threading.Lock(), False
        self._files = ExitStack()
        with ExitStack() as files:
            files.callback(lambda: self.run.close(self.frames))
            if self.source.is_open:
                self._open(files)
            self._files = files.pop_all()

    def _open(self, files: ExitStack) -> None:
        """What depends on the size of the frames: the way to the canvas and back, and the files."""
        source = self.source
        self._letterbox = letterbox_of(self.contract, source.height, source.width, source.pixel_aspect)
        self._assembler = assembler_of(
            self._letterbox, self.contract, self.parameters, self.top_k, self.task, self.panoptic
        )
        if self.memory:
            self._assembler.recall(self.memory)
        try:
            self.results = Results(
                files, source, self.contract, self.run, self.output, self.name, self._task, self.overlap
            )
        except BaseException:
            self.run.fail(0)
            raise

    def _await_open(self) -> None:
        """Wait for a source that was not there at the start."""
        self.source.await_open()
        with self._opening:
            if self._closed:
                raise VideoError(f"{self.source.name}: was not there until the end")
            if self.results is None:
                self._open(self._files)

    @property
    def _task(self) -> str:
        return check_task(self.task, self.contract)

    @property
    def frames(self) -> int:
        """With a result."""
        return self.results.frames if self.results else 0

    def _facts(self) -> dict[str, object]:
        """What the results depend on; what does not apply is None, so that each name is in all runs of this version."""
        source, maps, encoder = self.source, self._task != "instances", self.output.encoder
        return {
            "task": self._task if maps else None,
            "merging": str(self.panoptic or PanopticOptions()) if maps else None,
            # The frames of two encoders do not go into one file.
            "encoder": None if encoder == SOFTWARE else encoder,
            "model": fingerprint(self.contract.to_json()),
            "library, device or precision": self.runner,
            "source": Path(source.name).name,
            "track or view": source.part,
            "length of the source": fingerprint(str([file.stat().st_size for file in source.files if file.is_file()])),
            "frame size": [source.height, source.width, source.pixel_aspect],
            "frame rate": source.frame_rate,
            "selection": str(source.selection),
            "tracking": str(self.parameters or TrackParameters()),
            "top-k": self.top_k,
            "cuts": str(self.cuts),
            "overlay": str(self.output.style) if self.output.style else None,
            "choice of results": self.output.results,
        }

    def decode(self, latest: bool = False) -> Generator[Decoded, None, None]:
        """Every frame that is not done; ends early, without an error, where the source fails (see `failure`).

        latest: what came before anybody took frames is passed over.
        """
        scene = 0
        try:
            self._await_open()
            frames = from_now_on(self.source, self._pass_over) if latest else self.source
            for number, frame in enumerate(frames):
                arrived = time.monotonic()
                canvas = self._letterbox.to_canvas(frame.image, self.contract.pad_value)
                cut = self._cuts.is_cut(self._letterbox.content(canvas), frame.time)
                scene += cut and number > 0
                item = Decoded(self, frame, canvas, scene, arrived)
                if number < self.done:
                    self.before = item
                    continue
                yield item
                if self.failure is not None:
                    return
        except L2GError as error:
            self.failure = error
        finally:
            self.ended = True

    def _pass_over(self) -> None:
        self.passed_over += 1

    def give_up(self, failure: L2GError) -> None:
        """End this video for a reason that is not its source's."""
        self.failure = failure
        self.source.stop()

    def memory_of(self, session: VideoSession, sound: bool) -> dict[str, Array] | None:
        """What the session knows after a step with this lane, every so many frames; sound: the step gave outputs."""
        self._inferred += 1
        return session.memory(self) if self.resumable and sound and self._inferred % KEY_FRAMES == 0 else None

    def write(self, item: Inferred, watcher: Watcher) -> None:
        frame, results = item.frame, self.results
        assert results is not None  # since there is a frame
        if item.outputs is None:
            result = self._assembler.nothing(frame.index, frame.time, item.reset)
        else:
            result = self._assembler.assemble(item.outputs, frame.index, frame.time, item.reset)
        if item.reset:
            self.resets[item.reset] = self.resets.get(item.reset, 0) + 1
        drawn = results.write(result, frame.image, watcher.wants_pictures)
        if item.memory is not None:
            results.save({**item.memory, **self._assembler.memory()})
        watcher.result(
            Progress(
                self.name,
                result,
                drawn,
                time.monotonic() - item.arrived,
                results.frames,
                self.dropped,
                results.tracks,
                frame.connection,
                results.rate(),
            )
        )

    def close(self) -> None:
        """Give the files their names, unless the run failed; they stay as they are from then on."""
        with self._opening:
            self._closed = True
        if self.failure or not self.frames:
            self.run.fail(self.frames)
        self._files.close()


class Results:
    """The files of one run; consumes frames in order."""

    def __init__(
        self,
        files: ExitStack,
        source: VideoSource,
        contract: GraphContract,
        run: RunFolder,
        options: OutputOptions,
        stream: str = "",
        task: str = "instances",
        overlap: bool = True,
    ):
        class_names, maps = contract.class_names, task != "instances"
        path = run.folder / run.lines
        self.lines: JsonLinesSink | LiveLines
        if source.is_live or options.lines:
            target = _lines_of(options.lines, stream) or path
            rotated = [run.folder / overlay_name(source), *([Path(target)] if target != "-" else [])]
            self._first = first_number(rotated) if options.rotate else 0
            self.lines = files.enter_context(LiveLines(target, class_names, stream, options.rotate, self._first))
        else:
            self.lines = files.enter_context(JsonLinesSink(run.file(run.lines), class_names))
        self.tubes: TubeResultsSink | PanopticSink | None = None
        if (not source.is_live) if options.results is None else options.results:
            if maps:
                self.tubes = files.enter_context(_maps(run, source, contract, task))
            else:
                self.tubes = files.enter_context(TubeResultsSink(run.file("results.json")))
        self._painter = OverlayPainter(class_names, options.style) if options.style else None
        self._video: VideoWriter | PictureWriter | None = None
        # Encoding takes as long as all else that is done with a result.
        self._encoding: Behind | None = None
        self._overlap = overlap
        self._source, self._run, self._rotate = source, run, options.rotate if source.is_live else None
        self._written: list[Path] = []
        self._encoder = options.encoder
        self.notices: list[str] = []
        self._viewer = OverlayPainter(class_names)
        if self._painter:
            self._open_overlay()
            files.callback(self._close_overlay)
        self.frames = self.tracks = 0
        # Of the overlay's present file.
        self._first_time: float | None = None
        if run.saved:
            self._recall(run.saved.frames, run.saved.memory)
        # When the last frames were finished, for the rate that the overlay shows.
        self._finished: deque[float] = deque(maxlen=RATE_FRAMES + 1)

    @property
    def paths(self) -> tuple[Path, ...]:
        tubes = self.tubes.paths if self.tubes else ()
        return (*self.lines.paths, *tubes, *self._written)

    def write(self, result: FrameResult, image: ByteArray, wanted: bool = False) -> ByteArray | None:
        """Append a frame; its overlay, where there is one or it is `wanted`, is drawn on `image`."""
        self._finished.append(time.perf_counter())
        self.lines.write(result)
        if self.tubes:
            self.tubes.write(result)
        newest = max((track.track_id for track in result.tracks), default=0)
        self.tracks = self.tubes.tracks if self.tubes else max(self.tracks, newest)
        drawn = None
        if self._video and self._painter:
            if self._first_time is None:
                self._first_time = result.time
            elif self._rotate and self._rotate.is_due(result.time - self._first_time, self._overlay_bytes()):
                self._close_overlay()
                self._open_overlay()
                self._first_time = result.time
            drawn = self._painter.draw(image, result, self.rate(), in_place=True)
            (self._encoding.put if self._encoding else self._video.write)(drawn, result.time - self._first_time)
        elif wanted:
            drawn = self._viewer.draw(image, result, self.rate(), in_place=True)
        self.frames += 1
        return drawn

    def save(self, memory: Mapping[str, Array]) -> None:
        """Keep what the run needs to go on after the frames that are written."""
        ours = {"first_time": np.array(self._first_time or 0.0), "track_count": np.array(self.tracks)}
        painted = self._painter.memory() if self._painter else {}
        line_bytes = self.lines.bytes if isinstance(self.lines, JsonLinesSink) else 0
        self._run.save(self.frames, {**memory, **painted, **ours}, line_bytes, self.tubes.bytes if self.tubes else 0)

    def _recall(self, frames: int, memory: Mapping[str, Array]) -> None:
        self.frames, self.tracks = frames, int(memory["track_count"])
        self._first_time = float(memory["first_time"])
        if self._painter:
            self._painter.recall(memory)

    def rate(self) -> float | None:
        """Frames per second of wall time, over the last ones; None at the first."""
        seconds = self._finished[-1] - self._finished[0] if self._finished else 0.0
        return (len(self._finished) - 1) / seconds if seconds else None

    def _open_overlay(self) -> None:
        name = Path(overlay_name(self._source))
        if self._rotate:
            name = numbered(name, self._first + len(self._written))
        source, file = self._source, self._run.file(str(name))
        if source.is_picture:
            self._video = PictureWriter(file)
            if Choice.of(self._encoder, ENCODERS, "encoder").explicit:
                self.notices.append(f"{name}: encoder {self._encoder} is for videos: encoded by the processor")
        else:
            rate = source.frame_rate / source.selection.stride
            aspect = source.pixel_aspect
            self._video = VideoWriter(file, source.height, source.width, rate, aspect, self._encoder)
            if self._video.notice and not self.notices:
                self.notices.append(f"{name}: {self._video.notice}")
        self._encoding = Behind(self._video.write, low_priority=not self._source.is_live) if self._overlap else None
        self._written.append(file.path)

    def _overlay_bytes(self) -> int:
        return self._video.size if isinstance(self._video, VideoWriter) else 0

    def _close_overlay(self) -> None:
        try:
            if self._encoding:
                self._encoding.close()
        finally:
            if self._video:
                self._video.close()


def _lines_of(given: str | None, stream: str) -> str | Path | None:
    """Where a stream's lines go: of several each has a file of its own, and on stdout they come together."""
    if not given or given == "-" or not stream:
        return given
    return Path(given).with_stem(f"{Path(given).stem}-{stream}")


def _maps(run: RunFolder, source: VideoSource, contract: GraphContract, task: str) -> PanopticSink:
    from l2g.runtime.panoptic.files import Categories, PanopticSink

    names = contract.class_names
    categories = Categories.of_model(names, range(len(names)) if task == "semantic" else contract.stuff_classes)
    return PanopticSink(run.file("pred.json"), folder_name(last_part(source.name)), categories)


def overlay_name(source: VideoSource) -> str:
    return "overlay.png" if source.is_picture else "overlay.mp4"
