"""Keeping up with a live source: what is over is passed over, and when the next frame is due."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

from l2g.runtime.video.sources.base import VideoFrame, VideoSource

# Frames whose times run so much faster than the clock waited somewhere; for so many seconds at most they are passed
# over, since a stream may come faster than its times say for ever.
FASTER, LONGEST_CATCH_UP = 2.0, 2.0
# With so many frames since a source began to be opened some of them may wait.
FEWEST_WAITING = 2.0

# A model that is free takes a frame that has waited, unless a newer one is due within this share of the spacing: it
# costs a little of the rate (at most a seventh where the model takes two frames or more) and makes results younger by
# up to 0.6 of a frame.
NEARLY_DUE = 0.4
# The usual spacing is the median of so many arrivals, and is believed from so many on.
_REMEMBERED, _FEWEST = 9, 4
# A frame that is late is awaited for this share of the spacing.
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
        self._times: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, now: float) -> None:
        """A frame came now, on the monotonic clock."""
        self._times.append(now)

    @property
    def spacing(self) -> float | None:
        """The usual seconds between two of them; None where too few came to tell."""
        return median(b - a for a, b in pairwise(self._times)) if len(self._times) >= _FEWEST else None

    def awaited(self, now: float, within: float) -> float:
        """Until when to wait for the next one if it is due within so many seconds from now; `now` where it is not.

        A camera is not punctual: beyond the moment when it is due it is awaited for `_LATE` of the spacing. Where too
        few came to tell, all of `within`.
        """
        spacing = self.spacing
        if spacing is None:
            return now + within
        due = self._times[-1] + spacing
        return max(now, due + _LATE * spacing) if due <= now + within else now
