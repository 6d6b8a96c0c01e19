"""Tasks to workers, one at a time each: what is lost is given out again, and nothing is settled twice.

Actors rather than Ray Data: a task is a video, its results are files, and what comes back are some hundred bytes. The
driver asks for the next video when a worker is free, so that its memory does not know how many there are; a block of
rows that is retried as a whole, and the lineage that would make it again, have no use here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from l2g.batch.records import FAILED, Entry, Outcome, PieceDone, Result, Split, Task, VideoRecord
from l2g.errors import L2GError
from l2g.runtime.video.live.address import without_password

# So many workers may die in a row without a task between them: then it is not the videos.
MOST_DEATHS = 20
# A second copy of a task is begun when it has taken so many times the mean, and at least so many seconds.
SLOW, SLOW_SECONDS = 4.0, 10.0
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Resources:
    """workers: replicas. threads: CPUs of each. gpus: of each. retries: of a task whose worker died."""

    workers: int
    threads: int = 1
    gpus: float = 0.0
    retries: int = 2
    copies: bool = True


@dataclass(frozen=True)
class _Running:
    """What a worker has in hand: None while it starts."""

    worker: Any
    task: Task | None
    started: float


class Scheduler:
    """Gives tasks to workers until all are settled.

    make: what a worker holds, an object with `ready()` and `do(task)`; called in the worker's process.
    settled: called with every outcome. say: told of what a user should know now. started: called when a worker has
    started, before it is given anything.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        resources: Resources,
        settled: Callable[[Outcome], object],
        say: Callable[[str], object],
        started: Callable[[], object] = lambda: None,
    ):
        import ray

        self._ray, self._make, self._resources = ray, make, resources
        self._settled, self._say, self._started = settled, say, started
        self._running: dict[Any, _Running] = {}
        self._idle: list[Any] = []
        self._waiting: deque[Task] = deque()
        # Copies of a task that run, by its key; what is in here is not settled.
        self._open: Counter[tuple[int, int, int, bool]] = Counter()
        self._pieces_left: dict[Entry, int] = {}
        self._deaths = 0
        self._tasks, self._seconds = 0, 0.0
        self._actor: Any = ray.remote(
            num_cpus=resources.threads, num_gpus=resources.gpus, max_restarts=0, max_task_retries=0
        )(_Worker)

    def run(self, entries: Iterator[Entry]) -> None:
        """Settle every entry. L2GError where no worker can be started."""
        try:
            self._run(replace(entry, number=number) for number, entry in enumerate(entries))
        finally:
            for worker in (*self._idle, *(each.worker for each in self._running.values())):
                self._ray.kill(worker)

    def _run(self, entries: Iterator[Entry]) -> None:
        for _ in range(self._resources.workers):
            self._start_worker()
        ended = False
        quiet_since = time.monotonic()
        while True:
            while self._idle:
                task = self._next(entries) if not ended else self._next(iter(()))
                if task is None:
                    ended = True
                    break
                self._submit(task)
            if ended and not self._open and not self._waiting:
                return
            done, _ = self._ray.wait(list(self._running), timeout=_WAIT_SECONDS)
            for reference in done:
                self._take(reference)
                quiet_since = time.monotonic()
            if all(each.task is None for each in self._running.values()) and time.monotonic() - quiet_since > 60:
                self._say("no worker has started for a minute; the cluster has no room for one")
                quiet_since = time.monotonic()

    def _next(self, entries: Iterator[Entry]) -> Task | None:
        if self._waiting:
            return self._waiting.popleft()
        entry = next(entries, None)
        return Task(entry) if entry else self._slow()

    def _slow(self) -> Task | None:
        """What takes too long where it is, and has no second copy yet."""
        if not self._resources.copies or not self._tasks:
            return None
        limit = max(SLOW_SECONDS, SLOW * self._seconds / self._tasks)
        now = time.monotonic()
        for each in self._running.values():
            if each.task and now - each.started > limit and self._open[each.task.key] == 1:
                return each.task
        return None

    def _submit(self, task: Task) -> None:
        worker = self._idle.pop()
        self._open[task.key] += 1
        self._running[worker.do.remote(task)] = _Running(worker, task, time.monotonic())

    def _start_worker(self) -> None:
        worker = self._actor.remote(self._make)
        self._running[worker.ready.remote()] = _Running(worker, None, time.monotonic())

    def _take(self, reference: Any) -> None:
        """What a worker gave, or that it is gone."""
        running = self._running.pop(reference)
        task = running.task
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # It lives, and what it did failed: the store, or a bug.
            cause = getattr(error, "cause", None)
            if task is None:
                raise cause if isinstance(cause, L2GError) else L2GError(f"a worker cannot start: {cause!r}") from None
            self._idle.append(running.worker)
            self._failed(task, f"{type(cause).__name__}: {cause}")
            return
        except self._ray.exceptions.RayError as error:
            self._lost(running, error)
            return
        self._idle.append(running.worker)
        if task is None:
            self._started()
        else:
            self._deaths = 0
            self._tasks, self._seconds = self._tasks + 1, self._seconds + time.monotonic() - running.started
            self._finish(task, result)

    def _lost(self, running: _Running, error: Exception) -> None:
        """A worker died, or its node did. It may live on where it cannot be reached; then it is ended."""
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise L2GError(
                f"{self._deaths} workers died one after the other, the last with: {_first_line(error)}; "
                "what was done is kept, and the same command goes on from here"
            )
        self._ray.kill(running.worker)
        self._start_worker()
        if running.task is not None:
            self._failed(running.task, f"its worker died ({_first_line(error)})")

    def _failed(self, task: Task, reason: str) -> None:
        if not self._is_open(task) or self._open[task.key]:
            return  # settled by another copy, or another copy still works at it
        del self._open[task.key]
        if task.attempt <= self._resources.retries:
            self._waiting.append(replace(task, attempt=task.attempt + 1))
            return
        error = f"{task.entry.source}: given up after {task.attempt} attempts: {reason}"
        record = VideoRecord(task.entry.name, task.entry.source, FAILED, error=error, attempts=task.attempt)
        self._finish_video(task, Outcome(record))

    def _is_open(self, task: Task) -> bool:
        """Whether nothing has settled it; counts this copy out."""
        if task.key not in self._open:
            return False
        self._open[task.key] -= 1
        return True

    def _finish(self, task: Task, result: Result) -> None:
        if not self._is_open(task):
            return
        del self._open[task.key]
        entry = task.entry
        if isinstance(result, Outcome):
            self._finish_video(task, result)
        elif isinstance(result, Split):
            self._pieces_left[entry] = result.pieces
            for piece in range(result.pieces):
                self._waiting.append(Task(entry, piece=piece, pieces=result.pieces))
        elif isinstance(result, PieceDone) and entry in self._pieces_left:
            self._pieces_left[entry] -= 1
            if not self._pieces_left[entry]:
                del self._pieces_left[entry]
                self._waiting.append(Task(entry, pieces=task.pieces, join=True))

    def _finish_video(self, task: Task, outcome: Outcome) -> None:
        """Of a piece that failed, the others are not begun."""
        if task.pieces and not task.join:
            if task.entry not in self._pieces_left:
                return
            del self._pieces_left[task.entry]
            self._waiting = deque(each for each in self._waiting if each.entry != task.entry)
        self._settled(outcome)


class _Worker:
    """The actor: it makes what it holds in its own process."""

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._held: Any = None

    def ready(self) -> object:
        self._held = self._make()
        return self._held.ready()

    def do(self, task: Task) -> Result:
        result: Result = self._held.do(task)
        return result


def _first_line(error: Exception) -> str:
    return without_password((str(error) or type(error).__name__).strip().splitlines()[0])
