"""Files: written so that they appear whole or not at all, summed, read as JSON; folders held by one process; the cache.

Whatever l2g leaves on a disk goes through `PendingFile`: a new file beside the target under a name that nobody can
guess, which takes the target's name when it is complete and is removed when it is not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from l2g.errors import DataError, L2GError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]
_JSON = TypeVar("_JSON")

# Of files that are being written in this process.
_pending: set[Path] = set()

_MENDS: dict[int | None, str] = {
    errno.ENOENT: "make its folder first, or give another path",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EISDIR: "give the path of a file",
    errno.ENODEV: "give the path of a file",
    errno.EACCES: "check the permissions of its folder, or give another path",
    errno.EPERM: "check the permissions of its folder, or give another path",
    errno.EROFS: "give a path on a disk that can be written",
    errno.ENOSPC: "make room on the disk, or give a path on another",
    errno.EDQUOT: "make room within your quota, or give another path",
    errno.ENAMETOOLONG: "give a shorter name",
}


class PendingFile:
    """A new, empty file beside `path` that takes its name on `commit` and is removed on `discard`.

    For writers that keep a file open for long; others use `write_atomically`. The file is created, never opened where
    one is, so a link that waits at its name is not followed. Its mode is 0644 less the umask. What a writer of the same
    target left that was killed is removed: while a writer lives the system holds a lock on its file.

    path: the target; a link there is replaced, not followed. error: the class of the error that is raised, which names
    the target and the reason, where the folder takes no file or the target is a folder, a device or a pipe.
    """

    def __init__(self, path: StrPath, error: type[L2GError] = L2GError):
        self.path, self.error = Path(path), error
        self.temporary = name_beside(self.path)
        try:
            expect_file_or_nothing(self.path)
            _clear_leftovers(self.path)
            self._handle: int | None = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except (OSError, ValueError) as reason:  # ValueError: a null byte in the name
            raise self.refusal(reason) from None
        _pending.add(self.temporary)
        _lock(self._handle)

    def commit(self) -> None:
        """Bring the content to the disk, then give it its name; what cannot have it is removed."""
        try:
            handle = os.open(self.temporary, os.O_RDWR)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(self.temporary, self.path)
            self._release()
        except OSError as reason:
            self.discard()
            raise self.refusal(reason) from None
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)
        self._release()

    def _release(self) -> None:
        _pending.discard(self.temporary)
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._release()

    def refusal(self, reason: Exception) -> L2GError:
        """The error to raise where the system refuses to write."""
        text = getattr(reason, "strerror", None) or reason
        mend = _MENDS.get(getattr(reason, "errno", None), "give another path")
        return self.error(f"{self.path}: cannot be written ({text}); {mend}")

    def caused(self, reason: OSError) -> bool:
        """Whether an error is of this file, not of another that was read or written meanwhile."""
        return reason.filename in (None, os.fspath(self.temporary), os.fspath(self.path))


def expect_file_or_nothing(path: Path) -> None:
    """Raise OSError where a file that takes the name `path` would take it from something else than a file: a folder, a
    device as `/dev/null` or `/dev/stdout`, a pipe, a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing, or a link to nothing; what else is wrong shows when it is written
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = os.path.realpath(path.parent)  # /dev/stdout is a link, to a regular file where it goes into one
    if not stat.S_ISREG(mode) or folder == "/dev" or folder.startswith("/proc/"):
        raise OSError(errno.ENODEV, "a device, a pipe or a socket, no file")


def discard_pending() -> None:
    """Remove what is being written and not complete: for a process that ends at once."""
    for temporary in tuple(_pending):
        with contextlib.suppress(OSError):
            _remove(temporary)


