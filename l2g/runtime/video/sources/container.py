"""One video track of whatever FFmpeg opens: files, URLs, pipes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.format import Flags
from av.video.reformatter import ColorTrc, VideoReformatter

from l2g.errors import VideoError
from l2g.runtime.video.coding.hardware import MISSING, NotDecodedError, with_decoder
from l2g.runtime.video.sources.base import MAX_PIXELS, Image, Selection, VideoSource, check_size, reason
from l2g.runtime.video.sources.clock import timeline
from l2g.runtime.video.sources.fit import fit
from l2g.runtime.video.sources.integrity import is_cut
from l2g.runtime.video.sources.matrices import same_matrix
from l2g.runtime.video.sources.orientation import Orientation, orientation_of
from l2g.runtime.video.sources.tracks import choose_track, stated_seconds

# Containers that state how long they last may round: less than this many frame intervals missing is no loss.
_ROUNDING = 0.5

# Up to here, 1080p, one core decodes and encodes H.264 several times faster than real time.
ONE_CORE_PIXELS = 1920 * 1088

# Pixels further from square than this are a damaged header.
_WIDEST_PIXEL = 10

_HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}

# No frame of a transport stream is shorter than one of its packets.
_TS_PACKET_BYTES = 188


@dataclass(frozen=True)
class Opening:
    """How FFmpeg opens an address.

    format: of the input (a device such as "v4l2"); None: found out. options: FFmpeg's. timeout: seconds without an
    answer, of opening and of reading; None waits for ever. mend: what a user may do where it cannot be opened.
    """

    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: tuple[float, float] | None = None
    mend: str = "give a complete video that FFmpeg opens, such as MP4, MKV or AVI"


class VideoFile(VideoSource):
    """One video track of whatever FFmpeg opens.

    Rotation and mirroring of the display matrix are applied. Packets that cannot be decoded are passed over, as
    players do, and counted in `damage`. Frames of another size than the first are letterboxed into it.

    address: what FFmpeg opens, or an unbuffered pipe. file: the local file that `address` is, if it is one.
    track: the number of the video track, from 0; None chooses. opening: how FFmpeg opens it. threads: of the decoder;
    None is one for every core where the file or the size of its pictures allows that. decoder: see `with_decoder`; of
    a pipe always the processor.
    """

    def __init__(
        self,
        name: str,
        address: str | BinaryIO,
        selection: Selection,
        file: Path | None = None,
        track: int | None = None,
        opening: Opening | None = None,
        threads: int | None = None,
        decoder: str | None = None,
    ):
        super().__init__(name, selection)
        self.files = (file,) if file else ()
        self._pipe = None if isinstance(address, str) else address
        opening = opening or Opening()
        self._mend = opening.mend

        def begin(hardware: HWAccel | None) -> None:
            self.notices.clear()
            try:
                self._container = av.open(
                    address,
                    "r",
                    hwaccel=hardware,
                    format=opening.format,
                    options=dict(opening.options),
                    metadata_errors="replace",
                    timeout=opening.timeout,
                )
            except MISSING as error:
                if hardware:
                    raise NotDecodedError(reason(error)) from None
                self._close_pipe()
                raise VideoError(f"{name}: cannot be opened as a video ({reason(error)}); {opening.mend}") from None
            try:
                self._open_track(
                    address if isinstance(address, str) and file else None, track, threads, hardware is not None
                )
            except BaseException:
                self._container.close()
                self._close_pipe()
                raise

        note = with_decoder(decoder if isinstance(address, str) else None, begin)
        if note:
            self.notices.append(f"{name}: {note}")

    def _open_track(self, path: str | None, wanted: int | None, threads: int | None, in_hardware: bool) -> None:
        track, note = choose_track(self._container, self.name, wanted, path)
        if note:
            self.notices.append(f"{self.name}: {note}")
        self._stream = stream = track.stream
        if in_hardware and not stream.codec_context.is_hwaccel:  # a decoder is there for another track alone
            raise NotDecodedError(f"it does not decode {track.codec}")
        self.part = f"track {stream.index}"
        check_size(self.name, track.height, track.width)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        # Threads per frame run ahead: when a packet is broken PyAV drops what they hold, up to one frame a core, at the
        # end of a cut file. Only pictures too large for one core to keep pace get them.
        stream.thread_type = "AUTO" if track.width * track.height > ONE_CORE_PIXELS else "SLICE"
        if threads is not None:
            stream.codec_context.thread_count = threads
        self._interval = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
        self.frame_rate = float(1 / self._interval)
        # AVI knows a frame rate only; with B-frames the timestamps made from it come in decoding order. Its times are
        # the places of what was coded: recorders leave those empty at which a picture stays as it is.
        self._timeless = self._container.format.name == "avi"
        self._places: deque[Fraction | None] = deque()
        self._clock_may_jump = bool(self._container.format.flags & Flags.ts_discont.value)  # type: ignore[operator]
        # A frame's own `reformat` sets up its tables anew for every frame: 1 ms at 720p.
        self._reformatter, self._planar = VideoReformatter(), VideoReformatter()
        self._packets = self._bad_packets = self._corrupt_frames = self._count = 0
        self._demux_error: str | None = None
        self._last_time = self._last_end = self._origin = 0.0
        # Rotation is known from the first frame only, so the first frame is decoded here.
        self._frames = self._decoded_frames(in_hardware)
        first = next(self._frames, None)
        if first is None and in_hardware:
            raise NotDecodedError("it decodes no frame")
        if first is None:
            raise VideoError(f"{self.name}: no frame can be decoded{self._because()}; {self._mend}")
        self._first: av.VideoFrame | None = first
        self._origin = float(_stamp(first) or 0)
        self._take_shape(first)
        self._matrix = same_matrix(self.name, first)
        if first.color_trc in _HDR:
            self.notices.append(
                f"{self.name}: HDR ({_HDR[ColorTrc(first.color_trc)]}): its tones are not mapped, "
                "so the model sees paler colours than it was trained on"
            )
        format_name = self._container.format.name
        self.is_picture = format_name.endswith("_pipe") or (
            format_name in ("image2", "gif") and max(1, stream.frames) == 1
        )
        self.expected_frames = self._estimate()

    def _take_shape(self, first: av.VideoFrame) -> None:
        check_size(self.name, first.height, first.width)
        self._orientation: Orientation = orientation_of(first)
        aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio or Fraction(1)
        self.height, self.width = first.height, first.width
        self.pixel_aspect = float(aspect) if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else 1.0
        if self._orientation.transposed:
            self.height, self.width = self.width, self.height
            self.pixel_aspect = 1 / self.pixel_aspect

    @property
    def error(self) -> str | None:
        """Why reading stopped, where it was not at an end."""
        return self._demux_error

    @property
    def is_endless(self) -> bool:
        """Whether nothing says how long it lasts."""
        return not self._container.duration

    def close(self) -> None:
        try:
            self._frames.close()
        except ValueError:
            return  # another thread is blocked inside the decoder: freeing it under that thread would crash
        self._container.close()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        ended = False
        try:
            timed = timeline(self._stamped_frames(), self._interval, self._clock_may_jump)
            for index, (moment, frame) in enumerate(timed):
                time = float(moment)
                shown_for = frame.duration * frame.time_base if frame.duration and frame.time_base else 0
                self._last_time, self._last_end = time, time + float(shown_for or self._interval)
                self._count = index + 1
                yield index, time, lambda frame=frame: self._picture(frame)  # type: ignore[misc]
            ended = True
        finally:
            self.damage = self._find_damage(ended)

    def _stamped_frames(self) -> Iterator[tuple[Fraction | None, av.VideoFrame]]:
        frame, self._first = self._first, None
        while frame is not None:
            if self._timeless:
                yield self._places.popleft() if self._places else None, frame
            else:
                yield _stamp(frame), frame
            frame = next(self._frames, None)

    def _decoded_frames(self, may_refuse: bool = False) -> Generator[av.VideoFrame, None, None]:
        """may_refuse: raise NotDecodedError where the first frame is not decoded, and leave the rest unread."""
        whole = False  # from here on frames can be decoded
        try:
            for packet in self._container.demux(self._stream):
                self._packets += packet.size > 0
                if self._timeless and packet.size:
                    known = packet.dts is not None and packet.time_base is not None
                    self._places.append(packet.dts * packet.time_base if known else None)  # type: ignore[operator]
                whole = whole or packet.is_keyframe
                try:
                    frames = packet.decode()
                except av.error.EOFError:
                    return
                except av.error.FFmpegError as error:
                    if may_refuse and whole:
                        raise NotDecodedError(reason(error)) from None
                    self._bad_packets += 1
                    if self._places:
                        self._places.pop()
                    continue
                for frame in frames:
                    self._corrupt_frames += bool(frame.is_corrupt)
                    may_refuse = False
                    yield frame
        except av.error.FFmpegError as error:
            self._demux_error = reason(error)

    def _picture(self, frame: av.VideoFrame) -> Image:
        if frame.format.name == "nv12":
            # As hardware gives them: the same numbers in another order, for which FFmpeg's way to RGB rounds otherwise.
            frame = self._planar.reformat(frame, format="yuv420p", threads=1)
        if self._matrix is not None:
            frame.colorspace = self._matrix
        # One thread: the others have the model to work for.
        rgb = self._reformatter.reformat(frame, frame.width, frame.height, "rgb24", threads=1)
        # A view where rows follow each other without padding; `to_ndarray` copies always.
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)[:, : rgb.width * 3]
        image = self._orientation.upright(rows.reshape(rgb.height, rgb.width, 3))
        if image.shape[:2] != (self.height, self.width):
            image, other_shape = fit(image, self.height, self.width)
            said = (
                f"{self.name}: frames of another shape than the first are letterboxed into {self.width}x{self.height}"
            )
            if other_shape and said not in self.notices:
                self.notices.append(said)
        return image

    def _stated_duration(self) -> float | None:
        """Seconds that the container says the video track lasts."""
        seconds = stated_seconds(self._stream)
        if seconds is None and self._container.duration and len(self._container.streams) == 1:
            return self._container.duration / av.time_base
        return seconds

    def _estimate(self) -> int | None:
        duration = self._stated_duration()
        if duration is None:
            return None
        if "DURATION" in self._stream.metadata and duration > self._origin:
            duration -= self._origin  # the tag is the time of the end
        total = self._stream.frames or max(1, round(duration * self.frame_rate))
        if self._clock_may_jump and 0 < self._container.size < total * _TS_PACKET_BYTES:
            return None  # a clock that jumped
        start, end = self.selection.start, self.selection.end
        part = (min(duration, duration if end is None else end) - start) / duration
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
        found = []
        if self._demux_error:
            found.append(f"reading stopped at {self._last_time:.3f} s ({self._demux_error})")
        elif ended and self._lost_its_end():
            stated = self._stated_duration()
            longer = stated is not None and stated - self._last_end > 1e-3
            found.append(
                f"it ends at {self._last_end:.3f} s"
                + (f", but says it lasts {stated:.3f} s" if longer else "; its last bytes are missing")
            )
        if self._bad_packets:
            found.append(f"{self._bad_packets} packets could not be decoded")
        if self._corrupt_frames:
            found.append(f"{self._corrupt_frames} frames were decoded with errors")
        return f"{self.name}: the file is damaged: {', '.join(found)}" if found else None

    def _lost_its_end(self) -> bool:
        """By the file's structure where that tells; a duration alone is believed only where nothing else is known.

        It may count from 0 or from the first frame, and to the start or the end of the last one.
        """
        if self._clock_may_jump or self._container.format.name == "rtsp":
            # They announce nothing that holds: FFmpeg takes the duration from the time stamps that it finds, from a
            # list whose lengths are rounded, or from what lasts longest beside the film.
            return False
        verdict = is_cut(self.files[0]) if self.files else None
        if verdict is True:
            return True
        interval = max(float(self._interval), self._last_time / max(1, self._count - 1))
        missing = (self._stated_duration() or 0.0) - self._origin - self._last_end
        if self._timeless:
            missing += self._origin
        # How long the last picture of an AVI stays is told by the structure of its file, which a pipe does not show.
        short = missing > (_ROUNDING + (self._timeless and not self.files)) * interval
        if verdict is False:
            # Whole, and yet both its count of frames and its duration are larger (MP4 counts frames that it hides).
            return short and not self._timeless and 0 < self._packets < self._stream.frames
        return short


def _stamp(frame: av.VideoFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
