"""Decode, inference, results and encoding at the same time, in a thread each with short queues between them."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from l2g.runtime.video.live.pace import Arrivals

# Frames that wait between two stages: enough to ride out a slow frame, few enough that memory stays flat.
DEPTH = 4
_POLL_SECONDS = 0.05
# On two cores four threads took turns, and the one that all wait for, the model's, had no more than the others: without
# this a job runs at 76 to 84 % of the rate of a small model, and so at 90 to 97 %.
_NICENESS = 10
_LAST_JOIN_SECONDS = 2.0
_END = object()


def lower_priority() -> None:
    """Leave the processor to the thread that runs the model where both want it; on Linux, where threads have that."""
    if sys.platform == "linux":
        os.nice(_NICENESS)  # of this thread and those that it begins


def run_pipeline(
    produce: Iterable[Any],
    infer: Callable[[Any], Any],
    consume: Callable[[Any], None],
    depth: int = DEPTH,
    direct: bool = False,
) -> int:
    """Pass every item of `produce` through `infer` and then `consume`, in order; return how many went all the way.

    `produce` is iterated in a thread of its own, `consume` is called in another, `infer` in the caller's, where Ctrl-C
    arrives. At most `depth` items wait between two stages. direct: `produce` is iterated in the caller's thread too, an
    item at the moment when `infer` is free for it, for producers that have threads of their own. Otherwise the two
    threads have a lower priority than the caller's: here the whole counts, there what a frame waits.

    The first exception of any stage is raised here, after the threads have ended. What lies downstream of the failure
    is finished first: when decoding or inference fails, or on Ctrl-C, every inferred frame is still consumed.
    A producer that blocks for good (a camera that fell silent) cannot be stopped; it is left behind as a daemon thread.
    """
    return _Pipeline(infer, consume, depth).run(produce, direct)


def run_in_turn(
    produce: Generator[Any, None, None], infer: Callable[[Any], Any], consume: Callable[[Any], None]
) -> int:
    """`run_pipeline` without its threads: an item goes all the way, in the caller's, before the next is asked for."""
    done = 0
    with closing(produce):
        for item in produce:
            consume(infer(item))
            done += 1
    return done


