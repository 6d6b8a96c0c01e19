"""Files that libraries make of a graph, kept in l2g's cache, and never used for anything but that graph, whole.

What is kept is held to its checksum before it is used. The oldest use goes first where there are too many.
L2G_KEEP_GRAPHS=0 keeps nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import time
import zlib
from pathlib import Path

from l2g.errors import L2GError
from l2g.files import PendingFile, cache_root, sha256_of_file, write_text

# What is kept of a library at most.
MOST_FILES, MOST_BYTES = 16, 2 << 30


def kept_file(path: Path, library: str, suffix: str, facts: tuple[str, ...]) -> Path | None:
    """Where what `library` made of the graph at `path` is kept; None where nothing can be, or shall be.

    facts: what else it depends on, besides the graph's bytes and this kind of processor.
    """
    if os.environ.get("L2G_KEEP_GRAPHS") == "0":
        return None
    try:
        folder = cache_root() / library
    except L2GError:
        return None
    known = "\n".join((*facts, platform.machine(), _processor()))
    return folder / f"{_sum_of(path, folder)}-{zlib.crc32(known.encode()):08x}{suffix}"


def pending(kept: Path) -> PendingFile | None:
    """A file to write what shall be kept to, for `keep` or its own `discard`; None where none can be."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return PendingFile(kept, L2GError)
    except (L2GError, OSError):
        return None


def keep(made: PendingFile) -> bool:
    """What was written is good; whether it could be kept."""
    try:
        _sum_file(made.path).write_text(_checksum(Path(made.temporary)))
        made.commit()
    except (L2GError, OSError, ValueError):
        made.discard()
        return False
    with contextlib.suppress(OSError):  # of another user, say
        _make_room(made.path.parent, made.path.suffix)
    return True


def used(kept: Path) -> None:
    """Note it for the next clearing, where the cache may be written to."""
    with contextlib.suppress(OSError):
        os.utime(_sum_file(kept))


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


def is_whole(kept: Path) -> bool:
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


def _make_room(folder: Path, suffix: str) -> None:
    files = sorted(folder.glob(f"*{suffix}"), key=_last_use, reverse=True)
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
