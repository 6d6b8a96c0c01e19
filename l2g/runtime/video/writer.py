"""H.264 video that browsers play: 8-bit 4:2:0, index at the front, true times at any frame rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
import cv2
import numpy as np

from l2g.errors import VideoError
from l2g.files import write_atomically
from l2g.runtime.arrays import ByteArray
from l2g.runtime.video.coding.hardware import find_encoder
from l2g.runtime.video.run_folder import KEY_FRAMES, RunFile, Target, packets, pending_file
from l2g.runtime.video.source import ONE_CORE_PIXELS

# A fragment for every frame, written out at once.
_GROWING = {"movflags": "+frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
# The picture is cut for so many threads of the encoder, and the bytes depend on how: one number on every machine.
_LARGE_THREADS = 4
# From red, green, blue and 1 to U and V of BT.601 in limited range; OpenCV takes an eighth of the time for three rows.
_CHROMA = np.zeros((3, 4))
_CHROMA[0] = *(224 / 255 / 1.772 * np.array((-0.299, -0.587, 0.886))), 128
_CHROMA[1] = *(224 / 255 / 1.402 * np.array((0.701, -0.587, -0.114))), 128
# OpenCV's number of the AVX-512 that x264 has code for; processors with it have all of AVX2's kin.
_AVX512 = 256
# MPEG's clock: every common frame rate is a whole number of its ticks.
TICKS_PER_SECOND = 90_000


class VideoWriter:
    """Writes uint8 [height, width, 3] RGB frames with their times to an MP4 file; a context manager.

    The file appears under its name when it is closed, also after an exception: what was written is kept. Until then it
    grows in fragments, so that what a crash leaves plays up to its last frames. A run that goes on begins with the
    frames that its first part wrote. H.264 with 4:2:0 chroma needs even sides, so odd ones repeat their last row or
    column. `frame_rate` is the mean rate, a hint for the encoder and the length of the last frame. `pixel_aspect`:
    width of a pixel divided by its height. encoder: "nvenc", "vaapi", "v4l2m2m" or "auto" (the first that is there);
    where it is not, which `notice` then says, and by default the processor.
    """

    def __init__(
        self,
        target: Target,
        height: int,
        width: int,
        frame_rate: float,
        pixel_aspect: float = 1.0,
        encoder: str | None = None,
    ):
        self.notice: str | None = None
        self._asked = encoder
        self._pending = pending_file(target)
        self.path = self._pending.path
        self.frames = self.size = 0  # bytes of what is encoded
        self._closed = self._broken = False
        self._size = (height, width)
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._last_tick = -1
        try:
            if isinstance(self._pending, RunFile):
                self._pending.open(0).close()
            self._container = av.open(str(self._pending.temporary), "w", format="mp4", options=_GROWING)
        except (av.error.FFmpegError, OSError) as error:
            self._pending.discard()
            raise self._pending.refusal(error) from None
        try:
            self._stream = self._add_stream(height + height % 2, width + width % 2, frame_rate)
            # H.264 holds ratios of 16 bits.
            self._stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
            if isinstance(self._pending, RunFile) and (saved := self._pending.saved) and saved.overlay:
                self._begin_with(saved.overlay, saved.frames)
        except BaseException:
            self._container.close()
            self._pending.discard()
            raise

    def _begin_with(self, path: Path, frames: int) -> None:
        """The first frames of a file that another of this class wrote, as they are."""
        from av.bitstream import BitStreamFilterContext

        try:
            with av.open(str(path)) as source:
                # As the encoder gives them: start codes in place of lengths, parameters in the header alone.
                filters = "h264_mp4toannexb,filter_units=remove_types=7|8"
                converter = BitStreamFilterContext(filters, source.streams.video[0])
                for packet in source.demux(video=0):
                    if self.frames == frames or not packet.size or packet.is_corrupt:
                        break
                    for converted in converter.filter(packet):
                        assert converted.pts is not None
                        self._last_tick = int(converted.pts * source.streams.video[0].time_base * TICKS_PER_SECOND)
                        converted.stream = self._stream
                        self._container.mux(converted)
                    self.frames += 1
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: cannot be gone on with ({error}); start again without --resume") from None

    def _add_stream(self, height: int, width: int, frame_rate: float) -> av.VideoStream:
        options = {
            # 720p, one EPYC core: 2.4 ms a frame, "veryfast" 11 ms and half the bytes. A small model takes 10 ms, and
            # the encoder must not be what it waits for. A constant rate factor looks through every frame once more to
            # choose its step, 1 ms, for the same picture: 20 and this step are 42 dB and 1.9 MB on a real 272p clip.
            "preset": "ultrafast",
            "qp": "22",
            # Without B-frames decoding and display order agree, and the index holds the true length of odd timings.
            "bf": "0",
            "g": str(KEY_FRAMES),
            # Named colours: players otherwise guess BT.601 or BT.709 by the size of the picture.
            "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=smpte170m:fullrange=off" + _instructions(),
        }
        rate = Fraction(frame_rate).limit_denominator(1001) or Fraction(1, 1001)
        encoder, self.notice = find_encoder(self._asked, height, width, rate)
        if encoder:
            options = {**encoder.options, "g": str(KEY_FRAMES)}
            added = self._container.add_stream(encoder.codec, rate=rate, options=options, **encoder.stream_options())
            stream = cast(av.VideoStream, added)
        else:
            try:
                stream = self._container.add_stream("libx264", rate=rate, options=options)
            except (av.error.FFmpegError, ValueError) as error:
                raise VideoError(f"this PyAV has no libx264 encoder ({error}); pip install av") from None
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if not encoder:
            # Of pictures that one core can do in time, its threads would take turns with the model's.
            stream.codec_context.thread_count = 1 if height * width <= ONE_CORE_PIXELS else _LARGE_THREADS
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS_PER_SECOND)
        return stream

    def write(self, image: ByteArray, time: float) -> None:
        """Append a frame shown from `time` (seconds, not before the last frame's). VideoError when that fails."""
        if image.shape != (*self._size, 3) or image.dtype != np.uint8:
            raise VideoError(
                f"{self.path}: frame is {image.dtype} {list(image.shape)}, expected uint8 {[*self._size, 3]}"
            )
        if any(after for _, after in self._padding):
            image = np.pad(image, self._padding, mode="edge")
        # PyAV 18 takes the height of an array that it need not copy to be a multiple of 4.
        whole = image.shape[0] % 4 == 0
        frame_of = av.VideoFrame.from_numpy_buffer if whole else av.VideoFrame.from_ndarray
        frame = frame_of(planar_yuv(image), format="yuv420p")
        # Two frames never share a tick: an encoder refuses times that do not grow.
        tick = max(round(time * TICKS_PER_SECOND), self._last_tick + 1)
        frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
        self._last_tick = tick
        self._encode(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; without a single frame nothing is left behind."""
        if self._closed:
            return
        self._closed = True
        try:
            try:
                if self.frames and not self._broken:
                    self._encode(None)
            finally:
                self._close_container()
        except BaseException:
            # Of a full disk: what of the file plays is no less for what could not be added.
            self._finish()
            raise
        self._finish()

    def _close_container(self) -> None:
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{self.path}: writing failed ({error}); is the disk full?") from None

    def _finish(self) -> None:
        """From the file of fragments to one with its index at the front, under its name."""
        if self.frames and isinstance(self._pending, RunFile) and self._pending.kept:
            return
        if not self.frames:
            self._pending.discard()
            return
        try:
            with write_atomically(self.path, VideoError) as temporary:
                if not _with_index(self._pending.temporary, temporary):
                    raise ValueError("no frame came as far as the disk")
        except (av.error.FFmpegError, VideoError, LookupError, ValueError):
            # No room for both: players take the fragments, too, where there are any. The last two errors are PyAV's for
            # a file without a whole header.
            if packets(Path(self._pending.temporary)):
                self._pending.commit()
                return
        self._pending.discard()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self.size += packet.size
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            # PyAV 18 ends the process when a container whose header could not be written is given a second packet.
            self._broken = True
            raise VideoError(f"{self.path}: writing failed ({error}); is the disk full?") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _with_index(fragments: Path, output: Path) -> int:
    """The same frames in a file that browsers begin to play before they have it all; how many these are."""
    options, frames = {"movflags": "+faststart"}, 0
    with av.open(str(fragments)) as source, av.open(str(output), "w", format="mp4", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and not packet.is_corrupt:  # the last one of a full disk is cut off
                packet.stream = stream
                target.mux(packet)
                frames += 1
    return frames


def _instructions() -> str:
    """What x264 is told of the processor: the bytes are the same, but with its AVX-512 a 720p frame takes 2.2 ms on a
    Xeon with AMX and with AVX2 1.9."""
    return ":asm=AVX2,FMA3,BMI2,LZCNT" if cv2.checkHardwareSupport(_AVX512) else ""


def planar_yuv(image: ByteArray) -> ByteArray:
    """RGB uint8 [H, W, 3], H and W even, -> uint8 [H * 3 / 2, W]: Y, then U and V at half size, BT.601 limited range.

    OpenCV takes 1 ms for a 720p frame where FFmpeg's scaler takes 4, but its own chroma is that of every second pixel:
    here it is the mean of four.
    """
    height, width = image.shape[:2]
    planes = cast(ByteArray, cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420))
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(half, _CHROMA)
    for channel, plane in enumerate(planes[height:].reshape(2, height // 2, width // 2)):
        cv2.extractChannel(chroma, channel, plane)
    return planes
