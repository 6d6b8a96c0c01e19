"""Decode, inference and post-processing at the same time, in three threads with short queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Frames that wait between two stages: enough to ride out a slow frame, few enough that memory stays flat.
DEPTH = 4
_POLL_SECONDS = 0.05
_LAST_JOIN_SECONDS = 2.0
_END = object()


def run_pipeline(
    produce: Iterable[Any], infer: Callable[[Any], Any], consume: Callable[[Any], None], depth: int = DEPTH
) -> int:
    """Pass every item of `produce` through `infer` and then `consume`, in order; return how many went all the way.

    `produce` is iterated in a thread of its own, `consume` is called in another, `infer` in the caller's, where Ctrl-C
    arrives. At most `depth` items wait between two stages.

    The first exception of any stage is raised here, after the threads have ended. What lies downstream of the failure
    is finished first: when decoding or inference fails, or on Ctrl-C, every inferred frame is still consumed.
    A producer that blocks for good (a camera that fell silent) cannot be stopped; it is left behind as a daemon thread.
    """
    return _Pipeline(infer, consume, depth).run(produce)


class ReadAhead:
    """Iterates `items` in a thread of its own, at most `depth` items ahead of whoever iterates this.

    An exception of `items` is raised where its item would have come. `close` ends the thread, which closes `items`; a
    source that blocks for good is left behind as a daemon thread.
    """

    def __init__(self, items: Iterable[Any], depth: int = 2):
        self._items = items
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="l2g-read", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is not _END:
                return item
            self._stop.set()
            if self._error is not None:
                raise self._error
        raise StopIteration

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_LAST_JOIN_SECONDS)

    def _read(self) -> None:
        try:
            for item in self._items:
                if not _put(self._queue, item, self._stop):
                    return
        except BaseException as error:
            self._error = error
        finally:
            getattr(self._items, "close", lambda: None)()
            _put(self._queue, _END, self._stop)


class _Pipeline:
    def __init__(self, infer: Callable[[Any], Any], consume: Callable[[Any], None], depth: int):
        self._infer, self._consume = infer, consume
        self._decoded: queue.Queue[Any] = queue.Queue(depth)
        self._inferred: queue.Queue[Any] = queue.Queue(depth)
        self._stop_producing = threading.Event()
        self._consumer_failed = threading.Event()
        self._errors: list[BaseException] = []
        self._consumed = 0

    def run(self, produce: Iterable[Any]) -> int:
        producer = threading.Thread(target=self._producing, args=(produce,), name="l2g-decode", daemon=True)
        consumer = threading.Thread(target=self._consuming, name="l2g-results", daemon=True)
        producer.start()
        consumer.start()
        try:
            self._inferring()
        except BaseException as error:
            self._errors.insert(0, error)
        self._stop_producing.set()
        try:
            _put(self._inferred, _END, self._consumer_failed)
            while consumer.is_alive():
                consumer.join(_POLL_SECONDS)
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

    def _producing(self, produce: Iterable[Any]) -> None:
        try:
            for item in produce:
                if not _put(self._decoded, item, self._stop_producing):
                    return
        except BaseException as error:
            self._errors.append(error)
        finally:
            # A generator that is left in the middle is closed here, in the thread that ran it.
            getattr(produce, "close", lambda: None)()
            _put(self._decoded, _END, self._stop_producing)

    def _consuming(self) -> None:
        try:
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
