"""A source that goes on for ever: opened and read with a limit of time, and opened again where it is lost."""

from __future__ import annotations

import atexit
import math
import os
import queue
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from l2g.errors import VideoError
from l2g.runtime.video.live.address import GSTREAMER, Address, LiveOptions, ffmpeg_options
from l2g.runtime.video.sources.base import Image, Selection, VideoSource
from l2g.runtime.video.sources.container import Opening, VideoFile

if TYPE_CHECKING:
    from l2g.runtime.video.live.gstreamer import GStreamerSource

Connection: TypeAlias = "VideoFile | GStreamerSource"

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
    it lasts, end where they end, also when they were not there at first; so does what is away at the end of the
    selection. What happens to it is told to `say`, or kept in `notices` where nobody listens.

    Opening begins at once and goes on in the background. `ready` waits for the first attempt, and only then is it like
    any source; where that fails, `seek` goes on in the same way as after a loss, and `await_open` waits for it.
    """

    def __init__(
        self,
        address: Address,
        selection: Selection,
        options: LiveOptions,
        track: int | None = None,
        say: Callable[[str], None] | None = None,
    ):
        super().__init__(address.name, selection)
        _LIVING.add(self)
        self.say = say
        self._address, self._options, self._track = address, options, track
        self._stopped = threading.Event()
        self._indices = 0
        self._began = time.monotonic()
        self._opening = self._start()
        self._connected: Connection | None = None
        self._sought = threading.Event()

    def ready(self) -> LiveSource:
        """Wait for the first attempt to open it. VideoError where that fails."""
        first = self._await(self._opening)
        self._take(first)
        self.is_live = not self._ends(first)
        self.expected_frames = None if self.is_live else first.expected_frames
        return self

    def seek(self, error: VideoError) -> None:
        """Go on trying in the background after a first attempt that failed; raises `error` where that is no use."""
        if self._address.kind == "pipe" or self._options.reconnect == 0:
            raise error
        self.is_open, self.is_live = False, True
        threading.Thread(target=self._seek, args=(str(error),), name="l2g-seek", daemon=True).start()

    def await_open(self) -> None:
        if not self.is_open:
            self._sought.wait()
            if not self.is_open:
                raise VideoError(self.damage or f"{self.name}: was not there until the end")

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        if self._connected is not None:
            self._connected.close()

    def _take(self, source: Connection) -> None:
        """Be what was opened."""
        self._connected = source
        self.height, self.width, self.pixel_aspect = source.height, source.width, source.pixel_aspect
        self.frame_rate, self.part = source.frame_rate, source.part
        self.notices += source.notices
        self.is_open = True

    def _ends(self, source: Connection) -> bool:
        """Whether what was opened is over where it ends."""
        kind = self._address.kind
        return kind == "pipe" or (kind == "stream" and not source.is_endless)

    def _seek(self, why: str) -> None:
        self._tell(f"is tried again{self._at_most()}: {why.removeprefix(f'{self.name}: ')}")
        found, _ = self._reconnect(why, 0)
        if found is not None:
            self._take(found)
        self._sought.set()

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        began, base, attempts = time.monotonic(), 0.0, 0
        self._began = began
        last = -1.0
        while self._connected is not None:
            source, since, ends = self._connected, time.monotonic(), self._ends(self._connected)
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
            if ends:
                self.damage = source.damage or (f"{self.name}: ended early ({source.error})" if source.error else None)
                return
            attempts = 0 if time.monotonic() - since > _STEADY_SECONDS else attempts
            why, limit = source.error or "it ended", self._options.reconnect
            self._tell(f"lost ({why}); " + ("it is not opened again" if limit == 0 else "it is opened again"))
            self._connected, attempts = self._reconnect(why, attempts)
            self.connection += self._connected is not None
            base = max(time.monotonic() - began, last)

    def _fitted(self, source: Connection, read: Callable[[], Image]) -> Callable[[], Image]:
        """Pictures of a source that came back in another size, letterboxed into the first one's."""
        if (source.height, source.width) == (self.height, self.width):
            return read
        from l2g.runtime.video.sources.fit import fit

        return lambda: fit(read(), self.height, self.width)[0]

    def _reconnect(self, why: str, attempts: int) -> tuple[Connection | None, int]:
        """The source again and how often it was tried, or None where it is given up or its selection is over."""
        lost, limit, end = time.monotonic(), self._options.reconnect, self.selection.end
        over = math.inf if end is None else self._began + end
        while limit is None or attempts < limit:
            pause = min(self._options.longest_pause, _FIRST_PAUSE * 2 ** min(attempts, 20))
            if self._stopped.wait(min(pause, max(0.0, over - time.monotonic()))) or time.monotonic() >= over:
                return None, attempts
            attempts += 1
            try:
                found = self._await(self._start())
            except VideoError as error:
                why = str(error)
                continue
            again = "again " if self.is_open else ""
            self._tell(f"found {again}after {time.monotonic() - lost:.1f} s, attempt {attempts}")
            return found, attempts
        why = why.removeprefix(f"{self.name}: ")
        self.damage = f"{self.name}: given up after {attempts} attempts to open it again ({why})"
        return None, attempts

    def _at_most(self) -> str:
        limit = self._options.reconnect
        return "" if limit is None else f", {limit} times at most (--reconnect)"

    def _tell(self, text: str) -> None:
        if self.say is not None:
            self.say(f"{self.name}: {text}")
        else:
            self.notices.append(f"{self.name}: {text}")
            del self.notices[:-_MOST_NOTICES]

    def _start(self) -> _Opening:
        self.since = time.monotonic()
        opening = _Opening(self._connection)
        threading.Thread(target=opening.work, name="l2g-open", daemon=True).start()
        return opening

    def _await(self, opening: _Opening) -> Connection:
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

    def _connection(self) -> Connection:
        options = self._options
        if self._address.format == GSTREAMER:
            from l2g.runtime.video.live.gstreamer import GStreamerSource

            return GStreamerSource(self.name, self._address.url, options, self._stopped)
        address: str | BinaryIO = self._address.url
        limits: tuple[float, float] | None = (options.open_timeout, options.read_timeout)
        if self._address.kind == "pipe":
            number = sys.stdin.buffer.fileno() if address == "-" else os.open(str(address), os.O_RDONLY | os.O_NONBLOCK)
            address = cast(BinaryIO, TimedPipe(number, options, self._stopped, address != "-"))
            limits = None
        opening = Opening(self._address.format, ffmpeg_options(self._address, options), limits, self._address.mend)
        # The selection tells how many frames to expect; it is made of this source's own times.
        return VideoFile(self.name, address, self.selection, track=self._track, opening=opening)


