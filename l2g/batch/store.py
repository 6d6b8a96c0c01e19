"""Where results lie: a folder, or an object store behind an URL. In both a video appears whole or not at all.

In a folder: a video's files are written in `.staging`, and the whole folder takes its name in one step, which fails
where another copy was first. In an object store, which cannot rename: a claim that only one source can make keeps the
name, the files follow, and `video.json` comes last; what has none is not there yet. Two copies of one task write the
same bytes to the same keys, and the record that says so only once.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from l2g.batch.records import VideoRecord
from l2g.errors import DataError, L2GError, VideoError
from l2g.files import parse_json, write_bytes, write_json
from l2g.runtime.video.live.address import without_password

RECORD, STAGING, PIECES, CLAIM = "video.json", ".staging", ".pieces", ".claim"


class Store(Protocol):
    """What driver and workers need of the output. Keys are paths within it, with slashes."""

    def read(self, key: str) -> bytes | None:
        """The content of a key; None where there is none."""

    def put(self, file: Path, key: str) -> None:
        """A local file, whole, under a key."""

    def stage(self, name: str) -> AbstractContextManager[Path]:
        """A path on this machine for a folder with a video's files, which is away afterwards."""

    def commit(self, folder: Path, record: VideoRecord) -> bool:
        """Give the staged folder, with its record, the record's name; False where the same video was there before.

        VideoError where another's is.
        """

    def forget(self, key: str) -> None:
        """Remove what lies under a key and below it."""


def is_url(path: str) -> bool:
    return "://" in path


def open_store(output: str) -> Store:
    return ObjectStore(output) if is_url(output) else FolderStore(output)


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it; DataError where the URL has no known protocol."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DataError(
            without_password(f"{url}: cannot be opened ({error}); give an s3:// URL, or install what opens it")
        ) from None
    return system, str(path)


def finished(store: Store, name: str) -> VideoRecord | None:
    """The record of a video that is there. VideoError for one that cannot be read."""
    content = store.read(f"{name}/{RECORD}")
    if content is None:
        return None
    try:
        return VideoRecord.from_json(parse_json(content, f"{name}/{RECORD}"))
    except (TypeError, ValueError, DataError) as error:
        raise VideoError(f"{name}/{RECORD}: is not a record of this version ({error}); remove the folder") from None


def _expect_same(there: VideoRecord, record: VideoRecord) -> None:
    if there.source != record.source:
        raise VideoError(
            f"{record.source}: its results would lie in {record.name}, where those of {there.source} are; rename one, "
            "or give it a name of its own in a list"
        )


class FolderStore:
    """The output on a disk that every worker sees under the same path."""

    def __init__(self, folder: str):
        self.root = Path(os.path.abspath(folder))

    def read(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, file: Path, key: str) -> None:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, file.read_bytes())

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        folder = self.root / STAGING / f"{name[:100]}.{os.urandom(8).hex()}"
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, folder: Path, record: VideoRecord) -> bool:
        write_json(folder / RECORD, record.to_json())
        try:
            os.rename(folder, self.root / record.name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            there = finished(self, record.name)
            if there is None:
                raise VideoError(
                    f"{self.root / record.name}: is there and holds no results of a batch; remove it, or give another "
                    "output"
                ) from None
            _expect_same(there, record)
            return False
        return True

    def forget(self, key: str) -> None:
        shutil.rmtree(self.root / key, ignore_errors=True)


class ObjectStore:
    """The output behind a URL that fsspec opens; files are made on the worker's disk first."""

    def __init__(self, url: str):
        self._system, root = file_system(url)
        self._root = root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def read(self, key: str) -> bytes | None:
        try:
            content: bytes = self._system.cat_file(self._path(key))
        except FileNotFoundError:
            return None
        return content

    def put(self, file: Path, key: str) -> None:
        self._system.put_file(str(file), self._path(key))

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="l2g-batch-") as folder:
            yield Path(folder) / "video"

    def commit(self, folder: Path, record: VideoRecord) -> bool:
        self._claim(record)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(file, f"{record.name}/{file.relative_to(folder).as_posix()}")
        write_json(folder / RECORD, record.to_json())
        return self._create(f"{record.name}/{RECORD}", (folder / RECORD).read_bytes())

    def _claim(self, record: VideoRecord) -> None:
        key = f"{record.name}/{CLAIM}"
        if not self._create(key, record.source.encode()):
            owner = (self.read(key) or b"").decode()
            _expect_same(VideoRecord(record.name, owner, ""), record)

    def _create(self, key: str, content: bytes) -> bool:
        """False where there is such a key already; the store decides, for all who try."""
        try:
            self._system.pipe_file(self._path(key), content, mode="create")
        except FileExistsError:
            return False
        return True

    def forget(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm(self._path(key), recursive=True)


@contextmanager
def local_copy(source: str) -> Iterator[str]:
    """A path that FFmpeg opens: the source's own, or that of a copy of an object that is away afterwards."""
    if not is_url(source):
        yield source
        return
    system, path = file_system(source)
    with tempfile.TemporaryDirectory(prefix="l2g-batch-") as folder:
        copy = Path(folder) / Path(path).name
        try:
            system.get_file(path, str(copy))
        except FileNotFoundError:
            raise VideoError(f"{without_password(source)}: no such object; check the URL") from None
        yield str(copy)


def check_output(output: str) -> None:
    """L2GError where results cannot be written at all, so that not every video has to find out."""
    if not is_url(output):
        try:
            os.makedirs(output, exist_ok=True)
        except OSError as error:
            raise L2GError(f"{output}: cannot be made ({error.strerror}); give another output") from None
