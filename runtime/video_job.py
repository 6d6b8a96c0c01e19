"""One video through one model into a folder of results."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.errors import VideoError
from l2g.runtime.backend import Backend, Detections, RawOutputs
from l2g.runtime.frames import FrameAssembler, letterbox_of
from l2g.runtime.overlay import draw_overlay
from l2g.runtime.pipeline import run_pipeline
from l2g.runtime.results import JsonLinesSink, TubeResultsSink
from l2g.runtime.session import VideoSession
from l2g.runtime.tracks import TrackParameters
from l2g.runtime.video import VideoFrame, VideoSource
from l2g.runtime.video_writer import VideoWriter

_STREAM = "video"


@dataclass(frozen=True)
class JobSummary:
    """What a run did. seconds: wall time from the first frame asked for to the last file closed.

    damage: None, or what could not be read of the source. interrupted: Ctrl-C ended it; the files hold what was done.
    """

    frames: int
    seconds: float
    tracks: int
    files: tuple[Path, ...]
    damage: str | None
    interrupted: bool


@dataclass(frozen=True)
class _Decoded:
    frame: VideoFrame
    canvas: np.ndarray


@dataclass(frozen=True)
class _Inferred:
    frame: VideoFrame
    outputs: RawOutputs | Detections


class _Results:
    """The files of one run; consumes frames in order."""

    def __init__(self, files: ExitStack, source: VideoSource, backend: Backend, folder: Path, overlay: bool):
        self._class_names = backend.contract.class_names
        self.lines = files.enter_context(JsonLinesSink(folder / "frames.jsonl", self._class_names))
        self.tubes = files.enter_context(TubeResultsSink(folder / "results.json"))
        self.video = None
        if overlay:
            rate = source.frame_rate / source.selection.stride
            self.video = files.enter_context(VideoWriter(folder / "overlay.mp4", source.height, source.width, rate))
        self.frames = 0
        self._first_time = 0.0

    @property
    def paths(self) -> tuple[Path, ...]:
        sinks = [self.lines, self.tubes] + ([self.video] if self.video else [])
        return tuple(sink.path for sink in sinks)

    def write(self, result, image: np.ndarray) -> None:
        if self.frames == 0:
            self._first_time = result.time
        self.lines.write(result)
        self.tubes.write(result)
        if self.video:
            self.video.write(draw_overlay(image, result, self._class_names), result.time - self._first_time)
        self.frames += 1


def process_video(
    backend: Backend,
    source: VideoSource,
    folder: str | Path,
    *,
    parameters: TrackParameters | None = None,
    top_k: int = 50,
    overlay: bool = True,
    on_frame: Callable[[], None] | None = None,
) -> JobSummary:
    """Write `frames.jsonl`, `results.json` and, with `overlay`, `overlay.mp4` of `source` into `folder`.

    Decoding, inference and writing overlap; memory does not grow with the video. `on_frame` is called after each frame.
    Whatever ends the run, the files hold every frame that was finished. Neither `backend` nor `source` is closed.
    Raises VideoError when the folder cannot be written or the source gives no frame.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VideoError(f"{folder}: cannot be made ({error}); give another output folder") from None
    session = VideoSession(backend)
    session.join(_STREAM)
    letterbox = letterbox_of(backend.contract, source.height, source.width)
    assembler = FrameAssembler(letterbox, parameters, top_k)
    started = time.perf_counter()

    def decode():
        for frame in source:
            yield _Decoded(frame, letterbox.to_canvas(frame.image, backend.contract.pad_value))

    def infer(item: _Decoded) -> _Inferred:
        return _Inferred(item.frame, session.step({_STREAM: item.canvas})[_STREAM])

    interrupted = False
    with ExitStack() as files:
        results = _Results(files, source, backend, folder, overlay)

        def consume(item: _Inferred) -> None:
            results.write(assembler.assemble(item.outputs, item.frame.index, item.frame.time), item.frame.image)
            if on_frame:
                on_frame()

        try:
            run_pipeline(decode(), infer, consume)
        except KeyboardInterrupt:
            interrupted = True
    return JobSummary(
        frames=results.frames,
        seconds=time.perf_counter() - started,
        tracks=results.tubes.tracks,
        files=tuple(path for path in results.paths if path.exists()),
        damage=source.damage,
        interrupted=interrupted,
    )
