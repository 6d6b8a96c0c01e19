"""Frames that are picture files: read one by one, or all of a data set looked through by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from l2g.data.dataset import PictureFile, Problem, VideoDataset
from l2g.errors import DataError

_AT_A_TIME = 64  # pictures that a worker process is given at once
_LOOKED_AT = 16  # pictures of a folder that tell how many bits all use


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a picture file, as its pixels are stored; of 16 bits those that its folder uses, so that
    equal light is equal in all frames of a video.

    Raises DataError when it cannot be read to its end or is not of `size` (height, width).
    """
    # Here: whoever only checks an annotation needs none of it.
    import cv2

    from l2g.runtime.video.sources.picture_file import to_8_bits, used_bits

    picture = _stored(path, size)
    if picture.dtype == np.uint16:
        picture = to_8_bits(picture, max(used_bits(picture), _bits_of(path.parent, path.suffix)))
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


@lru_cache(maxsize=4096)
def _bits_of(folder: Path, suffix: str) -> int:
    """How many of 16 bits the pictures of a folder use, by some of them, evenly spread."""
    from l2g.runtime.video.sources.picture_file import used_bits

    files = sorted(path for path in folder.iterdir() if path.suffix == suffix)
    most = 0
    for path in files[:: max(1, len(files) // _LOOKED_AT)]:
        with suppress(DataError):  # who reads that frame is told
            picture = _stored(path)
            most = max(most, used_bits(picture) if picture.dtype == np.uint16 else 0)
    return most


def _stored(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 or uint16 [H, W, 3] BGR."""
    import cv2

    from l2g.runtime.video.sources.base import MAX_PIXELS
    from l2g.runtime.video.sources.integrity import jpeg_is_cut
    from l2g.runtime.video.sources.picture_file import read_regular
    from l2g.runtime.video.sources.picture_size import claimed_size, with_straight_colours

    data = read_regular(path)
    if data is None:
        state = "cannot be read as a file" if os.path.lexists(path) else "does not exist"
        raise DataError(f"frame '{path}' {state}; unpack the frames again")
    claimed = claimed_size(data)
    if size is not None and claimed not in ((0, 0), tuple(size)):
        raise _other_size(path, claimed, size)  # before memory is taken for it
    # From memory, and looked at before: OpenCV fills up what a JPEG lacks at its end and says nothing.
    is_cut = not data or claimed[0] * claimed[1] > MAX_PIXELS or (data[:2] == b"\xff\xd8" and jpeg_is_cut(data))
    try:
        how = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        picture: Any = None if is_cut else cv2.imdecode(np.frombuffer(with_straight_colours(data), np.uint8), how)
    except cv2.error:
        picture = None
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f"frame '{path}' is not a picture, or is cut short; unpack the frames again")
    if size is not None and picture.shape[:2] != tuple(size):
        raise _other_size(path, picture.shape[:2], size)
    return np.asarray(picture)


def _other_size(path: Path, found: Iterable[int], wanted: Iterable[int]) -> DataError:
    has, says = ("x".join(map(str, sides)) for sides in (found, wanted))
    return DataError(f"frame '{path}' has {has} pixels, the annotation says {says}; unpack the frames again")


def unreadable_frames(dataset: VideoDataset, workers: int | None = None, progress: bool = True) -> dict[int, Problem]:
    """Decode every picture of `dataset` in `workers` processes (None: one for each CPU); by a video's place a Problem
    where it has one that cannot be decoded to its end or has another size than the annotation says."""
    from tqdm import tqdm

    found: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    pictures = [
        (place, number, picture)
        for place, video in enumerate(dataset.videos)
        for number, picture in enumerate(video.pictures())
    ]
    looking = _looked_through([picture for _, _, picture in pictures], workers or _cpus())
    bar = tqdm(total=len(pictures), desc="pictures", disable=None if progress else True)
    with bar, closing(looking):
        for first, count, messages in looking:
            for offset, message in messages:
                place, number, _ = pictures[first + offset]
                found[place].append((number, message))
            bar.update(count)
    problems = {}
    for place in sorted(found):
        (_, message), *others = sorted(found[place])
        more = f" (and {len(others)} more of this video)" if others else ""
        problems[place] = Problem("unreadable frame", dataset.videos[place].name, f"{message}{more}")
    return problems


_Looked = tuple[int, int, list[tuple[int, str]]]


def _looked_through(pictures: list[PictureFile], workers: int) -> Generator[_Looked]:
    """(first picture, how many, [(offset, message)]) of each batch, in the order in which they are done."""
    batches = [(first, pictures[first : first + _AT_A_TIME]) for first in range(0, len(pictures), _AT_A_TIME)]
    if workers == 1 or len(batches) < 2:
        yield from (_look(*batch) for batch in batches)
        return
    # Spawned: a fork of a process whose libraries have threads may wait for a lock that nobody holds.
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(batches)), multiprocessing.get_context("spawn"))
    try:
        waiting, rest = set[Future[_Looked]](), iter(batches)
        waiting |= {pool.submit(_look, *batch) for batch in islice(rest, 4 * workers)}
        while waiting:
            done = next(as_completed(waiting))
            waiting.remove(done)
            waiting |= {pool.submit(_look, *batch) for batch in islice(rest, 1)}
            yield done.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that decodes pictures was ended from outside, or a picture ends it; look at them in one process "
            "with --workers 1"
        ) from None
    except BaseException:
        # Stopped. Nobody waits for what they are at, and left alone they would wait for more: a process that ends at
        # once takes away the queue from which they would hear of the end.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _look(first: int, pictures: Iterable[PictureFile]) -> _Looked:
    messages, count = [], 0
    for offset, picture in enumerate(pictures):
        count += 1
        try:
            read_picture(picture.path, picture.size)
        except DataError as error:
            messages.append((offset, str(error)))
    return first, count, messages


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
