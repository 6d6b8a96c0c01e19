"""Frames out of video files, streams and folders of pictures, upright, in order, with their times.

Times are seconds from the first frame, taken from the presentation timestamps, so that variable frame rates stay
true. Files that break in the middle give what can be decoded, and `damage` then says what was lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter

from l2g.errors import VideoError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Containers that state what they hold may round: less than this many mean frame intervals missing is not a loss.
_MISSING_INTERVALS = 1.5

# H.273 code of a frame's colour matrix -> PyAV's name; FFmpeg takes what is not named for BT.601.
_COLOR_MATRICES = {1: "ITU709", 7: "SMPTE240M"}

# Before PyAV 17 the scaler has one thread anyway; since then it takes every core that the model works on.
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

# Up to here, 1080p, one core decodes and encodes H.264 several times faster than real time.
ONE_CORE_PIXELS = 1920 * 1088


@dataclass(frozen=True)
class VideoFrame:
    """index: of the source frame, from 0 (skipped frames count). time: seconds. image: uint8 [H, W, 3] RGB, upright."""

    index: int
    time: float
    image: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Which frames of a source are used: from `start` up to but not including `end`, in seconds, every `stride`-th.

    Frames before `start` are decoded and dropped, so that indices stay those of the file at any frame rate.
    """

    start: float = 0.0
    end: float | None = None
    stride: int = 1

    def __post_init__(self):
        if self.stride < 1:
            raise VideoError(f"stride {self.stride} found, at least 1 expected")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise VideoError(f"start {self.start} s and end {self.end} s found, 0 <= start < end expected")


class VideoSource:
    """Iterated once, gives VideoFrame after VideoFrame; a context manager. `open_source` makes one.

    height, width: of the upright frames. frame_rate: mean frames a second. expected_frames: how many the selection will
    give, an estimate for progress bars, None when unknown. damage: None, or once the iteration has ended a sentence
    that says what could not be read.
    """

    height: int
    width: int
    frame_rate: float
    expected_frames: int | None
    damage: str | None = None

    def __init__(self, path: str, selection: Selection):
        self.path = path
        self.selection = selection

    def __iter__(self) -> Iterator[VideoFrame]:
        """Decode; a source that ends before its first frame raises VideoError."""
        start, end = self.selection.start, self.selection.end
        chosen = 0
        for index, time, read in self._decode():
            if end is not None and time >= end:
                return
            if time < start:
                continue
            if chosen % self.selection.stride == 0:
                yield VideoFrame(index, time, read())
            chosen += 1
        if not chosen:
            raise VideoError(f"{self.path}: no frame in the selection: it ends before {start:g} s")

    def close(self) -> None:
        """Free the file."""

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _decode(self):
        """Yield (index, time, function that gives the picture) of every frame."""
        raise NotImplementedError


def open_source(path: str | Path, selection: Selection | None = None, picture_rate: float = 30.0) -> VideoSource:
    """Open a video file, a picture, a URL that FFmpeg reads, or a folder of pictures (`picture_rate` frames a second).

    Raises VideoError when it is missing, empty or not a video.
    """
    selection, path = selection or Selection(), str(path)
    if picture_rate <= 0:
        raise VideoError(f"frame rate {picture_rate:g} found for a folder of pictures, above 0 expected")
    if "://" not in path:
        if not Path(path).exists():
            raise VideoError(f"{path}: no such file or folder; check the path")
        if Path(path).is_dir():
            return PictureFolder(path, selection, picture_rate)
        if Path(path).stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty; copy or record it again")
    return VideoFile(path, selection)


