"""A source that goes on for ever: opened and read with a limit of time, and opened again where it is lost."""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from l2g.errors import VideoError
from l2g.runtime.video.live.address import Address, LiveOptions, ffmpeg_options
from l2g.runtime.video.sources.base import Image, Selection, VideoSource
from l2g.runtime.video.sources.container import Opening, VideoFile

_POLL_SECONDS = 0.05
_FIRST_PAUSE = 0.25
# A connection that lasted so long counts as found again, and attempts are counted anew.
_STEADY_SECONDS = 5.0
# Beyond the limits that FFmpeg itself is given, until an opening that does not come back is given up.
_GRACE = 1.0


class LiveSource(VideoSource):
    """A camera, a stream or a pipe, opened by FFmpeg in a thread of its own, so that it can be given up at any moment.

    When it is lost it is opened again with growing pauses, `options.reconnect` times in a row; frames then carry a
    higher `connection`. Their times go on by the clock of this machine across the gap. Pipes, and what states how long
    it lasts, end where they end. What happens to it is told to `say`, or kept in `notices` where nobody listens.

    Opening begins at once and goes on in the background; `ready` waits for it, and only then is it like any source.
    """

    def __init__(self, address: Address, selection: Selection, options: LiveOptions, track: int | None = None):
        super().__init__(address.name, selection)
        self._address, self._options, self._track = address, options, track
        self._stopped = threading.Event()
        self._indices = 0
        self._opening = self._start()
        self._connected: VideoFile | None = None

    def ready(self) -> LiveSource:
        """Wait until it is open. VideoError where it cannot be opened."""
        first = self._connected = self._await(self._opening)
        address = self._address
        self.height, self.width, self.pixel_aspect = first.height, first.width, first.pixel_aspect
        self.frame_rate = first.frame_rate
        self.is_live = address.kind == "camera" or (address.kind == "stream" and first.is_endless)
        self.expected_frames = None if self.is_live else first.expected_frames
        self.notices += first.notices
        return self

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        if self._connected is not None:
            self._connected.close()

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        began, base, attempts = time.monotonic(), 0.0, 0
        last = -1.0
        while self._connected is not None:
            source, since = self._connected, time.monotonic()
            for _, moment, read in source._decode():
                if self._stopped.is_set():
                    return
                last = max(base + moment, last + 1e-6)
                yield self._indices, last, self._fitted(source, read)
                self._indices += 1
            self._connected = None
            source.close()
            if self._stopped.is_set():
                return
            if not self.is_live:
                self.damage = f"{self.name}: ended early ({source.error})" if source.error else None
                return
            attempts = 0 if time.monotonic() - since > _STEADY_SECONDS else attempts
            self._connected, attempts = self._reconnect(source.error or "it ended", attempts)
            base = max(time.monotonic() - began, last)

    def _fitted(self, source: VideoFile, read: Callable[[], Image]) -> Callable[[], Image]:
        """Pictures of a source that came back in another size, letterboxed into the first one's."""
        if (source.height, source.width) == (self.height, self.width):
            return read
        from l2g.runtime.video.sources.fit import fit

        return lambda: fit(read(), self.height, self.width)[0]

    def _reconnect(self, why: str, attempts: int) -> tuple[VideoFile | None, int]:
        """The source again and how often it was tried, or None where it is given up."""
        lost, limit = time.monotonic(), self._options.reconnect
        self._tell(f"lost ({why}); " + ("it is not opened again" if limit == 0 else "it is opened again"))
        while limit is None or attempts < limit:
            pause = min(self._options.longest_pause, _FIRST_PAUSE * 2 ** min(attempts, 20))
            if self._stopped.wait(pause):
                return None, attempts
            attempts += 1
            try:
                found = self._await(self._start())
            except VideoError as error:
                why = str(error)
                continue
            self.connection += 1
            self._tell(f"found again after {time.monotonic() - lost:.1f} s, attempt {attempts}")
            return found, attempts
        self.damage = f"{self.name}: given up after {attempts} attempts to open it again ({why})"
        return None, attempts

    def _tell(self, text: str) -> None:
        if self.say is not None:
            self.say(f"{self.name}: {text}")
        else:
            self.notices.append(f"{self.name}: {text}")
            del self.notices[:-_MOST_NOTICES]

    def _start(self) -> _Opening:
        opening = _Opening(self._connection)
        threading.Thread(target=opening.work, name="l2g-open", daemon=True).start()
        return opening

    def _await(self, opening: _Opening) -> VideoFile:
        """What an opening gives; gives up when it does not come back, or when the run ends meanwhile."""
        limit = time.monotonic() + self._options.open_timeout + _GRACE
        try:
            while time.monotonic() < limit and not self._stopped.is_set():
                try:
                    answer = opening.answers.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        finally:
            opening.given_up.set()
        raise VideoError(
            f"{self.name}: no answer within {self._options.open_timeout:g} s; {self._address.mend} "
            "(--open-timeout waits longer)"
        )

    def _connection(self) -> VideoFile:
        options = self._options
        address: str | BinaryIO = self._address.url
        limits: tuple[float, float] | None = (options.open_timeout, options.read_timeout)
        if address == "-":
            address, limits = cast(BinaryIO, TimedPipe(sys.stdin.buffer, options.read_timeout, self._stopped)), None
        opening = Opening(self._address.format, ffmpeg_options(self._address, options), limits, self._address.mend)
        return VideoFile(self.name, address, Selection(), track=self._track, opening=opening)


# Kept of what happened.
_MOST_NOTICES = 100


class _Opening:
    """An opening in a thread of its own; one that was given up closes what it still gets."""

    def __init__(self, connect: Callable[[], VideoFile]):
        self.answers: queue.Queue[VideoFile | BaseException] = queue.Queue()
        self.given_up = threading.Event()
        self._connect = connect

    def work(self) -> None:
        try:
            answer: VideoFile | BaseException = self._connect()
        except BaseException as error:
            answer = error
        if self.given_up.is_set() and isinstance(answer, VideoFile):
            answer.close()
        self.answers.put(answer)


class TimedPipe:
    """A pipe whose `read` ends with an error after `seconds` without data, and with the end once `stopped` is set."""

    def __init__(self, file: Any, seconds: float, stopped: threading.Event):
        self._number, self._seconds, self._stopped = file.fileno(), seconds, stopped

    def read(self, size: int = 1 << 16) -> bytes:
        limit = time.monotonic() + self._seconds
        while not self._stopped.is_set():
            if select.select([self._number], [], [], _POLL_SECONDS)[0]:
                return os.read(self._number, size)
            if time.monotonic() > limit:
                raise TimeoutError(f"nothing came for {self._seconds:g} s")
        return b""

    def close(self) -> None:
        """The pipe is the process's own, and stays open."""