class ReadAhead:
    """Iterates `items` in a thread of its own, ahead of whoever takes them.

    depth: items that wait at most; a full line holds the thread back. latest: of what waits only the newest counts,
    older ones are dropped and counted in `dropped`; nothing holds the thread back. changed: notified, with its lock
    held, whenever there is more to take or an end; several readers may share one.

    An exception of `items` is raised where its item would have come. `close` ends the thread, which closes `items`; a
    source that blocks for good is left behind as a daemon thread.
    """

    def __init__(
        self, items: Iterable[Any], depth: int = 2, latest: bool = False, changed: threading.Condition | None = None
    ):
        self.dropped = 0
        self._items, self._depth, self._latest = items, depth, latest
        self._changed = changed or threading.Condition()
        self._waiting: deque[Any] = deque()
        self._stopped = self._read_all = False
        self._error: BaseException | None = None
        self.arrivals = Arrivals()
        self._thread = threading.Thread(target=self._read, name="l2g-read", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether there is an item, or an error, to take."""
        return not self._stopped and bool(self._waiting or self._error)

    def awaited(self, now: float, within: float) -> float:
        """Until when to wait for a frame that is better than none, or than what waits; `now` where none is due."""
        if self._read_all or self._error is not None or (self._waiting and not self._latest):
            return now
        return self.arrivals.awaited(now, within)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._stopped or (self._read_all and not self.ready)

    def take(self) -> Any:
        """The next item of a reader that is ready; raises the error of `items`."""
        with self._changed:
            if not self._waiting and self._error is not None:
                self._stopped = True
                raise self._error
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._changed:
            while not self.ready:
                if self.ended:
                    raise StopIteration
                self._changed.wait(_POLL_SECONDS)
            return self.take()

    def close(self, seconds: float = _LAST_JOIN_SECONDS) -> None:
        """End the thread, for which this waits so long."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            getattr(self._items, "close", lambda: None)()
            with self._changed:
                self._read_all = True
                self._changed.notify_all()

    def _put(self, item: Any) -> bool:
        """Wait for room; False when the reader was closed meanwhile."""
        with self._changed:
            if self._latest:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= self._depth and not self._stopped:
                self._changed.wait(_POLL_SECONDS)
            self._waiting.append(item)
            self.arrivals.add(time.monotonic())
            self._changed.notify_all()
            return not self._stopped


class Behind:
    """Calls `take` with what is put, in order, in a thread of its own; at most `depth` items wait for it.

    low_priority: the thread has a lower one than the model's.

    Its first exception is raised by the next `put`, or else by `close`, and ends it: later items are passed over.
    """

    def __init__(self, take: Callable[..., object], depth: int = 2, low_priority: bool = False):
        self._take, self._low_priority = take, low_priority
        self._waiting: queue.Queue[tuple[Any, ...] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="l2g-behind", daemon=True)
        self._thread.start()

    def put(self, *item: Any) -> None:
        """Wait for room."""
        self._raise()
        self._waiting.put(item)

    def close(self) -> None:
        """Wait for the last item."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        if self._low_priority:
            lower_priority()
        while (item := self._waiting.get()) is not None:
            if self._failed:
                continue
            try:
                self._take(*item)
            except BaseException as error:
                self._error, self._failed = error, True


class _Pipeline:
    def __init__(self, infer: Callable[[Any], Any], consume: Callable[[Any], None], depth: int):
        self._infer, self._consume = infer, consume
        self._decoded: queue.Queue[Any] = queue.Queue(depth)
        self._inferred: queue.Queue[Any] = queue.Queue(depth)
        self._stop_producing = threading.Event()
        self._consumer_failed = threading.Event()
        self._errors: list[BaseException] = []
        self._consumed = 0

    def run(self, produce: Iterable[Any], direct: bool) -> int:
        producer = threading.Thread(target=self._producing, args=(produce,), name="l2g-decode", daemon=True)
        consumer = threading.Thread(target=self._consuming, args=(not direct,), name="l2g-results", daemon=True)
        if not direct:
            producer.start()
        consumer.start()
        try:
            if direct:
                self._inferring_directly(produce)
            else:
                self._inferring()
        except BaseException as error:
            self._errors.insert(0, error)
        self._stop_producing.set()
        try:
            _put(self._inferred, _END, self._consumer_failed)
            while consumer.is_alive():
                consumer.join(_POLL_SECONDS)
            if not direct:
                producer.join(_LAST_JOIN_SECONDS)
        except KeyboardInterrupt as error:
            # Ctrl-C while the last frames are being finished: give up on them.
            self._consumer_failed.set()
            self._errors.insert(0, error)
            consumer.join(_LAST_JOIN_SECONDS)
        if self._errors:
            raise self._errors[0]
        return self._consumed

    def _inferring(self) -> None:
        while not self._consumer_failed.is_set():
            try:
                item = self._decoded.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is _END:
                return
            _put(self._inferred, self._infer(item), self._consumer_failed)

    def _inferring_directly(self, produce: Iterable[Any]) -> None:
        try:
            for item in produce:
                if not _put(self._inferred, self._infer(item), self._consumer_failed):
                    return
        finally:
            getattr(produce, "close", lambda: None)()

    def _producing(self, produce: Iterable[Any]) -> None:
        try:
            lower_priority()
            for item in produce:
                if not _put(self._decoded, item, self._stop_producing):
                    return
        except BaseException as error:
            self._errors.append(error)
        finally:
            # A generator that is left in the middle is closed here, in the thread that ran it.
            getattr(produce, "close", lambda: None)()
            _put(self._decoded, _END, self._stop_producing)

    def _consuming(self, low_priority: bool) -> None:
        try:
            if low_priority:
                lower_priority()
            while not self._consumer_failed.is_set():
                try:
                    item = self._inferred.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if item is _END:
                    return
                self._consume(item)
                self._consumed += 1
        except BaseException as error:
            self._errors.append(error)
            self._consumer_failed.set()


def _put(target: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    """Wait for room; False when `stop` was set meanwhile."""
    while not stop.is_set():
        try:
            target.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
