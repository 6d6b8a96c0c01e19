"""Which videos an input names: a folder, a pattern, a list, one file, or the same in an object store.

Everything here is a generator: the driver holds the names of no more than one folder.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from l2g.batch.records import Entry
from l2g.batch.store import file_system, is_url
from l2g.errors import DataError
from l2g.runtime.video.source import folder_name
from l2g.runtime.video.sources.base import VIDEO_SUFFIXES, is_picture_name

# A folder is taken by `VIDEO_SUFFIXES`; a pattern and a list take whatever they name.
LIST_SUFFIX = ".txt"


def entries(given: str, output: str) -> Iterator[Entry]:
    """The videos that `--input` names; what lies in the output folder is left out.

    In a folder these are the files with a video's suffix, and every folder that holds pictures as one video, at any
    depth; hidden ones are left out. A list is a text file (.txt): a path or URL a line, with a name of its own after a
    tab where two would have one name. DataError where there is no such input.
    """
    if is_url(given):
        yield from _of_store(given)
    elif os.path.isdir(given):
        yield from _of_folder(os.path.abspath(given), os.path.abspath(output))
    elif os.path.isfile(given):
        yield from _of_list(Path(given)) if given.lower().endswith(LIST_SUFFIX) else [_of_path(given)]
    elif glob.has_magic(given):
        root = given[: _first_magic(given)].rpartition("/")[0]
        for path in glob.iglob(given, recursive=True):
            yield Entry(os.path.abspath(path), name_of(os.path.relpath(path, root or ".")))
    else:
        raise DataError(f"{given}: no such file or folder; give a folder of videos, a pattern, a list or an s3:// URL")


def name_of(relative: str) -> str:
    """The folder of results of a file by its path within the input: "cam 1/a.mp4" -> "cam_1_a"."""
    path = PurePosixPath(relative)
    return folder_name(str(path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path))


def _of_path(path: str) -> Entry:
    return Entry(os.path.abspath(path), name_of(os.path.basename(os.path.abspath(path))))


def _of_folder(root: str, output: str) -> Iterator[Entry]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        pictures = False
        try:
            with os.scandir(folder) as found:
                for item in found:
                    if item.name.startswith("."):
                        continue
                    if item.is_dir():
                        if item.path != output:
                            waiting.append(item.path)
                    elif Path(item.name).suffix.lower() in VIDEO_SUFFIXES:
                        yield Entry(item.path, name_of(os.path.relpath(item.path, root)))
                    else:
                        pictures = pictures or is_picture_name(item.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
        if pictures:
            relative = os.path.relpath(folder, root)
            yield Entry(folder, folder_name(os.path.basename(root) if relative == "." else relative))


def _of_list(path: Path) -> Iterator[Entry]:
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for line in lines:
                source, _, name = (part.strip() for part in line.partition("\t"))
                if source and not source.startswith("#"):
                    entry = Entry(source, name_of(posixpath.basename(source))) if is_url(source) else _of_path(source)
                    yield Entry(entry.source, folder_name(name)) if name else entry
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of videos ({error}); give text, a path a line") from None


def _of_store(url: str) -> Iterator[Entry]:
    system, root = file_system(url)
    if glob.has_magic(url):
        base = root[: _first_magic(root)].rpartition("/")[0]
        for path in system.glob(root):
            yield Entry(str(system.unstrip_protocol(path)), name_of(posixpath.relpath(path, base)))
        return
    root = root.rstrip("/")
    if Path(root).suffix and system.isfile(root):
        yield Entry(str(system.unstrip_protocol(root)), name_of(posixpath.basename(root)))
        return
    yield from _of_prefix(system, root)


def _of_prefix(system: Any, root: str) -> Iterator[Entry]:
    for folder, _, names in system.walk(root):
        for name in names:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                path = f"{folder}/{name}"
                yield Entry(str(system.unstrip_protocol(path)), name_of(posixpath.relpath(path, root)))


def _first_magic(pattern: str) -> int:
    return min(place for sign in "*?[" if (place := pattern.find(sign)) >= 0)
