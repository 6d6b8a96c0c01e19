"""What a worker does: holds one replica of the model, and takes a video, a piece of one, or the union of its pieces."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from l2g.batch.pieces import PieceFile, PieceWriter, join_pieces
from l2g.batch.records import DAMAGED, DONE, FAILED, Entry, Outcome, PieceDone, Result, Settings, Split, Task
from l2g.batch.records import VideoRecord as Record
from l2g.batch.store import PIECES, finished, local_copy, open_store
from l2g.errors import L2GError, VideoError
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import ARTIFACT_SUFFIXES, open_backend
from l2g.runtime.panoptic.options import check_task
from l2g.runtime.video.job import FlowOptions, JobSummary, process_video
from l2g.runtime.video.lane import OutputOptions
from l2g.runtime.video.live.address import without_password
from l2g.runtime.video.live.watcher import Watcher
from l2g.runtime.video.run_folder import fingerprint
from l2g.runtime.video.source import NothingSelectedError, Selection, VideoSource, open_source


class Replica:
    """One model and the store. `do` never raises for what is wrong with a video: that is its outcome."""

    def __init__(self, settings: Settings, output: str, threads: int | None):
        self._settings, self._threads = settings, threads
        self._store = open_store(output)
        self._backends: dict[bool, Backend] = {}
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def ready(self) -> str:
        """Opens the model, so that what is wrong with it is known before the first video; who this is."""
        task = check_task(None, self._backend(False).contract)
        if self._settings.piece and task != "instances":
            raise L2GError(
                f"{self._settings.model}: gives {task} maps, and --piece joins tracks alone; leave out --piece"
            )
        return self._worker

    def do(self, task: Task) -> Result:
        """Settle a task. Raises OSError where the store fails, which may go by."""
        try:
            there = None if task.piece else finished(self._store, task.entry.name)
            if there is not None and there.source == without_password(task.entry.source):
                return Outcome(there, before=True)
            if task.join:
                return self._join(task)
            return self._piece(task) if task.pieces else self._video(task)
        except L2GError as error:
            return Outcome(Record(*_named(task), FAILED, error=str(error), attempts=task.attempt, worker=self._worker))

    def _video(self, task: Task) -> Outcome | Split:
        settings = self._settings
        with ExitStack() as stack:
            source = stack.enter_context(self._source(task.entry, settings.selection()))
            pieces = pieces_of(source, settings)
            if pieces > 1:
                return Split(pieces)
            folder = stack.enter_context(self._store.stage(task.entry.name))
            summary = self._process(source, folder, None)
            return self._commit(folder, task, summary)

    def _commit(self, folder: Path, task: Task, summary: JobSummary) -> Outcome:
        record = Record(
            *_named(task),
            DAMAGED if summary.damage else DONE,
            summary.frames,
            summary.tracks,
            round(summary.seconds, 3),
            summary.damage,
            summary.notices,
            summary.resets,
            max(1, task.pieces),
            task.attempt,
            self._worker,
        )
        if self._store.commit(folder, record):
            return Outcome(record)
        return Outcome(finished(self._store, record.name) or record, before=True)

    def _piece(self, task: Task) -> PieceDone:
        settings, key = self._settings, piece_key(task.entry, task.piece, task.pieces)
        if self._store.read(key) is not None:
            return PieceDone()
        start = task.piece * settings.piece
        end = None if task.piece + 1 == task.pieces else start + settings.piece + settings.overlap
        with (
            self._source(task.entry, Selection(start, end, settings.stride, settings.start)) as source,
            self._store.stage(task.entry.name) as folder,
        ):
            folder.mkdir(parents=True)
            with PieceWriter(folder / "piece") as writer:
                try:
                    summary = self._process(source, folder / "video", writer)
                except NothingSelectedError:
                    # How long a video is, is an estimate, and all of a piece may be damaged.
                    summary = JobSummary(0, 0.0, 0, (), source.damage, False, tuple(source.notices))
                writer.end(summary, source.unreadable)
            self._store.put(folder / "piece", key)
        return PieceDone()

    def _join(self, task: Task) -> Outcome:
        started = time.perf_counter()
        with self._store.stage(task.entry.name) as folder, ExitStack() as stack:
            scratch = folder.with_name(f"{folder.name}.pieces")
            scratch.mkdir(parents=True)
            stack.callback(_remove, scratch)
            pieces = []
            for number in range(task.pieces):
                content = self._store.read(piece_key(task.entry, number, task.pieces))
                if content is None:
                    raise VideoError(f"{task.entry.source}: piece {number} of {task.pieces} is gone; run it again")
                (scratch / str(number)).write_bytes(content)
                pieces.append(PieceFile(scratch / str(number)))
            folder.mkdir()
            names = self._backend(False).contract.class_names
            summary = join_pieces(pieces, folder, names, self._settings.piece, task.entry.source)
            outcome = self._commit(
                folder, task, replace(summary, seconds=summary.seconds + time.perf_counter() - started)
            )
        self._store.forget(pieces_key(task.entry))
        return outcome

    def _process(self, source: VideoSource, folder: Path, watcher: Watcher | None) -> JobSummary:
        settings = self._settings
        return process_video(
            self._backend(source.is_portrait),
            source,
            folder,
            parameters=settings.tracking(),
            top_k=settings.top_k,
            overlay=settings.overlay,
            style=settings.style(),
            cuts=settings.cuts,
            flow=FlowOptions(stall=0, overlap=self._threads != 1),
            output=OutputOptions(results=watcher is None),
            watcher=watcher,
        )

    @contextmanager
    def _source(self, entry: Entry, selection: Selection) -> Iterator[VideoSource]:
        with local_copy(entry.source) as path:
            try:
                rate, threads = self._settings.picture_rate, 1 if self._threads == 1 else None
                with open_source(path, selection, rate, threads=threads) as source:
                    if source.is_live:
                        raise VideoError(f"{entry.source}: is live and has no end; take l2g run")
                    yield source
            except L2GError as error:
                # A copy's own path says nothing to anybody.
                raise VideoError(str(error).replace(path, entry.source)) from None

    def _backend(self, portrait: bool) -> Backend:
        """Of a checkpoint upright videos have a canvas of their own, as in `l2g run`."""
        settings = self._settings
        portrait = portrait and settings.canvas is None and not settings.model.lower().endswith(ARTIFACT_SUFFIXES)
        if portrait not in self._backends:
            canvas = settings.canvas
            self._backends[portrait] = open_backend(
                settings.model,
                top_k=None,
                canvas=(canvas[0], canvas[1]) if canvas else None,
                portrait=portrait,
                library=settings.library,
                device=settings.device,
                precision=settings.precision,
                compile=settings.compile,
                fp32_blocks=settings.fp32_blocks,
                threads=self._threads,
                num_queries=settings.num_queries,
                num_heads=settings.num_heads,
                box_init=settings.box_init,
                class_names=settings.class_names,
            )
        return self._backends[portrait]


def pieces_of(source: VideoSource, settings: Settings) -> int:
    """How many pieces a video is cut into: 1 unless `--piece` is given and it is longer than one and its overlap."""
    frames = source.expected_frames
    if not settings.piece or frames is None or not source.frame_rate:
        return 1
    seconds = frames * settings.stride / source.frame_rate
    return max(1, math.ceil((seconds - settings.overlap) / settings.piece - 1e-6))


def pieces_key(entry: Entry) -> str:
    """Of a source's own: two may have one name until one of them is refused."""
    return f"{PIECES}/{entry.name}/{fingerprint(entry.source)}"


def piece_key(entry: Entry, piece: int, pieces: int) -> str:
    return f"{pieces_key(entry)}/{piece}-{pieces}.jsonl"


def _named(task: Task) -> tuple[str, str]:
    return task.entry.name, task.entry.source


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