@contextmanager
def folder_atomically(folder: StrPath, error: type[L2GError] = L2GError) -> Iterator[Path]:
    """A new, empty folder beside `folder`, to be filled inside the block, that takes its name when the block ends well.

    Whatever ends the block otherwise leaves nothing; what a writer of the same folder left that was killed is removed
    by the next. The folder above is made where it is missing. Raises `error`, without what was written, where something
    is there by then that is not an empty folder, and where the system refuses.
    """
    folder = Path(folder)
    temporary, handle = name_beside(folder), None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(folder)
        temporary.mkdir()
        _pending.add(temporary)
        if fcntl is not None:
            handle = os.open(temporary, os.O_RDONLY)
            _lock(handle)
        yield temporary
        os.replace(temporary, folder)
    except OSError as reason:
        # Of what is written, not of another file that was read or written meanwhile.
        if reason.filename is not None and not str(reason.filename).startswith(str(folder.parent)):
            raise
        mend = _MENDS.get(reason.errno, "give another folder, or remove what is there")
        raise error(f"{folder}: cannot be written ({reason.strerror or reason}); {mend}") from None
    finally:
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(OSError):
            _remove(temporary)
        _pending.discard(temporary)


@contextmanager
def write_atomically(path: StrPath, error: type[L2GError] = L2GError) -> Iterator[Path]:
    """A new file beside `path`, to be written inside the block, that takes its name when the block ends well.

    A reader sees the old file or the whole new one, also after a power cut. Whatever ends the block otherwise, Ctrl-C
    included, leaves `path` as it was and nothing beside it. An OSError of writing is raised as `error`.
    """
    pending = PendingFile(path, error)
    try:
        yield pending.temporary
        pending.commit()
    except OSError as reason:
        pending.discard()
        if pending.caused(reason):
            raise pending.refusal(reason) from None
        raise
    except BaseException:
        pending.discard()
        raise


def write_bytes(path: StrPath, content: bytes, error: type[L2GError] = L2GError) -> None:
    """Write a file in one step, as `write_atomically` does."""
    with write_atomically(path, error) as temporary:
        temporary.write_bytes(content)


def write_text(path: StrPath, text: str, error: type[L2GError] = L2GError) -> None:
    """Write UTF-8 text in one step, its line ends as they are. Of a name in it that is no text, the bytes are shown."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), error)


def write_json(path: StrPath, data: object, error: type[L2GError] = L2GError) -> None:
    """Write indented JSON in one step."""
    write_text(path, json.dumps(data, indent=1) + "\n", error)


def expect_writable(path: StrPath, error: type[L2GError] = L2GError) -> None:
    """Raise `error` now, before hours of work, where a file could not be written at their end."""
    PendingFile(path, error).discard()


def refuse_overwriting(
    outputs: Iterable[StrPath | None], inputs: Iterable[StrPath | None], error: type[L2GError] = L2GError
) -> None:
    """Raise `error` where a file that is to be written is one that is read, in whatever way either is named. None, and
    what is no file yet, stands for nothing."""
    there: dict[tuple[int, int] | None, StrPath] = {
        identity: path for path in outputs if path is not None and (identity := _identity(path))
    }
    for path in inputs if there else ():
        if path is not None and (written := there.get(_identity(path))) is not None:
            raise error(
                f"{os.fspath(path)}: is the file that would be written as {os.fspath(written)}; give another output"
            )


def _identity(path: StrPath) -> tuple[int, int] | None:
    """Of a file; folders are not written over."""
    try:
        entry = os.stat(path)
    except (OSError, ValueError):
        return None
    return None if stat.S_ISDIR(entry.st_mode) else (entry.st_dev, entry.st_ino)


def read_json(path: StrPath, kind: type[_JSON], name: str | None = None) -> _JSON:
    """The content of a JSON file, with or without a byte order mark, that has a `kind` (dict or list) at its top.

    name: what messages call the file, its path unless given. DataError where it cannot be read or is something else.
    """
    name = name or os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: cannot be read ({reason}); give the path of a JSON file") from None
    return expect_json(parse_json(content, name), kind, name)


def parse_json(content: str | bytes, name: str) -> Any:
    """JSON that came from `name`; DataError for anything else, and for more depth than can be read."""
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{name}: is not JSON ({error}); write or download the file again") from None
    except RecursionError:
        raise DataError(f"{name}: is not JSON that can be read (nested too deep); write it again") from None


def expect_json(data: object, kind: type[_JSON], name: str) -> _JSON:
    """`data` itself; DataError unless it is a `kind`."""
    if isinstance(data, kind):
        return data
    names: dict[type, str] = {dict: "an object", list: "a list"}
    found = names.get(type(data), type(data).__name__)
    raise DataError(f"{name}: found {found} at the top, expected {names.get(kind, kind.__name__)}")


def sha256_of_file(path: StrPath, error: type[L2GError] = L2GError) -> str:
    """The SHA-256 sum of a file's content, in hexadecimal; memory: 1 MiB."""
    import hashlib  # here: it loads a library of its own

    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as reason:
        raise error(f"{os.fspath(path)}: cannot be read ({reason.strerror}); give the path of a file") from None
    return digest.hexdigest()


