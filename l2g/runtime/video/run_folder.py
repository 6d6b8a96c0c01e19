"""The output folder of one video: what is not finished yet lies in a folder inside it, from which a run can go on.

While a run lasts its files grow in `unfinished/`: the lines of `frames.jsonl`, an overlay that plays up to its last
second, and every so many frames what the model remembers of the stream. At the end each file moves to its own name;
also where the run fails, unless an earlier run's results are there: these stay, and the new ones in `unfinished/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from l2g.errors import VideoError
from l2g.files import PendingFile, expect_file_or_nothing, locked, write_atomically, write_bytes
from l2g.runtime.arrays import Array

UNFINISHED = "unfinished"
# Frames from one memory to the next, and from one key frame of the overlay to the next: what is encoded after a key
# frame does not depend on what was before, so that a run that goes on there writes the same pictures.
KEY_FRAMES = 120
_RESULTS = ("frames.jsonl", "results.json", "panoptic.jsonl", "pred.json")
_MAPS = "pan_pred"
_SPOOL, _BEFORE = "results.spool", "overlay.before.mp4"
# An archive of arrays, followed by its SHA-256.
_MEMORY, _SUM_BYTES = "memory-{:09d}.npz", 32
# The overlay lags behind the memories by what its encoder holds: so many are kept, and the last that fits counts.
_MEMORIES = 2


@dataclass(frozen=True)
class Saved:
    """Where a run goes on: after so many frames. memory: arrays by name (`Lane.memory`). line_bytes, spool_bytes: what
    these files held then. overlay: a file whose first frames are the overlay's, None without one."""

    frames: int
    memory: Mapping[str, Array]
    line_bytes: int
    spool_bytes: int
    overlay: Path | None


