"""Videos through one model, each into a folder of results; several at once are streams of one batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2g.errors import L2GError, VideoError
from l2g.runtime.arrays import Array, ByteArray
from l2g.runtime.assembler import FrameAssembler, letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.session import VideoSession
from l2g.runtime.video.overlay import DEFAULT_STYLE, OverlayPainter, OverlayStyle
from l2g.runtime.video.picture_writer import PictureWriter
from l2g.runtime.video.pipeline import ReadAhead, run_pipeline
from l2g.runtime.video.results import JsonLinesSink, TubeResultsSink
from l2g.runtime.video.run_folder import KEY_FRAMES, UNFINISHED, RunFolder, fingerprint
from l2g.runtime.video.source import VideoFrame, VideoSource
from l2g.runtime.video.writer import VideoWriter

# The rate in the overlay is that of so many frames.
RATE_FRAMES = 30


@dataclass(frozen=True)
class JobSummary:
    """What a run did. seconds: wall time from the first frame asked for to the last file closed.

    damage: None, or what could not be read of the source. interrupted: Ctrl-C ended it; the files hold what was done.
    notices: what else a user should know of the source.
    """

    frames: int
    seconds: float
    tracks: int
    files: tuple[Path, ...]
    damage: str | None
    interrupted: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    lane: _Lane
    frame: VideoFrame
    canvas: ByteArray


@dataclass(frozen=True)
class _Inferred:
    """memory: of the session after this frame, where it is to be kept."""

    lane: _Lane
    frame: VideoFrame
    outputs: FrameOutputs
    memory: dict[str, Array] | None


class _Results:
    """The files of one run; consumes frames in order."""

    def __init__(
        self, files: ExitStack, source: VideoSource, backend: Backend, run: RunFolder, style: OverlayStyle | None
    ):
        names = backend.contract.class_names
        self._run = run
        self.lines = files.enter_context(JsonLinesSink(run.file("frames.jsonl"), names))
        self.tubes = files.enter_context(TubeResultsSink(run.file("results.json")))
        self.video: VideoWriter | PictureWriter | None = None
        if style:
            self._painter = OverlayPainter(names, style)
            writer = _overlay_writer(source, run)
            files.enter_context(writer)
            self.video = writer
        self.frames, self._first_time = 0, 0.0
        if run.saved:
            self.frames, self._first_time = run.saved.frames, float(run.saved.memory["first_time"])
        # When the last frames were finished, for the rate that the overlay shows.
        self._finished: deque[float] = deque(maxlen=RATE_FRAMES + 1)

    @property
    def paths(self) -> tuple[Path, ...]:
        paths = (self.lines.path, self.tubes.path)
        return (*paths, self.video.path) if self.video else paths

    def write(self, result: FrameResult, image: ByteArray) -> None:
        if self.frames == 0:
            self._first_time = result.time
        self.lines.write(result)
        self.tubes.write(result)
        if self.video:
            self.video.write(self._painter.draw(image, result, self._rate()), result.time - self._first_time)
        self.frames += 1

    def save(self, memory: Mapping[str, Array]) -> None:
        """Keep what the run needs to go on after the frames that are written."""
        first = {"first_time": np.array(self._first_time)}
        self._run.save(self.frames, {**memory, **first}, self.lines.bytes, self.tubes.bytes)

    def _rate(self) -> float | None:
        """Frames per second of wall time, over the last ones; None at the first."""
        self._finished.append(time.perf_counter())
        seconds = self._finished[-1] - self._finished[0]
        return (len(self._finished) - 1) / seconds if seconds else None


def _overlay_name(source: VideoSource) -> str:
    return "overlay.png" if source.is_picture else "overlay.mp4"


def _overlay_writer(source: VideoSource, run: RunFolder) -> VideoWriter | PictureWriter:
    file = run.file(_overlay_name(source))
    if source.is_picture:
        return PictureWriter(file)
    rate = source.frame_rate / source.selection.stride
    return VideoWriter(file, source.height, source.width, rate, source.pixel_aspect)


def _refuse_own_inputs(jobs: Sequence[tuple[VideoSource, str | Path]], overlay: bool) -> None:
    """VideoError where a run would write over a file that it reads, in whatever way that is named."""
    outputs = [
        Path(folder) / name
        for source, folder in jobs
        for name in ("frames.jsonl", "results.json", *([_overlay_name(source)] if overlay else []))
    ]
    # What an unfinished run left is read by this one, or removed.
    outputs += [path for _, folder in jobs for path in Path(folder, UNFINISHED).glob("*")]
    there = {(entry.st_dev, entry.st_ino): path for path in outputs if path.exists() for entry in [path.stat()]}
    for source, _ in jobs if there else ():
        for file in source.files:
            entry = file.stat() if file.exists() else None
            if entry and (entry.st_dev, entry.st_ino) in there:
                raise VideoError(
                    f"{source.name}: is the file that this run would write as "
                    f"{there[entry.st_dev, entry.st_ino]}; give another output folder"
                )


class _Lane:
    """One video on its way through the stages: its frames, its place on the canvas, its files."""

    def __init__(
        self,
        source: VideoSource,
        folder: Path,
        backend: Backend,
        parameters: TrackParameters | None,
        top_k: int,
        style: OverlayStyle | None,
        resume: bool,
    ):
        self.source = source
        self.failure: L2GError | None = None
        self._closed = False
        facts = {
            "model": fingerprint(backend.contract.to_json()),
            "source": source.name,
            "frame size": [source.height, source.width],
            "selection": str(source.selection),
            "tracking": str(parameters or TrackParameters()),
            "top-k": top_k,
            "overlay": str(style) if style else None,
        }
        self.run = RunFolder(folder, facts, resume)
        saved = self.run.saved
        # Frames that were written before this run went on, and that the model has seen.
        self.done = self.inferred = saved.frames if saved else 0
        self.memory = saved.memory if saved else None
        self._pad_value = backend.contract.pad_value
        self._letterbox = letterbox_of(backend.contract, source.height, source.width, source.pixel_aspect)
        self._assembler = FrameAssembler(self._letterbox, backend.contract, parameters, top_k)
        if self.memory:
            self._assembler.recall(self.memory)
        self._files = ExitStack()
        try:
            with self._files:
                try:
                    self.results = _Results(self._files, source, backend, self.run, style)
                except BaseException:
                    self.run.fail(0)
                    raise
                self._files = self._files.pop_all()
        except BaseException:
            self.run.close(0)
            raise

    def decode(self) -> Generator[_Decoded, None, None]:
        """Every frame; ends early, without an error, where the source fails (see `failure`)."""
        try:
            for number, frame in enumerate(self.source):
                if number < self.done:
                    continue
                yield _Decoded(self, frame, self._letterbox.to_canvas(frame.image, self._pad_value))
        except L2GError as error:
            self.failure = error

    def memory_of(self, session: VideoSession) -> dict[str, Array] | None:
        """What the session knows after a step with this lane, every so many frames."""
        self.inferred += 1
        return session.memory(self) if self.inferred % KEY_FRAMES == 0 else None

    def write(self, item: _Inferred) -> None:
        frame = item.frame
        self.results.write(self._assembler.assemble(item.outputs, frame.index, frame.time), frame.image)
        if item.memory is not None:
            self.results.save({**item.memory, **self._assembler.memory()})

    def close(self) -> None:
        """Give the files their names, unless the run failed; they stay as they are from then on."""
        if self._closed:
            return
        self._closed = True
        frames = self.results.frames
        if not frames:
            self.run.fail(frames)
        try:
            self._files.close()
        finally:
            self.run.close(frames)

    def summary(self, seconds: float, interrupted: bool) -> JobSummary:
        return JobSummary(
            frames=self.results.frames,
            seconds=seconds,
            tracks=self.results.tubes.tracks,
            files=tuple(path for path in self.results.paths if path.exists()),
            damage=str(self.failure) if self.failure else self.source.damage,
            interrupted=interrupted,
            notices=(*self.source.notices, *([f"went on after {self.done} frames"] if self.done else [])),
        )


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
    resume: bool = False,
) -> JobSummary:
    """Write `frames.jsonl`, `results.json` and, with `overlay`, `overlay.mp4` of `source` into `folder`; of a single
    picture `overlay.png`.

    style: what the overlay shows.
    Decoding, inference and writing overlap; memory does not grow with the video. `on_frame` is called after each frame.
    After Ctrl-C the files hold every frame that was finished. Neither `backend` nor `source` is closed.
    Raises VideoError when the folder cannot be written, a file that is read would be written over, or the source gives
    no frame.
    """
    jobs = [(source, folder)]
    return process_videos(
        backend,
        jobs,
        parameters=parameters,
        top_k=top_k,
        overlay=overlay,
        style=style,
        on_frame=on_frame,
        resume=resume,
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
    resume: bool = False,
) -> list[JobSummary]:
    """`process_video` for several videos at once, as streams of one batch; jobs are (source, folder).

    Every step takes the next frame of each video that has one left: a video leaves the batch at its end, and the
    slowest source sets the pace of all. A source that fails ends alone, with the reason as its summary's `damage`; its
    error is raised when it is the only one, or when all fail.

    resume: a video that an earlier run began in its folder, with the same settings, is gone on with where its last
    memory was saved: the files are those of a run that was not disturbed. Whichever error is raised, what an earlier
    run wrote under the files' names is as it was. VideoError where another process writes into one of the folders.
    """
    _refuse_own_inputs(jobs, overlay)
    session = VideoSession(backend)
    started = time.perf_counter()
    interrupted = False
    with ExitStack() as stack:
        stack.enter_context(_one_opencv_thread())
        lanes: list[_Lane] = []
        for source, folder in jobs:
            lane_style = style if overlay else None
            lanes.append(_Lane(source, Path(folder), backend, parameters, top_k, lane_style, resume))
            stack.callback(lanes[-1].close)
        # Decoders and encoders work outside the interpreter's lock: several videos have a thread each for either.
        writers = stack.enter_context(ThreadPoolExecutor(len(lanes))) if len(lanes) > 1 else None

        def consume(round_: list[_Inferred]) -> None:
            running = [item.lane for item in round_]
            for lane in lanes:
                if lane not in running:
                    lane.close()
            list((writers.map if writers else map)(lambda item: item.lane.write(item), round_))
            for _ in round_:
                if on_frame:
                    on_frame()

        try:
            run_pipeline(_rounds(lanes), lambda round_: _step(session, round_), consume)
        except KeyboardInterrupt:
            interrupted = True
            for lane in lanes:
                lane.run.unended = True
        except BaseException as error:
            raise _failed(lanes, error) from error
        failures = [lane.failure for lane in lanes if lane.failure]
        if lanes and len(failures) == len(lanes):
            raise _failed(lanes, failures[0])
    seconds = time.perf_counter() - started
    return [lane.summary(seconds, interrupted) for lane in lanes]


def _failed(lanes: Sequence[_Lane], error: BaseException) -> BaseException:
    """The error that ends all lanes; what they have written stays unfinished, and a user is told where."""
    places = [(lane.results.frames, lane.run.fail(lane.results.frames)) for lane in lanes]
    frames, place = max(places, key=lambda pair: pair[0])
    if not frames or not isinstance(error, L2GError):
        return error
    how = "; --resume goes on from there" if frames >= KEY_FRAMES else ""
    return type(error)(f"{error}. What was done, {frames} frames, is in {place}{how}")


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """The stages are the threads: OpenCV's own would wake for every small picture and take turns with the model's."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _rounds(lanes: Sequence[_Lane]) -> Iterator[list[_Decoded]]:
    """The next frame of every lane that has one left, until none has."""
    readers: dict[_Lane, ReadAhead | Generator[_Decoded, None, None]] = {
        lane: ReadAhead(lane.decode()) if len(lanes) > 1 else lane.decode() for lane in lanes
    }
    live = list(lanes)
    try:
        while live:
            items = [next(readers[lane], None) for lane in live]
            live = [lane for lane, item in zip(live, items, strict=True) if item is not None]
            if live:
                yield [item for item in items if item is not None]
    finally:
        for reader in readers.values():
            reader.close()


def _step(session: VideoSession, round_: list[_Decoded]) -> list[_Inferred]:
    running = [item.lane for item in round_]
    for lane in running:
        if lane not in session.streams:
            session.join(lane, lane.memory)
    for stream in session.streams:
        if stream not in running:
            session.leave(stream)
    outputs = session.step({item.lane: item.canvas for item in round_})
    return [_Inferred(item.lane, item.frame, outputs[item.lane], item.lane.memory_of(session)) for item in round_]
