"""The streams of one model instance by correlation id: a step's requests in, their tracks out; the silent go.

The server keeps no state for its Python backend and does not tell it of a sequence that it gave up, so that the state
is held here, and ends here too: with END, with a new START, and after the idle time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from l2g.errors import L2GError
from l2g.runtime.arrays import ByteArray
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.video.sources.picture_file import decode_picture, to_8_bits, used_bits
from l2g.serving.wire import NOTHING
from l2g.tracker import Tracker

# The server's clock of a sequence begins when a request comes in, this one's when it is computed; beyond that so many
# seconds, so that the state never goes before the sequence.
GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class StreamRequest:
    """One sequence's part of a step.

    correlation: of the sequence. ready: False where the direct strategy fills a slot that has no request. frame: uint8
    [H, W, 3] RGB; picture: a coded one (JPEG, PNG, ...); neither where a sequence only ends. time: seconds from the
    stream's first frame, None when it comes. reset: forget the history before this frame, as `Tracker.reset`.
    """

    correlation: int
    start: bool = False
    end: bool = False
    ready: bool = True
    frame: ByteArray | None = None
    picture: bytes | None = None
    time: float | None = None
    reset: bool = False


class ServedStreams:
    """Steps a `Tracker` whose streams are sequences.

    idle: seconds without a frame after which a stream is forgotten, `GRACE_SECONDS` later. Steps come from one thread;
    `expire` and `count` may be called from another.
    """

    def __init__(self, tracker: Tracker, idle: float, clock: Callable[[], float] = time.monotonic):
        self._tracker, self._idle, self._clock = tracker, idle, clock
        self._seen: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Streams whose state is held."""
        return len(self._seen)

    def step(self, requests: Sequence[StreamRequest]) -> list[FrameResult | L2GError]:
        """What each request is answered with, in their order: an error is of its stream alone, which stays as it was.

        Where the model itself fails, all streams of the step end.
        """
        with self._lock:
            self._expire()
            frames: dict[Hashable, ByteArray] = {}
            answers: list[FrameResult | L2GError] = []
            for request in requests:
                try:
                    frame = self._prepared(request)
                    if frame is not None:
                        if request.correlation in frames:
                            raise L2GError(f"sequence {request.correlation} is twice in one batch")
                        frames[request.correlation] = frame
                    answers.append(NOTHING)
                except L2GError as error:
                    answers.append(error)
            results = self._advance(frames, requests)
            for place, request in enumerate(requests):
                if request.correlation in results and answers[place] is NOTHING and request.ready:
                    answers[place] = results[request.correlation]
                if request.ready and request.end:
                    self._forget(request.correlation)
            return answers

    def expire(self) -> None:
        """Forget the streams that have been silent for too long."""
        with self._lock:
            self._expire()

    def close(self) -> None:
        with self._lock:
            self._seen.clear()
            self._tracker.close()

    def _prepared(self, request: StreamRequest) -> ByteArray | None:
        """The frame that the model is given; a stream that starts is new."""
        if not request.ready:
            return None
        stream = request.correlation
        if request.start:
            self._forget(stream)
        elif stream not in self._seen:
            raise L2GError(
                f"sequence {stream} has no state here: it ended, was idle for longer than {self._idle:g} s, or its "
                "first request failed; start it anew"
            )
        if request.reset:
            self._tracker.reset(stream)
        frame = request.frame if request.picture is None else _decoded(request.picture)
        if frame is None:
            if not request.end:
                raise L2GError("a request without FRAME and PICTURE found, one of them expected")
            return None
        self._tracker.check(frame, stream)
        self._seen[stream] = self._clock()
        return frame

    def _advance(
        self, frames: dict[Hashable, ByteArray], requests: Sequence[StreamRequest]
    ) -> dict[Hashable, FrameResult | L2GError]:
        if not frames:
            return {}
        times: dict[Hashable, float] = {
            r.correlation: r.time for r in requests if r.time is not None and r.correlation in frames
        }
        try:
            return {**self._tracker.update_many(frames, times)}
        except L2GError as error:
            for stream in frames:
                self._forget(stream)
            return dict.fromkeys(frames, error)

    def _expire(self) -> None:
        oldest = self._clock() - self._idle - GRACE_SECONDS
        for stream in [stream for stream, seen in self._seen.items() if seen < oldest]:
            self._forget(stream)

    def _forget(self, stream: Hashable) -> None:
        self._tracker.leave(stream)
        self._seen.pop(stream, None)


def _decoded(data: bytes) -> ByteArray:
    """As a run decodes a folder of pictures."""
    image = decode_picture(data)
    if image is None:
        raise L2GError(f"PICTURE: {len(data)} bytes found that are no whole picture; a JPEG or PNG file expected")
    return to_8_bits(image, used_bits(image)) if image.dtype == np.uint16 else image
