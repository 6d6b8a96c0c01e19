"""What every source of frames offers: its size and rate, its frames with their times, and what was wrong with it."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from l2g.errors import L2GError, VideoError

Image = npt.NDArray[np.uint8]

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".j2k",
)  # fmt: skip
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
)

# Larger frames are refused before memory is taken for them: as RGB this is 400 MB.
MAX_PIXELS = 1 << 27


@dataclass(frozen=True)
class VideoFrame:
    """index: of the source frame, from 0 (skipped frames count). time: seconds. image: uint8 [H, W, 3] RGB, upright.

    connection: how often a live source was lost before this frame.
    """

    index: int
    time: float
    image: Image
    connection: int = 0


@dataclass(frozen=True)
class Selection:
    """Which frames of a source are used: from `start` up to but not including `end`, in seconds, every `stride`-th.

    Frames before `start` are decoded and dropped, so that indices stay those of the file at any frame rate. The stride
    is counted from the first frame at `phase` seconds, `start` unless told: with one phase, parts of a video share the
    frames that they both have.
    """

    start: float = 0.0
    end: float | None = None
    stride: int = 1
    phase: float | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise VideoError(f"stride {self.stride} found, at least 1 expected")
        # Said this way round: every comparison with NaN is false.
        if not 0 <= self.start < math.inf:
            raise VideoError(f"start {self.start:g} s found, 0 or more expected")
        if self.end is not None and not self.end > self.start:
            raise VideoError(f"end {self.end:g} s found, more than the start at {self.start:g} s expected")
        if self.phase is not None and not 0 <= self.phase <= self.start:
            raise VideoError(f"phase {self.phase} s found, 0 to the start at {self.start} s expected")

    @property
    def first(self) -> float:
        """Second from which on frames have to be counted."""
        return self.start if self.phase is None or self.stride == 1 else self.phase

    def spans(self, time: float) -> bool:
        """Whether a frame of this time lies within it, whatever the stride."""
        return self.start <= time and (self.end is None or time < self.end)


class NothingSelectedError(VideoError):
    """A source can be read and gives no frame of its selection."""


class VideoSource(ABC):
    """Iterated once, gives VideoFrame after VideoFrame; a context manager. `open_source` makes one.

    name: what messages call it. files: the local files that it reads. height, width: of the upright frames, in stored
    pixels. pixel_aspect: width of a pixel divided by its height. frame_rate: mean frames a second. expected_frames:
    how many the selection will give, an estimate for progress bars, None when unknown. part: what of its input it
    gives, where that is not all: a track, what a list of cameras wants of it. is_picture: a single picture,
    without a time. is_live: frames come whether they are taken or not. connection: how often it was lost so far.
    notices: what a user should know although nothing is wrong; may grow while it is iterated.
    damage: None, or once the iteration has ended a sentence that says what could not be read. unreadable: of pictures
    the names of those, by the index of the frame.
    is_open: False for a live source that was not there at first; `await_open` waits for it, and nothing but its name is
    known before. since: when a live source began to be opened, on the monotonic clock: what came since then may wait.
    say: where it tells of what happens to it while it is iterated; None keeps that in `notices`.
    """

    name: str
    selection: Selection
    say: Callable[[str], None] | None = None
    files: tuple[Path, ...] = ()
    height: int
    width: int
    pixel_aspect: float = 1.0
    frame_rate: float
    expected_frames: int | None = None
    part: str = ""
    is_picture: bool = False
    is_live: bool = False
    is_open: bool = True
    since: float | None = None
    connection: int = 0
    notices: list[str]
    damage: str | None = None
    unreadable: dict[int, str]

    def __init__(self, name: str, selection: Selection) -> None:
        self.name = name
        self.selection = selection
        self.notices, self.unreadable = [], {}

    @property
    def is_portrait(self) -> bool:
        """Higher than wide to look at."""
        return self.height > self.width * self.pixel_aspect

    def __iter__(self) -> Iterator[VideoFrame]:
        """Decode; a source that ends before its first frame raises NothingSelectedError."""
        chosen = self.selection
        start, end, first = chosen.start, chosen.end, chosen.first
        counted, reached = 0, False
        last: float | None = None
        try:
            for index, time, read in self._decode():
                last = time
                if end is not None and time >= end:
                    return
                if time < first:
                    continue
                counted += 1
                if time < start:
                    continue
                reached = True
                if (counted - 1) % chosen.stride == 0:
                    yield VideoFrame(index, time, read(), self.connection)
        except L2GError:
            raise
        except Exception as error:
            # One source that trips a library must not end the sources beside it.
            raise VideoError(f"{self.name}: cannot be read ({reason(error)})") from error
        if not reached:
            where = "" if last is None else f"; its last one is at {last:.2f} s"
            raise NothingSelectedError(f"{self.name}: no frame from {start:g} s on found{where}; give an earlier start")

    def await_open(self) -> None:  # noqa: B027 (most are open once they are made)
        """Wait until it is open. VideoError where it is given up."""

    def stop(self) -> None:  # noqa: B027 (files end by themselves)
        """Let the iteration end soon, whatever it waits for; from any thread."""

    def close(self) -> None:  # noqa: B027 (most have nothing to free)
        """Free the file."""

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        """Yield (index, time, function that gives the picture) of every frame, times never falling."""


def is_picture_name(path: str | Path) -> bool:
    """By its suffix; hidden files (companions that macOS lays beside pictures) are none."""
    name = Path(path).name
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def shown(path: str | Path) -> str:
    """A path as text that every terminal can print: names on disk need not be Unicode."""
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in os.fspath(path))


def reason(error: Exception) -> str:
    if type(error).__name__ == "ExitError":  # PyAV's, where its time-out was over
        return "nothing came for too long"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def said_unreadable(name: str, unreadable: Mapping[int, str]) -> str:
    """A sentence on a source's pictures that could not be read; unreadable: names by index, at least one."""
    return f"{name}: {len(unreadable)} pictures could not be read, the first is {unreadable[min(unreadable)]}"


def check_size(name: str, height: int, width: int) -> None:
    """Raise VideoError where frames of this size are too large to be decoded."""
    if height * width > MAX_PIXELS:
        raise VideoError(f"{name}: frames of {width}x{height} found, at most {MAX_PIXELS} pixels expected")
