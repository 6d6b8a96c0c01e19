"""One video on its way through the stages of a run: its frames, its place on the canvas, its files."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.contract import GraphContract
from l2g.errors import L2GError, VideoError
from l2g.files import locked
from l2g.runtime.arrays import ByteArray
from l2g.runtime.assembler import assembler_of, letterbox_of
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.panoptic.options import PanopticOptions, check_task
from l2g.runtime.video.cuts import Cuts, cut_finder
from l2g.runtime.video.live.watcher import Progress, Watcher
from l2g.runtime.video.overlay import OverlayPainter, OverlayStyle
from l2g.runtime.video.picture_writer import PictureWriter
from l2g.runtime.video.results import LINES, PANOPTIC_LINES, JsonLinesSink, LiveLines, TubeResultsSink
from l2g.runtime.video.source import VideoFrame, VideoSource
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
    they come. rotate: seconds after which a live source's files are followed by new ones.
    """

    style: OverlayStyle | None = None
    results: bool | None = None
    lines: str | None = None
    rotate: float | None = None


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
    """What the model says of a frame: None where the step failed. reset: why the stream began anew, if it did."""

    lane: Lane
    frame: VideoFrame
    outputs: FrameOutputs | None
    reset: str | None
    arrived: float


@dataclass(eq=False)
class Lane:
    """What is known of one video. name: what watchers call it. task, panoptic: see `assembler_of`."""

    source: VideoSource
    folder: Path
    contract: GraphContract
    output: OutputOptions
    parameters: TrackParameters | None = None
    top_k: int = 50
    cuts: Cuts = "auto"
    name: str = ""
    task: str | None = None
    panoptic: PanopticOptions | None = None
    failure: L2GError | None = field(default=None, init=False)
    ended: bool = field(default=False, init=False)  # its source gives no more
    dropped: int = field(default=0, init=False)
    resets: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        source = self.source
        self._letterbox = letterbox_of(self.contract, source.height, source.width, source.pixel_aspect)
        self._assembler = assembler_of(
            self._letterbox, self.contract, self.parameters, self.top_k, self.task, self.panoptic
        )
        task = check_task(self.task, self.contract)
        self._cuts = cut_finder(self.cuts)
        self._files = ExitStack()
        with self._files:
            self._files.enter_context(locked(self.folder, VideoError))
            self.results = Results(self._files, source, self.contract, self.folder, self.output, self.name, task)
            self._files = self._files.pop_all()

    def decode(self) -> Generator[Decoded, None, None]:
        """Every frame; ends early, without an error, where the source fails (see `failure`)."""
        scene, first = 0, True
        try:
            for frame in self.source:
                arrived = time.monotonic()
                canvas = self._letterbox.to_canvas(frame.image, self.contract.pad_value)
                cut = self._cuts.is_cut(self._letterbox.content(canvas), frame.time)
                scene += cut and not first
                first = False
                yield Decoded(self, frame, canvas, scene, arrived)
                if self.failure is not None:
                    return
        except L2GError as error:
            self.failure = error
        finally:
            self.ended = True

    def give_up(self, failure: L2GError) -> None:
        """End this video for a reason that is not its source's."""
        self.failure = failure
        self.source.stop()

    def write(self, item: Inferred, watcher: Watcher) -> None:
        frame = item.frame
        if item.outputs is None:
            self._assembler.reset()
            size, names = frame.image.shape, self.contract.class_names
            result = FrameResult(frame.index, frame.time, (), size[0], size[1], names, item.reset)
        else:
            result = self._assembler.assemble(item.outputs, frame.index, frame.time, item.reset)
        if item.reset:
            self.resets[item.reset] = self.resets.get(item.reset, 0) + 1
        drawn = self.results.write(result, frame.image, watcher.wants_pictures)
        results = self.results
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
        """Give the files their names; they stay as they are from then on."""
        self._files.close()


class Results:
    """The files of one run; consumes frames in order."""

    def __init__(
        self,
        files: ExitStack,
        source: VideoSource,
        contract: GraphContract,
        folder: Path,
        options: OutputOptions,
        stream: str = "",
        task: str = "instances",
    ):
        class_names, maps = contract.class_names, task != "instances"
        path = folder / (PANOPTIC_LINES if maps else LINES)
        self.lines: JsonLinesSink | LiveLines
        if source.is_live or options.lines:
            self.lines = files.enter_context(LiveLines(options.lines or path, class_names, stream, options.rotate))
        else:
            self.lines = files.enter_context(JsonLinesSink(path, class_names))
        self.tubes: TubeResultsSink | PanopticSink | None = None
        if (not source.is_live) if options.results is None else options.results:
            if maps:
                self.tubes = files.enter_context(_maps(folder, source, contract, task))
            else:
                self.tubes = files.enter_context(TubeResultsSink(folder / "results.json"))
        self._painter = OverlayPainter(class_names, options.style) if options.style else None
        self._video: VideoWriter | PictureWriter | None = None
        self._source, self._folder, self._rotate = source, folder, options.rotate if source.is_live else None
        self._written: list[Path] = []
        self._viewer = OverlayPainter(class_names)
        if self._painter:
            self._open_overlay()
            files.callback(self._close_overlay)
        self.frames = self.tracks = 0
        # Of the overlay's present file.
        self._first_time: float | None = None
        # When the last frames were finished, for the rate that the overlay shows.
        self._finished: deque[float] = deque(maxlen=RATE_FRAMES + 1)

    @property
    def paths(self) -> tuple[Path, ...]:
        tubes = self.tubes.paths if self.tubes else ()
        return (*self.lines.paths, *tubes, *self._written)

    def write(self, result: FrameResult, image: ByteArray, wanted: bool = False) -> ByteArray | None:
        """Append a frame; its overlay, where there is one or it is `wanted`."""
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
            elif self._rotate and result.time - self._first_time >= self._rotate:
                self._close_overlay()
                self._open_overlay()
                self._first_time = result.time
            drawn = self._painter.draw(image, result, self.rate())
            self._video.write(drawn, result.time - self._first_time)
        elif wanted:
            drawn = self._viewer.draw(image, result, self.rate())
        self.frames += 1
        return drawn

    def rate(self) -> float | None:
        """Frames per second of wall time, over the last ones; None at the first."""
        seconds = self._finished[-1] - self._finished[0] if self._finished else 0.0
        return (len(self._finished) - 1) / seconds if seconds else None

    def _open_overlay(self) -> None:
        path = self._folder / overlay_name(self._source)
        if self._rotate:
            path = path.with_stem(f"{path.stem}-{len(self._written):04d}")
        source = self._source
        if source.is_picture:
            self._video = PictureWriter(path)
        else:
            rate = source.frame_rate / source.selection.stride
            self._video = VideoWriter(path, source.height, source.width, rate, source.pixel_aspect)
        self._written.append(path)

    def _close_overlay(self) -> None:
        if self._video:
            self._video.close()


def _maps(folder: Path, source: VideoSource, contract: GraphContract, task: str) -> PanopticSink:
    from l2g.runtime.panoptic.files import Categories, PanopticSink

    names = contract.class_names
    categories = Categories.of_model(names, range(len(names)) if task == "semantic" else contract.stuff_classes)
    return PanopticSink(folder, re.sub(r"[^\w.-]+", "_", Path(source.name).stem).strip(".") or "video", categories)


def overlay_name(source: VideoSource) -> str:
    return "overlay.png" if source.is_picture else "overlay.mp4"