class PictureFolder(VideoSource):
    """The pictures of a folder in natural order of their names (frame2 before frame10), at a fixed rate."""

    def __init__(self, path: str, selection: Selection, picture_rate: float):
        super().__init__(path, selection)
        files = [file for file in Path(path).iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        self.files = sorted(files, key=lambda file: _natural(file.name))
        if not self.files:
            raise VideoError(
                f"{path}: no pictures in this folder; expected files ending in {', '.join(PICTURE_SUFFIXES)}"
            )
        first = next((image for image in map(_read_picture, self.files) if image is not None), None)
        if first is None:
            raise VideoError(f"{path}: none of its {len(self.files)} pictures can be read")
        self.height, self.width = first.shape[:2]
        self.frame_rate = picture_rate
        times = np.arange(len(self.files)) / picture_rate
        end = np.inf if selection.end is None else selection.end
        inside = int(((times >= selection.start) & (times < end)).sum())
        self.expected_frames = -(-inside // selection.stride)

    def _decode(self):
        unreadable = []
        for index, file in enumerate(self.files):
            image = _read_picture(file)
            if image is None:
                unreadable.append(file.name)
                self.damage = f"{self.path}: {len(unreadable)} pictures could not be read, the first is {unreadable[0]}"
                continue
            if image.shape[:2] != (self.height, self.width):
                image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
            yield index, index / self.frame_rate, lambda image=image: image


class VideoFile(VideoSource):
    """The first video stream of whatever FFmpeg opens.

    Rotation and mirroring of the display matrix are applied. Packets that cannot be decoded are passed over, as
    players do, and counted in `damage`. Frames of another size than the first are scaled to it.
    """

    def __init__(self, path: str, selection: Selection):
        super().__init__(path, selection)
        try:
            self._container = av.open(path, metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{path}: cannot be opened as a video ({_reason(error)}); is the file complete?") from None
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        if not self._container.streams.video:
            raise VideoError(f"{self.path}: holds no video stream")
        self._stream = self._container.streams.video[0]
        # Threads per frame run ahead: when a packet is broken PyAV drops what they hold, up to one frame a core, at the
        # end of a cut file. Only pictures too large for one core to keep pace get them.
        large = self._stream.width * self._stream.height > ONE_CORE_PIXELS
        self._stream.thread_type = "AUTO" if large else "SLICE"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frame_rate = float(rate) if rate else 25.0
        # AVI knows a frame rate only; with B-frames the timestamps made from it come in decoding order.
        self._timeless = self._container.format.name == "avi"
        # A frame's own `reformat` sets up its tables anew for every frame: 1 ms at 720p.
        self._reformatter = VideoReformatter()
        self._packets = self._bad_packets = self._corrupt_frames = 0
        self._demux_error: str | None = None
        self._last_time = 0.0
        self._count = 0
        # Rotation is known from the first frame only, so the first frame is decoded here.
        self._frames = self._decoded_frames()
        self._first = next(self._frames, None)
        if self._first is None:
            raise VideoError(f"{self.path}: no frame can be decoded{self._because()}; is the file complete?")
        self._origin = _seconds(self._first) or 0.0
        self._orientation = _orientation(self._first)
        height, width = self._first.height, self._first.width
        self._decoded_size = (height, width)
        self.height, self.width = (width, height) if self._orientation[0] else (height, width)
        self.expected_frames = self._estimate()

    def close(self) -> None:
        try:
            self._frames.close()
        except ValueError:
            return  # another thread is blocked inside the decoder: freeing it under that thread would crash
        self._container.close()

    def _decode(self):
        frame, index = self._first, 0
        self._first = None
        try:
            while frame is not None:
                time = self._time(frame, index)
                # After a damaged stretch timestamps can jump back; results and the encoder need them in order.
                self._last_time = time = max(time, self._last_time)
                self._count = index + 1
                yield index, time, lambda frame=frame: self._picture(frame)
                frame, index = next(self._frames, None), index + 1
        finally:
            self.damage = self._find_damage(ended=frame is None)

    def _decoded_frames(self):
        try:
            for packet in self._container.demux(self._stream):
                self._packets += packet.size > 0
                try:
                    frames = packet.decode()
                except av.error.EOFError:
                    return
                except av.error.FFmpegError:
                    self._bad_packets += 1
                    continue
                for frame in frames:
                    self._corrupt_frames += bool(frame.is_corrupt)
                    yield frame
        except av.error.FFmpegError as error:
            self._demux_error = _reason(error)

    def _time(self, frame, index: int) -> float:
        seconds = None if self._timeless else _seconds(frame)
        if seconds is None:  # raw streams carry no timestamps
            return self._last_time + 1 / self.frame_rate if index else 0.0
        return seconds - self._origin

    def _picture(self, frame) -> np.ndarray:
        height, width = self._decoded_size
        # Said outright: older PyAV converts with BT.601 unless the two named matrices differ (RGB itself has none).
        matrix = _COLOR_MATRICES.get(int(frame.colorspace))
        named = {"src_colorspace": matrix, "dst_colorspace": "ITU601"} if matrix else {}
        image = self._reformatter.reformat(frame, width, height, "rgb24", **named, **_ONE_THREAD).to_ndarray()
        transposed, flip_rows, flip_columns = self._orientation
        if transposed:
            image = image.transpose(1, 0, 2)
        if flip_rows:
            image = image[::-1]
        if flip_columns:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)

    def _stated_duration(self) -> float | None:
        """Seconds that the container says the video stream lasts."""
        stream = self._stream
        if stream.duration:
            return float(stream.duration * stream.time_base)
        # Matroska keeps it in a tag per stream; the container's own duration may be that of a longer sound track.
        match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if match:
            hours, minutes, seconds = match.groups()
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if self._container.duration and len(self._container.streams) == 1:
            return self._container.duration / av.time_base
        return None

    def _estimate(self) -> int | None:
        duration = self._stated_duration()
        if duration is None:
            return None
        total = self._stream.frames or max(1, round(duration * self.frame_rate))
        start, end = self.selection.start, self.selection.end
        part = (min(duration, np.inf if end is None else end) - start) / duration
        return max(1, round(total * min(1.0, max(0.0, part)) / self.selection.stride))

    def _because(self) -> str:
        reasons = []
        if self._demux_error:
            reasons.append(self._demux_error)
        if self._bad_packets:
            reasons.append(f"{self._bad_packets} of {self._packets} packets are broken")
        return f" ({'; '.join(reasons)})" if reasons else ""

    def _find_damage(self, ended: bool) -> str | None:
        """One sentence when parts could not be decoded, or the stream ran out (`ended`) before it should."""
        interval = max(1 / self.frame_rate, self._last_time / max(1, self._count - 1))
        late = 0.0 if self._timeless else self._origin - float((self._stream.start_time or 0) * self._stream.time_base)
        missing = (self._stated_duration() or 0.0) - late - self._last_time - interval
        short = ended and missing > (_MISSING_INTERVALS - 1) * interval
        # MP4 counts samples that an edit list hides: only believe its count when time is missing too.
        fewer = ended and 0 < self._packets < self._stream.frames and "mp4" not in self._container.format.name
        found = []
        if self._demux_error:
            found.append(f"reading stopped at {self._last_time:.3f} s ({self._demux_error})")
        elif short:
            found.append(f"it ends at {self._last_time:.3f} s, but says it lasts {self._stated_duration():.3f} s")
        elif fewer:
            found.append(f"it holds {self._packets} of the {self._stream.frames} frames that it announces")
        if self._bad_packets:
            found.append(f"{self._bad_packets} packets could not be decoded")
        if self._corrupt_frames:
            found.append(f"{self._corrupt_frames} frames were decoded with errors")
        return f"{self.path}: the file is damaged: {', '.join(found)}" if found else None


def _seconds(frame) -> float | None:
    return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)


def _orientation(frame) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns), in that order, to bring a decoded frame upright; nearest quarter turn."""
    matrix = next((data for data in frame.side_data if data.type == SideDataType.DISPLAYMATRIX), None)
    if matrix is None:
        return False, False, False
    # 3 x 3, row major, 16.16 fixed point: (x', y') = (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].astype(np.float64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, bool(b < 0), bool(c < 0)
    return False, bool(d < 0), bool(a < 0)


def _read_picture(file: Path) -> np.ndarray | None:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _natural(name: str) -> list:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name)]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