def name_beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that nobody can guess, for what is not complete yet."""
    # A name may have 255 bytes; the beginning of a long one tells enough.
    beginning = path.name.encode()[:200].decode(errors="ignore")
    return path.parent / f".{beginning}.{os.urandom(8).hex()}.part"


# A writer locks its file a moment after it has made it; younger ones are left alone.
_YOUNG_SECONDS = 1.0


def _clear_leftovers(path: Path) -> None:
    """Remove what writers of `path`, a file or a folder, that were killed have left beside it."""
    # What precedes the random part; a name that was cut short could be another's.
    if fcntl is None or len(path.name.encode()) > 200:
        return
    ours = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{16}[.]part")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and not entry.is_symlink():
                with contextlib.suppress(OSError):
                    _remove_unlocked(entry)


def _remove_unlocked(entry: os.DirEntry[str]) -> None:
    found = entry.stat(follow_symlinks=False)
    if time.time() - found.st_mtime < _YOUNG_SECONDS or not (entry.is_file() or entry.is_dir()):
        return
    handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError where its writer lives
        _remove(Path(entry.path))
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """A file, or a folder with all that is in it."""
    if stat.S_ISDIR(path.lstat().st_mode):
        import shutil  # here: an edge device's start needs it for nothing else

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _lock(handle: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def cache_root() -> Path:
    """Where l2g keeps what it can make again: $L2G_CACHE, else `l2g` in the user's cache directory.

    A user without a home (a container's, a service's) gets a folder of their own among the temporary ones. L2GError
    where that folder is another user's: engines are code, and the cache holds engines.
    """
    if chosen := os.environ.get("L2G_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "l2g"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the user database
        return _cache_without_home()
    return home / ".cache" / "l2g" if home.is_absolute() else _cache_without_home()


def _cache_without_home() -> Path:
    import tempfile  # here: it loads a good deal that nothing else needs

    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"l2g-{user}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise L2GError(f"{folder}: cannot be made ({error.strerror}); set L2G_CACHE to a folder of yours") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise L2GError(f"{folder}: is not a folder of this user alone; set L2G_CACHE to one that is")
    return folder


@contextmanager
def made_folder(folder: StrPath, error: type[L2GError] = L2GError) -> Iterator[Path]:
    """The folder, made where it is missing; what was made for the block and is empty at its end is removed. Raises
    `error` where it cannot be made."""
    folder = Path(folder)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as reason:
        text = getattr(reason, "strerror", None) or reason
        raise error(f"{folder}: cannot be made ({text}); give another output folder") from None
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # the first that holds something
            for path in made:
                path.rmdir()


LOCK = ".l2g.lock"


@contextmanager
def locked(folder: StrPath, error: type[L2GError] = L2GError) -> Iterator[Path]:
    """Hold the folder for this process while the block lasts; it is made and removed as by `made_folder`.

    The lock is the system's, on a file that names the process: it ends with the process, however that ends, so there
    is none to clear away. Raises `error` where another process, or this one already, holds it, and where the folder
    cannot be written. A link in the lock's place is not followed.
    """
    with made_folder(folder, error) as folder:
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
