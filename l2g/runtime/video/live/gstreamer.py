"""A pipeline of GStreamer as a source: what FFmpeg cannot open, such as the camera of a Jetson."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from l2g.errors import VideoError
from l2g.runtime.video.live.address import LiveOptions, without_password
from l2g.runtime.video.sources.base import Image, Selection, VideoSource, check_size
from l2g.runtime.video.sources.clock import timeline

# What turns frames of any kind into ours; those that nobody takes hold the pipeline back.
_END = " ! videoconvert ! video/x-raw,format=RGB ! appsink name=l2g sync=false max-buffers=2"
_POLL_NANOSECONDS = 50_000_000
_RATE = Fraction(30)


class GStreamerSource(VideoSource):
    """Frames of a pipeline as `gst-launch-1.0` takes it, without its sink; an `appsink` at its end is ours.

    Opened once its first frame is there. error: why it stopped, where that was not its end. VideoError where it cannot
    be made, gives no frame within the time to open, or PyGObject is missing.
    """

    def __init__(self, name: str, pipeline: str, options: LiveOptions, stopped: threading.Event):
        super().__init__(name, Selection())
        self._gst = gst = _gstreamer(name)
        self.error: str | None = None
        self._stopped, self._read_timeout = stopped, options.read_timeout
        elements = re.sub(r"!\s*appsink\b[^!]*$", "", pipeline).rstrip().rstrip("!")
        try:
            self._pipeline = gst.parse_launch(elements + _END)
        except Exception as error:  # GLib's own kind, which is imported late
            raise VideoError(
                f"{name}: no pipeline ({without_password(getattr(error, 'message', str(error)))})"
            ) from None
        self._sink = self._pipeline.get_by_name("l2g")
        # A live pipeline has nothing to show before it plays.
        self.is_endless = self._pipeline.set_state(gst.State.PAUSED) == gst.StateChangeReturn.NO_PREROLL
        self._pipeline.set_state(gst.State.PLAYING)
        self._first = self._pull(options.open_timeout)
        if self._first is None:
            self.close()
            raise VideoError(f"{name}: gives no frame ({self.error or 'it ended'}); does gst-launch-1.0 run it?")
        facts = self._first.get_caps().get_structure(0)
        self.height, self.width = _size(self._first)
        check_size(name, self.height, self.width)
        rate, aspect = (_fraction(facts, field) for field in ("framerate", "pixel-aspect-ratio"))
        self._interval = 1 / (rate or _RATE)
        self.frame_rate, self.pixel_aspect = float(rate or _RATE), float(aspect or 1)

    def close(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        for index, (moment, sample) in enumerate(timeline(self._samples(), self._interval, True)):
            yield index, float(moment), lambda sample=sample: _picture(sample)  # type: ignore[misc]

    def _samples(self) -> Iterator[tuple[Fraction | None, Any]]:
        sample = self._first
        while sample is not None:
            stamp = sample.get_buffer().pts
            yield None if stamp == self._gst.CLOCK_TIME_NONE else Fraction(stamp, 10**9), sample
            sample = self._pull(self._read_timeout)

    def _pull(self, seconds: float) -> Any:
        """The next sample; None at an end, whose reason is in `error` then."""
        limit = time.monotonic() + seconds
        bus, kinds = self._pipeline.get_bus(), self._gst.MessageType.ERROR
        while not self._stopped.is_set():
            sample = self._sink.emit("try-pull-sample", _POLL_NANOSECONDS)
            if sample is not None:
                return sample
            if (message := bus.pop_filtered(kinds)) is not None:
                self.error = without_password(message.parse_error()[0].message)
                return None
            if self._sink.get_property("eos"):
                return None
            if time.monotonic() > limit:
                self.error = "nothing came for too long"
                return None
        return None


def _gstreamer(name: str) -> Any:
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError):
        raise VideoError(
            f"{name}: a GStreamer pipeline needs GStreamer and PyGObject (Debian and Ubuntu: apt install python3-gi "
            "gir1.2-gst-plugins-base-1.0; a virtual environment sees them if made with --system-site-packages)"
        ) from None
    Gst.init(None)
    return Gst


def _size(sample: Any) -> tuple[int, int]:
    facts = sample.get_caps().get_structure(0)
    return facts.get_int("height").value, facts.get_int("width").value


def _fraction(facts: Any, field: str) -> Fraction | None:
    found, above, below = facts.get_fraction(field)
    return Fraction(above, below) if found and above > 0 and below > 0 else None


def _picture(sample: Any) -> Image:
    """uint8 [H, W, 3] RGB; GStreamer's rows begin at multiples of four bytes."""
    (height, width), buffer = _size(sample), sample.get_buffer()
    data = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
    row = (3 * width + 3) // 4 * 4
    return np.ascontiguousarray(data[: height * row].reshape(height, row)[:, : 3 * width]).reshape(height, width, 3)
