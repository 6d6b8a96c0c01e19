"""Panoptic results on disk: maps and `pred.json` in the layout that VIPSeg's official evaluators read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import cv2

from l2g.errors import VideoError
from l2g.files import write_atomically, write_bytes
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.panoptic.segmentation import rgb_of

if TYPE_CHECKING:
    from l2g.runtime.video.run_folder import RunFile

RESULTS, MAPS = "pred.json", "pan_pred"


@dataclass(frozen=True)
class Categories:
    """What classes are called in the files: the data set's id of each of the model's classes, its name, and whether it
    is a thing."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    things: tuple[bool, ...]

    @classmethod
    def of_model(cls, names: Sequence[str], stuff: Sequence[int]) -> Categories:
        """Numbered from 1 in the order of the logits."""
        things = tuple(label not in stuff for label in range(len(names)))
        return cls(tuple(range(1, len(names) + 1)), tuple(names), things)

    def to_json(self) -> list[dict[str, Any]]:
        rows = sorted(zip(self.ids, self.names, self.things, strict=True))
        return [{"id": id_, "name": name, "isthing": int(thing)} for id_, name, thing in rows]


class VideoMaps:
    """One video's maps, written as they come: `pan_pred/<video_id>/<name>.png`, RGB, id = R + 256 G + 65536 B.

    What `pred.json` says of it comes at the end, since a thing's category is the class of its track over the whole
    video: an id means one category throughout, as the data set has it. Memory does not grow with the masks or, but for
    a few numbers a track, with the frames. run: the unfinished `pred.json` of a run, which may go on with another's;
    its maps lie in the run's unfinished folder until `publish`.
    """

    def __init__(self, folder: str | Path, video_id: int | str, categories: Categories, run: RunFile | None = None):
        self.video_id, self.folder = video_id, Path(folder) / MAPS / str(video_id)
        self._written = self.folder if run is None else run.temporary.parent / MAPS / str(video_id)
        self.frames = 0
        self._categories = categories
        self._labels: dict[int, dict[int, float]] = {}  # by track, sums of scores by label
        try:
            self._written.mkdir(parents=True, exist_ok=True)
            if run is None:
                self._spool = cast(BinaryIO, tempfile.TemporaryFile(mode="w+b", dir=folder))  # noqa: SIM115
            else:
                self._spool = run.open_spool(run.saved.spool_bytes if run.saved else 0)
                self._recall()
        except OSError as error:
            raise VideoError(
                f"{self.folder}: cannot be written ({error}); check the folder and its permissions"
            ) from None

    def _recall(self) -> None:
        """What the frames in the spool say of their tracks."""
        self._spool.seek(0)
        for line in self._spool:
            self._count(json.loads(line)[2])
            self.frames += 1

    def _count(self, votes: list[list[Any]]) -> None:
        for track, label, score in votes:
            sums = self._labels.setdefault(track, {})
            sums[label] = sums.get(label, 0.0) + score

    @property
    def bytes(self) -> int:
        """Length of the spool, all of it on the disk."""
        self._spool.flush()
        return self._spool.tell()

    @property
    def tracks(self) -> int:
        """Tracks seen so far."""
        return len(self._labels)

    def write(self, result: FrameResult, name: str = "") -> None:
        """Append a frame, as `name`.png; the frame's index in eight digits unless told. VideoError when the disk
        refuses."""
        assert result.panoptic is not None
        name = f"{name or format(result.index, '08d')}.png"
        votes = [[track.track_id, int(track.frame_label), float(track.score)] for track in result.tracks]
        self._count(votes)
        _, coded = cv2.imencode(".png", rgb_of(result.panoptic.ids)[..., ::-1])
        write_bytes(self._written / name, coded.tobytes(), VideoError)
        rows = [[segment.id, segment.label, segment.track_id, segment.area] for segment in result.panoptic.segments]
        try:
            self._spool.write(f"{json.dumps([name, rows, votes])}\n".encode())
        except OSError as error:
            raise VideoError(f"{self.folder}: writing failed ({error}); is the disk full?") from None
        self.frames += 1

    def entry(self) -> Iterator[str]:
        """Its entry of `pred.json`'s annotations, in parts."""
        yield f'{{"video_id": {json.dumps(self.video_id)}, "annotations": ['
        self._spool.seek(0)
        best = {track: min(sums, key=lambda label: (-sums[label], label)) for track, sums in self._labels.items()}
        for number, line in enumerate(self._spool):
            name, rows, _ = json.loads(line)
            infos = [
                {
                    "id": id_,
                    "category_id": self._categories.ids[label if track is None else best[track]],
                    "area": area,
                    "iscrowd": 0,
                }
                for id_, label, track, area in rows
            ]
            yield (",\n" if number else "\n") + json.dumps({"file_name": name, "segments_info": infos})
        yield "]}"

    def publish(self) -> None:
        """Give the maps of a run their place; those of an interrupted one that it goes on with have theirs."""
        if self._written == self.folder:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._written.glob("*.png"):
                os.replace(path, self.folder / path.name)
        except OSError as error:
            raise VideoError(
                f"{self.folder}: cannot be written ({error}); check the folder and its permissions"
            ) from None

    def close(self) -> None:
        self._spool.close()


def write_results(path: Path, entries: Iterable[Iterable[str]], categories: Categories) -> None:
    """`pred.json` of these videos' entries, each in parts, under its name once it is whole; VideoError when the disk
    refuses."""
    with write_atomically(path, VideoError) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"categories": {json.dumps(categories.to_json())},\n"annotations": [')
        for number, entry in enumerate(entries):
            file.write(",\n" if number else "\n")
            file.writelines(entry)
        file.write("\n]}\n")


class PanopticSink:
    """`pred.json` and `pan_pred/` of one video; a context manager that gives `pred.json` its name when it closes, after
    an exception or Ctrl-C too. Without a single frame what lay there before stays."""

    def __init__(self, target: RunFile, video_id: str, categories: Categories):
        self.path, self._run = target.path, target
        self._categories = categories
        self._video = VideoMaps(self.path.parent, video_id, categories, target)
        self._open = True

    @property
    def bytes(self) -> int:
        return self._video.bytes

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, self._video.folder

    @property
    def tracks(self) -> int:
        return self._video.tracks

    def write(self, result: FrameResult) -> None:
        self._video.write(result)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        with ExitStack() as stack:
            stack.callback(self._video.close)
            if self._video.frames and not self._run.kept:
                self._video.publish()
                write_results(self.path, [self._video.entry()], self._categories)

    def __enter__(self) -> PanopticSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
