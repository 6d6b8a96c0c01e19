"""One writer per folder: the second is refused before it writes anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2g.errors import L2GError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".l2g.lock"


@contextmanager
def locked(folder: str | os.PathLike[str], error: type[L2GError] = L2GError) -> Iterator[Path]:
    """Hold the folder for this process while the block lasts; the folder is made where it is missing.

    The lock is the system's, on a file that names the process: it ends with the process, however that ends, so there
    is none to clear away. Raises `error` where another process, or this one already, holds it, and where the folder
    cannot be written. A link in the lock's place is not followed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as reason:
        text = getattr(reason, "strerror", None) or reason
        raise error(f"{folder}: cannot be made ({text}); give another output folder") from None
    handle = _take(folder, error)
    try:
        yield folder
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                os.unlink(folder / LOCK)
            os.close(handle)


def _take(folder: Path, error: type[L2GError]) -> int | None:
    if fcntl is None:
        return None
    path = folder / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as reason:
            raise error(
                f"{folder}: cannot be written ({reason.strerror}); check its permissions, or give another output folder"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it has removed the name meanwhile: what was locked is a file that nobody else will find.
            if os.fstat(handle).st_ino == _inode(path):
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except BlockingIOError:
            owner = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise error(
                f"{folder}: another run writes there now (process {owner}); wait for it, or give another output folder"
            ) from None
        except OSError as reason:
            os.close(handle)
            raise error(
                f"{folder}: cannot be written ({reason.strerror}); make room on the disk, or give another output folder"
            ) from None
        os.close(handle)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
