"""A long video in overlapping pieces: what a piece leaves behind, and how identities go on across the seams.

Both pieces saw the frames of the overlap. The earlier one gives the results there, since it knew what came before; the
later one's tracks take the identities of those that they lie on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.identity.assignment import best_assignment
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.job import JobSummary
from l2g.runtime.video.live.watcher import Progress, Watcher
from l2g.runtime.video.results import LINES, JsonLinesSink, TubeResultsSink
from l2g.runtime.video.source import said_unreadable

# Two tracks are one object from this IoU on, over all frames of the overlap in which both are seen.
SAME_OBJECT = 0.5
_FRAME_FACTS = 6


class PieceWriter(Watcher):
    """Writes all that is known of each frame of a piece, a line of JSON each, and at its end how it went."""

    def __init__(self, path: Path):
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - `__exit__` closes it

    def result(self, progress: Progress) -> None:
        result = progress.result
        tracks = [
            (item.track_id, item.slot, item.label, item.frame_label, item.score, item.box, item.rle)
            for item in result.tracks
        ]
        head = (result.index, result.time, result.reset, result.height, result.width)
        self._file.write(json.dumps([*map(_number, head), [list(map(_number, track)) for track in tracks]]) + "\n")

    def end(self, summary: JobSummary, unreadable: Mapping[int, str]) -> None:
        """The last line. unreadable: as the source has it."""
        facts = [summary.seconds, summary.damage, summary.notices, summary.resets, list(unreadable.items())]
        self._file.write(json.dumps(facts) + "\n")

    def __enter__(self) -> PieceWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _number(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _CodedMask(InstanceMask):
    """A mask of which only the code is known, and the box by the shape of its patch."""

    code: dict[str, Any] = field(default_factory=dict)

    def rle(self) -> dict[str, Any]:
        return self.code


class PieceFile:
    """What `PieceWriter` wrote. seconds, damage, notices, resets: as `JobSummary` has them; unreadable: as the source
    has it; known after iteration."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds, self.damage = 0.0, None
        self.notices: list[str] = []
        self.resets: dict[str, int] = {}
        self.unreadable: dict[int, str] = {}

    def __iter__(self) -> Iterator[FrameResult]:
        with open(self._path, encoding="utf-8") as lines:
            for line in lines:
                data = json.loads(line)
                if len(data) < _FRAME_FACTS:
                    self.seconds, self.damage, self.notices, self.resets, *rest = data
                    self.unreadable = dict(rest[0]) if rest else {}  # an earlier version did not tell
                    return
                index, time, reset, height, width, tracks = data
                yield FrameResult(index, time, tuple(_instance(*track) for track in tracks), height, width, (), reset)


def _instance(
    track: int, slot: int, label: int, frame_label: int, score: float, box: Sequence[int], code: dict[str, Any]
) -> TrackedInstance:
    height, width = code["size"]
    patch = np.broadcast_to(np.True_, (box[3] - box[1], box[2] - box[0]))
    return TrackedInstance(
        track, slot, label, score, frame_label, _CodedMask(height, width, box[1], box[0], patch, code)
    )


def join_pieces(
    pieces: Sequence[PieceFile], folder: Path, class_names: tuple[str, ...], piece: float, name: str
) -> JobSummary:
    """Write `frames.jsonl` and `results.json` of a video into `folder`; memory holds one overlap.

    name: of the video, for messages. piece: seconds from the start of one piece to that of the next.
    """
    frames = 0
    with JsonLinesSink(folder / LINES, class_names) as lines, TubeResultsSink(folder / "results.json") as tubes:
        for result in joined(pieces, [(number + 1) * piece for number in range(len(pieces))]):
            lines.write(result)
            tubes.write(result)
            frames += 1
        tracks = tubes.tracks
    resets: dict[str, int] = {}
    unreadable: dict[int, str] = {}
    for each in pieces:
        unreadable.update(each.unreadable)
        for reason, count in each.resets.items():
            resets[reason] = resets.get(reason, 0) + count
    # A decoder begins at the file's start, so that the last piece tells of all before it.
    damage = next((each.damage for each in reversed(pieces) if each.damage), None)
    return JobSummary(
        frames,
        sum(each.seconds for each in pieces),
        tracks,
        (folder / LINES, folder / "results.json"),
        said_unreadable(name, unreadable) if unreadable else damage,
        False,
        tuple(dict.fromkeys(notice for each in pieces for notice in each.notices)),
        resets=resets,
    )


def joined(pieces: Sequence[Iterable[FrameResult]], next_starts: Sequence[float]) -> Iterator[FrameResult]:
    """Every frame once, in order, with identities that go on from piece to piece.

    next_starts: the second from which on the piece after that one has results too.
    """
    shared: deque[FrameResult] = deque()
    newest = 0
    for piece, next_start in zip(pieces, next_starts, strict=True):
        seam = _Seam(shared)
        shared, known = deque(), None
        for result in piece:
            if seam.takes(result):
                continue
            if known is None:
                known = seam.same()
            tracks = []
            for item in result.tracks:
                if item.track_id not in known:
                    newest += 1
                    known[item.track_id] = newest
                tracks.append(_renamed(item, known[item.track_id]))
            result = FrameResult(
                result.index, result.time, tuple(tracks), result.height, result.width, (), result.reset
            )
            if result.time >= next_start:
                shared.append(result)
            yield result


def _renamed(item: TrackedInstance, track: int) -> TrackedInstance:
    return TrackedInstance(track, item.slot, item.label, item.score, item.frame_label, item.mask)


class _Seam:
    """Which tracks of a later piece are which of an earlier one, by the frames that both have."""

    def __init__(self, before: Iterable[FrameResult]):
        self._before = {result.index: result for result in before}
        self._last = max(self._before, default=-1)
        self._common: dict[tuple[int, int], float] = {}  # pixels, by (earlier, later) track
        self._either: dict[tuple[int, int], float] = {}

    def takes(self, result: FrameResult) -> bool:
        """Whether the frame is one of the overlap; those are looked at and belong to the earlier piece."""
        if result.index > self._last:
            return False
        earlier = self._before.get(result.index)
        if earlier and earlier.tracks and result.tracks:
            codes, others = [item.rle for item in earlier.tracks], [item.rle for item in result.tracks]
            ious = coco_mask.iou(codes, others, [0] * len(others))
            areas = coco_mask.area(codes)[:, None].astype(float) + coco_mask.area(others)[None]
            for (row, column), iou in np.ndenumerate(ious):
                pair = earlier.tracks[row].track_id, result.tracks[column].track_id
                union = areas[row, column] / (1 + iou)
                self._common[pair] = self._common.get(pair, 0.0) + iou * union
                self._either[pair] = self._either.get(pair, 0.0) + union
        return True

    def same(self) -> dict[int, int]:
        """Later track -> earlier one: one to one, those that share most pixels."""
        pairs = {pair: pixels for pair, pixels in self._common.items() if pixels >= SAME_OBJECT * self._either[pair]}
        earlier, later = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
        size = max(len(earlier), len(later))
        worth = np.zeros((size, size))
        for (one, other), pixels in pairs.items():
            worth[earlier.index(one), later.index(other)] = pixels
        order = best_assignment(worth) if size else ()
        return {later[column]: earlier[row] for row, column in enumerate(order) if worth[row, column] > 0}
