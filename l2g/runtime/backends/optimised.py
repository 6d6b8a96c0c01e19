"""Graphs as ONNX Runtime optimises them, kept: it works out the same at every opening of the same file.

That is most of what opening costs: an R50 takes 0.6 s of CPU time to open and 0.2 s once it is kept, a small graph 70
and 23 ms. The numbers are the same to the bit. What is kept is for this version of ONNX Runtime on this kind of
processor, and is held to its checksum before it is used. L2G_KEEP_GRAPHS=0 keeps nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from l2g.errors import L2GError
from l2g.files import PendingFile, cache_root, sha256_of_file, write_text

# What is kept at most; the oldest use goes first.
MOST_FILES, MOST_BYTES = 16, 2 << 30

Open = Callable[[str, ort.SessionOptions], ort.InferenceSession]


class KeptGraph:
    """What is kept of one graph file. found: whether its session is of what was kept, of a graph that was found good
    when `keep` was called. Without `keep` or `discard` after `open` a file of no use is left.

    opened: makes a session of a file's name and options.
    """

    def __init__(self, path: Path, opened: Open):
        self._path, self._opened = path, opened
        self._pending: PendingFile | None = None
        self.found = False

    def open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        """The session, on a CPU. Whatever goes wrong with what is kept, the graph itself is opened."""
        kept = _kept_file(self._path)
        if kept is None:
            return self._opened(str(self._path), options)
        level = options.graph_optimization_level
        if _whole(kept):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with contextlib.suppress(Exception):  # of another build under the same version, say
                session = self._opened(str(kept), options)
                os.utime(_sum_file(kept))
                self.found = True
                return session
            options.graph_optimization_level = level
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            self._pending = PendingFile(kept, L2GError)
        except (L2GError, OSError):
            return self._opened(str(self._path), options)
        options.optimized_model_filepath = str(self._pending.temporary)
        try:
            return self._opened(str(self._path), options)
        except Exception:  # no space, say: what matters is the graph
            self.discard()
            options.optimized_model_filepath = ""
            return self._opened(str(self._path), options)
        except BaseException:
            self.discard()
            raise

    def keep(self) -> None:
        """The graph is good: the next opening is of what was made of it."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            _sum_file(pending.path).write_text(_checksum(pending.temporary))
            pending.commit()
            _make_room(pending.path.parent)
        except (L2GError, OSError, ValueError):
            pending.discard()

    def discard(self) -> None:
        if self._pending is not None:
            self._pending.discard()
            self._pending = None


def _kept_file(path: Path) -> Path | None:
    if os.environ.get("L2G_KEEP_GRAPHS") == "0":
        return None
    try:
        folder = cache_root() / "onnxruntime"
    except L2GError:
        return None
    facts = "\n".join((ort.__version__, platform.machine(), _processor()))
    return folder / f"{_sum_of(path, folder)}-{zlib.crc32(facts.encode()):08x}.onnx"


def _sum_of(path: Path, folder: Path) -> str:
    """The SHA-256 of a file, remembered for as long as its inode and its times of change are the same.

    The time of an inode's change is the system's own: whoever writes into a file, or sets its other times, moves it.
    """
    found, state = path.stat(), _state(path)
    note = folder / f"{found.st_dev:x}-{found.st_ino:x}.sum"
    if os.name == "posix":  # elsewhere st_ctime is the time of making
        with contextlib.suppress(OSError, ValueError):
            known, digest = note.read_text(encoding="ascii").rsplit(" ", 1)
            if known == state:
                return digest
    digest = sha256_of_file(path)
    # A file that was changed within the clock's step could be changed once more in it.
    if time.time_ns() - found.st_ctime_ns > 2_000_000_000:
        with contextlib.suppress(L2GError, OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(note, f"{state} {digest}")
    return digest


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _checksum(file: Path) -> str:
    """Against damage: four times as quick as a cryptographic sum, and read without a copy."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return f"{zlib.crc32(content):08x} {len(content)}"


def _sum_file(kept: Path) -> Path:
    return kept.with_suffix(".crc32")


def _whole(kept: Path) -> bool:
    """Read through only where its inode or times are not those of when it was kept, or last read through."""
    try:
        known, _, seen = _sum_file(kept).read_text().partition("\n")
        if os.name == "posix" and seen == _state(kept):
            return True
        if known != _checksum(kept):
            return False
        with contextlib.suppress(L2GError, OSError):
            write_text(_sum_file(kept), f"{known}\n{_state(kept)}")
        return True
    except (OSError, ValueError):
        return False


def _processor() -> str:
    """What the choice of kernels depends on: the flags of the first core, where the system tells them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return platform.processor()


def _make_room(folder: Path) -> None:
    files = sorted(folder.glob("*.onnx"), key=_last_use, reverse=True)
    total = 0
    for number, file in enumerate(files):
        total += file.stat().st_size
        if number >= MOST_FILES or (number and total > MOST_BYTES):
            file.unlink(missing_ok=True)
            _sum_file(file).unlink(missing_ok=True)


def _last_use(kept: Path) -> float:
    try:
        return _sum_file(kept).stat().st_mtime
    except OSError:
        return 0.0
