"""Keeping up with a live source: what is over is passed over, and when the next frame is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from l2g.runtime.video.sources.base import VideoFrame, VideoSource

# Frames whose times run so much faster than the clock waited somewhere; for so many seconds at most they are passed
# over, since a stream may come faster than its times say for ever.
FASTER, LONGEST_CATCH_UP = 2.0, 2.0
# With so many frames since a source began to be opened some of them may wait.
FEWEST_WAITING = 2.0

# The usual spacing is a running mean with this memory; a gap of more than so many of them tells nothing of it.
_MEMORY, _GAP = 0.8, 3.0
# A frame is awaited for this share of the spacing beyond the moment when it is due.
_LATE = 0.25


def from_now_on(source: VideoSource, passed_over: Callable[[], None]) -> Iterator[VideoFrame]:
    """The frames of a source without those that waited before anybody took them; the newest of these is given.

    So many came while a live source was opened, or opened again, and while the model was loaded. They come at once, one
    after the other; what follows has to be waited for. Of a source that is not live every frame is given.
    """
    held: VideoFrame | None = None
    connection, until, asked = -1, 0.0, 0.0
    for frame in source:
        now = time.monotonic()
        if frame.connection != connection:
            connection, until = frame.connection, now + LONGEST_CATCH_UP
            waiting = 0.0 if source.since is None else (now - source.since) * source.frame_rate
            if source.is_live and waiting >= FEWEST_WAITING:
                held, asked = frame, now
                continue
        if held is not None:
            if now < until and frame.time - held.time > FASTER * (now - asked):
                passed_over()
                held, asked = frame, now
                continue
            yield held
            held = None
        yield frame
    if held is not None:
        yield held


class Arrivals:
    """When the next frame of a source is due, by when the last ones came."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._spacing: float | None = None

    def add(self, now: float) -> None:
        """A frame came now, on the monotonic clock."""
        spacing = None if self._last is None else now - self._last
        self._last = now
        if spacing is None:
            return
        if self._spacing is None:
            self._spacing = spacing
        elif spacing < _GAP * self._spacing:
            self._spacing = _MEMORY * self._spacing + (1 - _MEMORY) * spacing

    def due(self, now: float, until: float) -> bool:
        """Whether one may still come before `until`; True where too few came to tell."""
        if self._last is None or self._spacing is None:
            return True
        due = self._last + self._spacing
        return due <= until and now <= due + _LATE * self._spacing
