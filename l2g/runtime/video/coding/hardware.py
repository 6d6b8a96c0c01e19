"""Decoders and encoders in hardware, by an option and where a machine has them; what they give is the processor's.

A decoder of H.264 or H.265 is exact, so frames are the same to the bit. Encoders differ: their overlay is another file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel

from l2g.errors import VideoError
from l2g.runtime.video.sources.base import reason

SOFTWARE, AUTO = "software", "auto"
# FFmpeg's kinds of devices. "auto" tries them in this order.
DECODERS = {"nvdec": "cuda", "vaapi": "vaapi"}
# What FFmpeg and PyAV raise where a device, its driver or a codec of this build is missing.
MISSING = (av.error.FFmpegError, OSError, ValueError, RuntimeError, NotImplementedError, TypeError)


@dataclass(frozen=True)
class Encoder:
    """An H.264 encoder of FFmpeg, its options, and the kind of device that frames are brought to, if it needs that."""

    codec: str
    options: Mapping[str, str]
    device: str | None = None

    def stream_options(self) -> dict[str, Any]:
        """What `add_stream` and `CodecContext.create` take besides the codec."""
        return {"hwaccel": HWAccel(self.device)} if self.device else {}


# Without B-frames and with a constant quantiser, as the processor's, where there is one to be set.
ENCODERS = {
    "nvenc": Encoder("h264_nvenc", {"preset": "p1", "rc": "constqp", "qp": "22", "bf": "0"}),
    "vaapi": Encoder("h264_vaapi", {"rc_mode": "CQP", "qp": "22", "bf": "0"}, "vaapi"),
    "v4l2m2m": Encoder("h264_v4l2m2m", {"b": "8M"}),
}


@dataclass(frozen=True)
class Choice:
    """What to try, in order. explicit: one was named, so that a user is told where it is not there."""

    names: tuple[str, ...] = ()
    explicit: bool = False

    @classmethod
    def of(cls, asked: str | None, known: Mapping[str, Any], what: str) -> Choice:
        """asked: a name, "auto" (all of them in turn), "software" or None. VideoError for another."""
        if asked in (None, SOFTWARE):
            return cls()
        if asked == AUTO:
            return cls(tuple(known))
        if asked not in known:
            raise VideoError(f"{what} '{asked}' found, one of {', '.join((SOFTWARE, AUTO, *known))} expected")
        return cls((asked,), True)


class NotDecodedError(Exception):
    """A decoder in hardware is not there for this stream, or does not decode it."""


def with_decoder(name: str | None, begin: Callable[[HWAccel | None], None]) -> str | None:
    """`begin` with a decoder in hardware; with None, the processor, where that raises `NotDecodedError` or none is
    asked for. A sentence that says so where one was named."""
    choice, why = Choice.of(name, DECODERS, "decoder"), ""
    for each in choice.names:
        try:
            begin(HWAccel(DECODERS[each], allow_software_fallback=False))
            return None
        except NotDecodedError as error:
            why = str(error)
    begin(None)
    return f"no decoder {name} for it here ({why}): decoded by the processor" if choice.explicit else None


def find_encoder(name: str | None, height: int, width: int, rate: Fraction) -> tuple[Encoder | None, str | None]:
    """The encoder in hardware that opens for frames of this size; None for the processor's, with a sentence that says
    so where one was named."""
    choice, why = Choice.of(name, ENCODERS, "encoder"), ""
    for each in choice.names:
        encoder = ENCODERS[each]
        try:
            context: Any = av.CodecContext.create(encoder.codec, "w", **encoder.stream_options())
            context.width, context.height, context.pix_fmt = width, height, "yuv420p"
            context.time_base, context.framerate = 1 / rate, rate
            context.options = dict(encoder.options)
            context.open()
            return encoder, None
        except MISSING as error:
            why = reason(error)
    return None, f"no encoder {name} here ({why}): encoded by the processor" if choice.explicit else None