class RunFolder:
    """One run's folder, held for this process alone until `close`.

    facts: what the run depends on, as JSON has it. resume: go on where an unfinished run of the same facts stopped; one
    of other facts is a VideoError. Without it what an unfinished run has left is removed. keeps: where this run fails,
    the results of one before it stay. lines: the name of its file of a line a frame.

    Raises VideoError where another run holds the folder, it cannot be written, or something that no run wrote is in
    the way.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, object],
        resume: bool = False,
        keeps: bool = True,
        lines: str = "frames.jsonl",
    ):
        self.folder, self.work = Path(folder), Path(folder) / UNFINISHED
        self.lines = lines
        self.saved: Saved | None = None
        self.unended = self._kept = False
        # Results of a run before this one.
        self.earlier = keeps and any((self.folder / name).exists() for name in _RESULTS)
        self._facts = json.dumps(facts, sort_keys=True, default=str)
        self._held = ExitStack()
        with self._held:
            self._held.enter_context(locked(self.folder, VideoError))
            self._make()
            if resume:
                self.saved = self._find()
            if self.saved is None:
                self._clear()
            self._held = self._held.pop_all()

    def file(self, name: str) -> RunFile:
        return RunFile(self, name)

    @property
    def kept(self) -> bool:
        """Whether what was done stays unfinished."""
        return self._kept

    def fail(self, frames: int) -> Path:
        """The run ends early by an error, after so many frames: where these are to be found."""
        self.unended = True
        self._kept |= self.earlier or not frames
        return self.work if self._kept else self.folder

    def save(self, frames: int, memory: Mapping[str, Array], line_bytes: int, spool_bytes: int) -> None:
        """Keep what a run needs to go on from here."""
        arrays = dict(memory)
        arrays["run.facts"] = np.frombuffer(self._facts.encode(), np.uint8)
        arrays["run.numbers"] = np.array([frames, line_bytes, spool_bytes], np.int64)
        path, content = self.work / _MEMORY.format(frames), io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_bytes(path, content.getvalue() + hashlib.sha256(content.getvalue()).digest(), VideoError)
        for old in sorted(self.work.glob("memory-*.npz"))[:-_MEMORIES]:
            old.unlink()

    def close(self, frames: int) -> None:
        """Give the folder free. frames: how many were done, by a run that this one went on with too; nothing unfinished
        is left without any, or where the run came to its end; after one that did not (`unended`) enough to go on."""
        with self._held:
            frames = frames or (self.saved.frames if self.saved else 0)
            resumable = next(self.work.glob("memory-*.npz"), None) is not None
            if not frames or not (self._kept or (self.unended and resumable)):
                self._clear()
                with contextlib.suppress(OSError):
                    self.work.rmdir()

    def _make(self) -> None:
        try:
            self.work.mkdir(exist_ok=True)
        except OSError as error:
            raise VideoError(f"{self.work}: cannot be made ({error.strerror}); give another output folder") from None
        if self.work.is_symlink():
            raise VideoError(f"{self.work}: a link, expected a folder of l2g's own; remove it")

    def _clear(self) -> None:
        """Remove what runs left; what they did not write stays."""
        for pattern in (
            *_RESULTS,
            "overlay*.mp4",
            "overlay.png",
            _SPOOL,
            "memory-*.npz",
            ".*.part",
            f"{_MAPS}/*/*.png",
        ):
            for path in self.work.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()
        for path in (*self.work.glob(f"{_MAPS}/*"), self.work / _MAPS):
            with contextlib.suppress(OSError):
                path.rmdir()

    def _find(self) -> Saved | None:
        """The last memory for which the files hold enough."""
        memories = sorted(self.work.glob("memory-*.npz"), reverse=True)
        for path in memories:
            try:
                content = path.read_bytes()
                # Whatever is not as it was written is none.
                if hashlib.sha256(content[:-_SUM_BYTES]).digest() != content[-_SUM_BYTES:]:
                    continue
                with np.load(io.BytesIO(content[:-_SUM_BYTES]), allow_pickle=False) as data:
                    memory = {name: data[name] for name in data.files if not name.startswith("run.")}
                    facts, (frames, lines, spool) = bytes(data["run.facts"]).decode(), data["run.numbers"].tolist()
            except (OSError, ValueError, KeyError, EOFError):
                continue
            self._expect_same(facts)
            wanted = json.loads(facts).get("overlay")
            overlay = self._overlay(frames) if wanted else None
            if self._take_lines(lines) and _size(self.work / _SPOOL) >= spool and (overlay or not wanted):
                return Saved(frames, memory, lines, spool, overlay)
        return None

    def _expect_same(self, facts: str) -> None:
        there, here = json.loads(facts), json.loads(self._facts)
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                if name not in there:
                    raise VideoError(
                        f"{self.work}: of a run that an earlier version began, which did not keep its {name}; "
                        "start again without --resume"
                    )
                raise VideoError(
                    f"{self.work}: of a run with another {name} ({there.get(name)!s:.60} there, "
                    f"{here.get(name)!s:.60} here); resume with what that run had, or start again without --resume"
                )

    def _take_lines(self, size: int) -> bool:
        """Whether the first lines are there; those of a run that was interrupted lie under their own name."""
        lines, done = self.work / self.lines, self.folder / self.lines
        if _size(lines) < size <= _size(done):
            import shutil  # here: it loads a good deal that a run without a first part does not need

            with write_atomically(lines, VideoError) as temporary:
                shutil.copyfile(done, temporary)
        return _size(lines) >= size

    def _overlay(self, frames: int) -> Path | None:
        """A file that begins with so many frames of the overlay."""
        before = self.work / _BEFORE
        for path in (self.work / "overlay.mp4", before, self.folder / "overlay.mp4"):
            if packets(path) >= frames:
                if path.parent == self.work and path != before:
                    os.replace(path, before)
                    return before
                return path
        return None


class RunFile:
    """A file of a run: written in `unfinished/`, moved to its own name by `commit`, unless the run has failed. Stands
    where a `PendingFile` may."""

    def __init__(self, run: RunFolder, name: str):
        self.run, self.path, self.temporary = run, run.folder / name, run.work / name
        try:
            expect_file_or_nothing(self.path)
        except OSError as error:
            reason = f"{self.path}: cannot be written ({error.strerror}); give another output folder"
            raise VideoError(reason) from None

    @property
    def saved(self) -> Saved | None:
        return self.run.saved

    @property
    def kept(self) -> bool:
        """Whether what was written stays unfinished."""
        return self.run.kept

    def open(self, size: int) -> BinaryIO:
        """The unfinished file, empty or, where a run goes on, its first `size` bytes; writes go to its end."""
        return self._open(self.temporary, size)

    def open_spool(self, size: int) -> BinaryIO:
        """A file of the run's own that never gets a name."""
        return self._open(self.run.work / _SPOOL, size)

    def _open(self, path: Path, size: int) -> BinaryIO:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            os.ftruncate(handle, size)
            os.lseek(handle, size, os.SEEK_SET)
        except OSError as error:
            raise self.refusal(error) from None
        return os.fdopen(handle, "r+b")

    def commit(self) -> None:
        if self.kept:
            return
        try:
            with open(self.temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self.path)
        except OSError as reason:
            raise self.refusal(reason) from None

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)

    def refusal(self, reason: Exception) -> VideoError:
        text = getattr(reason, "strerror", None) or reason
        return VideoError(f"{self.path}: cannot be written ({text}); make room, or check the folder's permissions")


Target = str | os.PathLike[str] | PendingFile | RunFile


def pending_file(target: Target) -> PendingFile | RunFile:
    """What writers write to: a path becomes a pending file."""
    return target if isinstance(target, (PendingFile, RunFile)) else PendingFile(target, VideoError)


def packets(path: Path) -> int:
    """Frames that a video file holds, counted without decoding, up to where it is damaged; 0 for none."""
    import av
    import av.error

    count = 0
    with contextlib.suppress(av.error.FFmpegError, OSError, LookupError, ValueError), av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.is_corrupt:  # cut off
                break
            count += packet.size > 0
    return count


def fingerprint(text: str) -> str:
    """A short name of a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