# Those that may have a thread inside a decoder when Python ends.
_LIVING: weakref.WeakSet[LiveSource] = weakref.WeakSet()
_LAST_SECONDS = 0.5


def _end_all() -> None:
    """Let every thread come back from FFmpeg before Python ends.

    While FFmpeg waits, PyAV looks at the time ten times a second, for which it takes the interpreter's lock, also when
    there is none any more: the process then ends by a segmentation fault, after its files are closed and with another
    exit code. So at the very end all time is over for it.
    """
    import av.container.core as core

    for source in list(_LIVING):
        source.stop()
    core.time = SimpleNamespace(monotonic=lambda: math.inf)  # type: ignore[attr-defined]
    limit = time.monotonic() + _LAST_SECONDS
    for thread in threading.enumerate():
        if thread.daemon and thread.name.startswith("l2g-"):
            thread.join(max(0.0, limit - time.monotonic()))


atexit.register(_end_all)
# Kept of what happened.
_MOST_NOTICES = 100


class _Opening:
    """An opening in a thread of its own; one that was given up closes what it still gets."""

    def __init__(self, connect: Callable[[], Connection]):
        self.answers: queue.Queue[Connection | BaseException] = queue.Queue()
        self.given_up = threading.Event()
        self._connect = connect

    def work(self) -> None:
        try:
            answer: Connection | BaseException = self._connect()
        except BaseException as error:
            answer = error
        if self.given_up.is_set() and isinstance(answer, VideoSource):
            answer.close()
        self.answers.put(answer)


class TimedPipe:
    """A pipe whose `read` ends with an error after too long without data, and with the end once `stopped` is set.

    number: of the open file. What is said to be its own is closed with it.
    """

    def __init__(self, number: int, options: LiveOptions, stopped: threading.Event, owned: bool):
        self._number, self._stopped, self._owned = number, stopped, owned
        self._seconds, self._read_timeout = options.open_timeout, options.read_timeout

    def read(self, size: int = 1 << 16) -> bytes:
        limit = time.monotonic() + self._seconds
        while not self._stopped.is_set():
            if select.select([self._number], [], [], _POLL_SECONDS)[0]:
                self._seconds = self._read_timeout
                return os.read(self._number, size)
            if time.monotonic() > limit:
                raise TimeoutError(f"nothing came for {self._seconds:g} s")
        return b""

    def close(self) -> None:
        if self._owned:
            os.close(self._number)
            self._owned = False
