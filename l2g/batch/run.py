"""A run over many videos: from the input's names to a manifest and a page, with workers between."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from l2g.batch.cluster import cluster
from l2g.batch.entries import entries
from l2g.batch.manifest import Manifest
from l2g.batch.page import render_page
from l2g.batch.records import DAMAGED, DONE, FAILED, Outcome, Settings, VideoRecord
from l2g.batch.scheduler import Resources, Scheduler
from l2g.batch.store import PIECES, STAGING, Store, check_output, is_url, open_store
from l2g.batch.worker import Replica
from l2g.errors import DataError, L2GError
from l2g.files import locked, parse_json, write_json, write_text
from l2g.runtime.video.live.address import without_password

SETTINGS, PAGE = "batch.json", "summary.html"
# Failures and points of the curve that the page has; more would grow with the videos.
MOST_NAMED, MOST_POINTS = 200, 200


@dataclass
class Progress:
    """What a run has done so far, in a size that does not grow with it.

    before: of the videos those that were there from an earlier run. points: (seconds, videos), evenly spaced.
    """

    total: int
    started: float = field(default_factory=time.monotonic)
    counts: dict[str, int] = field(default_factory=lambda: {DONE: 0, DAMAGED: 0, FAILED: 0})
    before: int = 0
    frames: int = 0
    work_seconds: float = 0.0
    attempts: int = 0
    named: list[VideoRecord] = field(default_factory=list)
    points: list[tuple[float, int]] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    _every: int = 1

    @property
    def videos(self) -> int:
        return sum(self.counts.values())

    def add(self, outcome: Outcome) -> None:
        record = outcome.record
        self.counts[record.status] += 1
        self.seconds = time.monotonic() - self.started
        self.before += outcome.before
        if not outcome.before:
            self.frames += record.frames
            self.work_seconds += record.seconds
            self.attempts += record.attempts
        if record.status != DONE and len(self.named) < MOST_NAMED:
            self.named.append(record)
        if self.videos % self._every == 0:
            self.points.append((self.seconds, self.videos))
            if len(self.points) > MOST_POINTS:
                self.points, self._every = self.points[1::2], 2 * self._every


def run_batch(
    settings: Settings,
    given: str,
    output: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    retries: int = 2,
    copies: bool = True,
    say: Callable[[str], object] = print,
    on_video: Callable[[int, Outcome], object] = lambda total, outcome: None,
    replica: Callable[[Settings, str, int], Any] = Replica,
) -> Progress:
    """Every video of an input through the model, its files in `output/NAME/`; what is there already stays.

    given: a folder, a pattern, a list, a file or a URL, see `entries`. address: of a Ray cluster; None is this machine.
    workers: replicas; None is one for every `threads` cores, or for each GPU. threads: of each; with 1, all that it
    does is done in one, else a video's stages overlap; None is what is there for each. gpus: of each; None is one where
    there are some. retries: of a video whose worker died. copies: whether a free worker takes a second copy of what is
    slow at the end. say: told what a user should know now. on_video: called with the number of all videos and each
    outcome. replica: makes what a worker holds, in its process.
    On Ctrl-C what was done is kept and `interrupted` says so. Raises L2GError for an input without videos, an output
    with results of other settings, and a model that cannot be opened.
    """
    for name, number, least in (
        ("workers", workers, 1),
        ("threads", threads, 1),
        ("gpus", gpus, 0),
        ("retries", retries, 0),
    ):
        if number is not None and number < least:
            raise L2GError(f"{number:g} {name} found; expected {least} or more")
    check_output(output)
    # A store's prefix has no lock: there, one run at a time is the caller's care.
    with nullcontext() if is_url(output) else locked(output):
        store = open_store(output)
        _refuse_others(store, settings, output)
        progress = Progress(sum(1 for _ in entries(given, output)))
        if not progress.total:
            told = without_password(given)
            raise DataError(f"{told}: no videos found; expected files that end in .mp4, .mov, .mkv and the like")
        store.forget(STAGING)
        try:
            with _published(store, progress, settings, given) as add:

                def settled(outcome: Outcome) -> None:
                    add(outcome)
                    if outcome.record.error and not outcome.before:
                        say(f"{outcome.record.status}: {outcome.record.error}")
                    on_video(progress.total, outcome)

                cores = (workers or 1) * (threads or 1) if workers or threads else None
                with cluster(address, cores and max(cores, len(os.sched_getaffinity(0)))):
                    resources = _resources(address, workers, threads, gpus, settings.device)
                    make = partial(replica, settings, output, resources.threads)
                    progress.started = time.monotonic()
                    # What a wrong model would leave behind is nothing at all.
                    keep = partial(_keep_settings, store, settings)
                    resources = replace(resources, retries=retries, copies=copies)
                    Scheduler(make, resources, settled, say, keep).run(entries(given, output))
                store.forget(PIECES)
        except KeyboardInterrupt:
            pass
        finally:
            store.forget(STAGING)
    return progress


@contextmanager
def _published(store: Store, progress: Progress, settings: Settings, given: str) -> Iterator[Callable[[Outcome], None]]:
    """Manifest and page, whatever ends the run; without a single video what lay there before stays."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="l2g-batch-")))

        def publish() -> None:
            if not progress.videos:
                return
            write_text(folder / PAGE, render_page(progress, settings, given))
            store.put(folder / PAGE, PAGE)

        stack.callback(publish)
        manifest = stack.enter_context(Manifest(store))

        def add(outcome: Outcome) -> None:
            manifest.add(outcome)
            progress.add(outcome)

        try:
            yield add
        except KeyboardInterrupt:
            progress.interrupted = True
            raise


def _refuse_others(store: Store, settings: Settings, output: str) -> None:
    """L2GError where the output holds results of other settings."""
    content, told = store.read(SETTINGS), without_password(output)
    if content is None:
        return
    try:
        found = Settings.from_json(parse_json(content, f"{told}/{SETTINGS}"))
    except (TypeError, ValueError) as error:
        raise DataError(f"{told}/{SETTINGS}: is not of this version ({error}); give another output") from None
    if names := settings.differences(found):
        raise L2GError(
            f"{told} holds results of a run with another {', '.join(names).replace('_', ' ')} "
            f"({names[0].replace('_', ' ')} {getattr(found, names[0])}, now {getattr(settings, names[0])}); "
            "give another output, or the same options"
        )


def _keep_settings(store: Store, settings: Settings) -> None:
    if store.read(SETTINGS) is None:
        with TemporaryDirectory(prefix="l2g-batch-") as folder:
            write_json(Path(folder) / SETTINGS, settings.to_json())
            store.put(Path(folder) / SETTINGS, SETTINGS)


def _resources(
    address: str | None, workers: int | None, threads: int | None, gpus: float | None, device: str | None
) -> Resources:
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if gpus is None:
        gpus = 1.0 if there.get("GPU", 0) >= 1 and (device or "").lower() != "cpu" else 0.0
    if workers is None:
        workers = max(1, int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1) / (threads or 1)))
    if threads is None:
        # Which machine of a cluster a worker comes to is not known. Beside a GPU one thread would keep it waiting.
        threads = max(1, int(there.get("CPU", 1) / workers)) if address is None else 2 if gpus else 1
    return Resources(workers, threads, gpus)
