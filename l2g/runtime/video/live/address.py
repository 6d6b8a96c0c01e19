"""Which inputs are live, and how FFmpeg opens them: cameras of this machine, streams of the network, pipes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from l2g.errors import VideoError
from l2g.runtime.video.sources.base import shown

# A password is not for logs: in a URL up to the last "@" before its path, for not everybody escapes those within, or by
# its name; among an element's properties by its name, with a value as GStreamer quotes and escapes it. A path may hold
# such a name too, and stays.
_SECRET = re.compile(r"(?<=://)([^/?#\s:]*):[^/?#\s]*@")
_URL = re.compile(r"://\S+")
_NAME = r"(?:-pw|pass(?:word|phrase|wd)|pwd|(?<![a-z\d])pass)"
_IN_URL = re.compile(rf"""({_NAME}=)[^&\s"']+""", re.IGNORECASE)
_PROPERTY = re.compile(
    rf"""(?<=[\s"'])([\w-]*{_NAME}\s*=\s*)("(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?:\\.|\S)+)""",
    re.IGNORECASE | re.DOTALL,
)
_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp", "http", "https", "rist", "unix")
TRANSPORTS = ("tcp", "udp")
# What is no format of FFmpeg's, and the form of a pipeline.
GSTREAMER, PIPELINE = "gstreamer", re.compile(r"\s!\s")
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)$")
# Before the name of a camera of this machine.
WEBCAM = "camera:"


@dataclass(frozen=True)
class LiveOptions:
    """How long a live source is waited for, and how it is found again.

    open_timeout, read_timeout: seconds. reconnect: how often in a row it is opened again before it is given up; 0
    never, None without end. longest_pause: seconds between two attempts, which begin at a quarter of a second and
    double. transport: of RTSP, "tcp" or "udp". options: FFmpeg's own, over those made here.
    """

    open_timeout: float = 10.0
    read_timeout: float = 10.0
    reconnect: int | None = 10
    longest_pause: float = 10.0
    transport: str = "tcp"
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("open_timeout", "read_timeout", "longest_pause"):
            if not 0 < getattr(self, name) <= 3600:
                raise VideoError(f"{name.replace('_', ' ')} of {getattr(self, name):g} s found, up to 3600 expected")
        if self.reconnect is not None and self.reconnect < 0:
            raise VideoError(f"{self.reconnect} reconnections found, 0 or more expected")
        if self.transport not in TRANSPORTS:
            raise VideoError(f"transport '{self.transport}' found, one of {', '.join(TRANSPORTS)} expected")


@dataclass(frozen=True)
class Address:
    """What a live input is.

    name: for messages. url: for FFmpeg, or a pipeline. format: FFmpeg's device, or `GSTREAMER`; None for streams.
    kind: "camera", "stream" or "pipe".
    """

    name: str
    url: str
    format: str | None
    kind: str

    @property
    def mend(self) -> str:
        """What a user may look at where it cannot be opened."""
        if self.kind == "camera":
            return "is the camera connected, and used by no other program?"
        if self.kind == "pipe":
            return "does the program before the pipe write a video?"
        return "is the address right, and does the source send?"


def live_address(text: str) -> Address | None:
    """The live input that `text` names: a camera's number, name or device, a URL, a pipeline of GStreamer, "-" or a
    pipe; None for files."""
    if text == "-":
        return Address("stdin", "-", None, "pipe")
    if _is_kind(text, stat.S_ISFIFO):
        return Address(shown(text), text, None, "pipe")
    if os.path.exists(text):
        return Address(text, text, "v4l2", "camera") if _DEVICE.match(text) and _is_kind(text, stat.S_ISCHR) else None
    if text.isdecimal() or text.startswith(WEBCAM):
        from l2g.runtime.video.live.webcams import find_webcam

        webcam = find_webcam(text.removeprefix(WEBCAM))
        return Address(f"camera {text.removeprefix(WEBCAM)} ({webcam.name})", webcam.url, webcam.format, "camera")
    if _DEVICE.match(text):
        raise VideoError(f"{text}: no such camera; is it connected?")
    if PIPELINE.search(text):
        return Address(told(text), text, GSTREAMER, "stream")
    scheme = re.match(r"([a-z]+)://", text.lower())
    if scheme and scheme[1] in _SCHEMES:
        return Address(told(text), text, None, "stream")
    return None


def told(text: str) -> str:
    """What messages call a URL, or a pipeline: that by its first element. Without a password."""
    # In this order: a password may hold what parts the elements.
    return PIPELINE.split(without_password(text))[0].strip()


def without_password(text: str) -> str:
    """An address, or a message that holds some, with `***` for what is secret."""
    text = _URL.sub(lambda url: _IN_URL.sub(r"\1***", url[0]), _SECRET.sub(r"\1:***@", text))
    return _PROPERTY.sub(r"\1***", text)


def ffmpeg_options(address: Address, options: LiveOptions) -> dict[str, str]:
    """FFmpeg's own options for an address: what it would otherwise wait for or hold back."""
    scheme = address.url.split("://")[0].lower()
    microseconds = str(round(1e6 * options.read_timeout))
    made: dict[str, str] = {}
    if scheme in ("rtsp", "rtsps"):
        made = {"rtsp_transport": options.transport, "timeout": microseconds}
    elif scheme in ("http", "https"):
        made = {"rw_timeout": microseconds}
    elif scheme == "udp":
        # Packets that come in while a frame is decoded wait here; too many are lost, and are no end.
        made = {"fifo_size": "1000000", "overrun_nonfatal": "1", "timeout": microseconds}
    elif address.format == "avfoundation":
        made = {"framerate": "30"}  # its default, 29.97, is one that no camera has
    if address.kind == "stream":
        # FFmpeg looks at five seconds of a stream to tell its frame rate, which nothing here needs so exactly.
        made["analyzeduration"] = "1000000"
    return {**made, **options.options}


def _is_kind(path: str, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
