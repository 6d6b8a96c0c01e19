"""Where results go: `frames.jsonl`, a line a frame for streams, and `results.json`, the YouTube-VIS results format.

Of panoptic results the lines are `panoptic.jsonl`. `LiveLines` are lines that can be read while it grows. The other
sinks are context managers that write under a temporary name and give the file its own name when they close. They do so
after an exception or Ctrl-C too: what was done is kept. Memory does not grow with the masks.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from l2g.errors import VideoError
from l2g.files import PendingFile, write_atomically
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.video.run_folder import RunFile, Target, pending_file

if TYPE_CHECKING:
    from l2g.runtime.panoptic.segmentation import Segmentation

LINES = "frames.jsonl"
PANOPTIC_LINES = "panoptic.jsonl"
# Up to so many frames a track's list has an entry for each, as evaluators expect; the videos of the benchmarks are
# shorter. Of longer ones the list would be nulls for the most part, and the file grow with the square of the length.
PADDED_FRAMES = 500


def line_of(result: FrameResult, class_names: Sequence[str], stream: str = "") -> str:
    """A frame as one line of JSON, without its end.

    {"index": source frame, "time": seconds, "tracks": [{"id", "label": class index, "name": class name, "score": 0..1,
    "box": [x1, y1, x2, y2] in source pixels, "segmentation": {"size": [height, width], "counts": compressed RLE}}]};
    "reset" where the stream's history was forgotten before it, and "stream" first where one is named. Of a panoptic
    result "segments" in place of "tracks": {"id", "label", "name", "isthing", "track" (of a thing), "score", "area",
    "box", "segmentation"} each, which do not overlap.
    """
    line: dict[str, Any] = {"stream": stream} if stream else {}
    line |= {"index": result.index, "time": round(result.time, 6)}
    if result.reset:
        line["reset"] = result.reset
    if result.panoptic is None:
        line["tracks"] = [_track(instance, class_names) for instance in result.tracks]
    else:
        line["segments"] = _segments(result.panoptic, result.tracks, class_names)
    return json.dumps(line)


def _segments(
    found: Segmentation, tracks: Sequence[TrackedInstance], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    seen = {track.track_id: track for track in tracks}
    entries = []
    for segment in found.segments:
        track = None if segment.track_id is None else seen[segment.track_id]
        mask = found.mask(segment) if track is None else track.mask
        entry: dict[str, Any] = {"id": segment.id, "label": segment.label, "name": class_names[segment.label]}
        entry["isthing"] = segment.is_thing
        if track is not None:
            entry["track"] = track.track_id
        entry |= {"score": round(segment.score, 6), "area": segment.area, "box": list(mask.box)}
        entries.append(entry | {"segmentation": mask.rle() if track is None else track.rle})
    return entries


def _track(instance: TrackedInstance, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "id": instance.track_id,
        "label": instance.label,
        "name": class_names[instance.label],
        "score": round(instance.score, 6),
        "box": list(instance.box),
        "segmentation": instance.rle,
    }


class JsonLinesSink:
    """`frames.jsonl`: one JSON object a line, in order, each frame that was processed; see `line_of`."""

    def __init__(self, target: Target, class_names: Sequence[str]):
        self._class_names = class_names
        self._pending = pending_file(target)
        self.path = self._pending.path
        self.bytes = self._frames = 0
        # Unbuffered: whoever reads along, or after a crash, finds every frame.
        if isinstance(self._pending, RunFile):
            if saved := self._pending.saved:
                self.bytes, self._frames = saved.line_bytes, saved.frames
            self._file = self._pending.open(self.bytes)
        else:
            self._file = open(self._pending.temporary, "wb")  # noqa: SIM115 - `close` does

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def write(self, result: FrameResult) -> None:
        """Append one frame. VideoError when the disk refuses."""
        try:
            line = line_of(result, self._class_names) + "\n"
            self.bytes += self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise VideoError(f"{self.path}: writing failed ({error}); is the disk full?") from None
        self._frames += 1

    def close(self) -> None:
        """Give the file its name; without a single frame what lay there before stays."""
        if not self._file.closed:
            try:
                self._file.close()
            except OSError as error:
                if isinstance(self._pending, PendingFile):
                    self._pending.discard()
                raise self._pending.refusal(error) from None
            if self._frames:
                self._pending.commit()
            else:
                self._pending.discard()

    def __enter__(self) -> JsonLinesSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Rotation:
    """When a live source's file is followed by a new one: after so many seconds of the stream, or so many bytes of the
    file."""

    seconds: float = math.inf
    size: float = math.inf

    def is_due(self, seconds: float, size: float) -> bool:
        return seconds >= self.seconds or size >= self.size


def numbered(path: Path, number: int) -> Path:
    """The name of one of the files that follow each other."""
    return path.with_stem(f"{path.stem}-{number:04d}")


def first_number(paths: Sequence[Path]) -> int:
    """The number after those of the files that an earlier run left of these, so that it writes over none."""
    last = -1
    for path in paths:
        mine = re.compile(re.escape(path.stem) + r"-(\d{4,})" + re.escape(path.suffix))
        there = os.listdir(path.parent) if path.parent.is_dir() else []
        last = max([last, *(int(found[1]) for name in there if (found := mine.fullmatch(name)))])
    return last + 1


class LiveLines:
    """The same lines for whoever reads along: each is written out at once, under the file's own name.

    target: a path, or "-" for stdout. rotate: when the next file begins; its files are `NAME-0000.jsonl`,
    `NAME-0001.jsonl` and so on, from number `first` on. stream: named in every line on stdout, where several come
    together.
    """

    def __init__(
        self,
        target: str | Path,
        class_names: Sequence[str],
        stream: str = "",
        rotate: Rotation | None = None,
        first: int = 0,
    ):
        self._first = first
        self._target = None if target == "-" else Path(target)
        self._class_names, self._stream, self._rotate = class_names, "" if self._target else stream, rotate
        self._paths: list[Path] = []
        self._began: float | None = None
        self._size = 0  # of the present file
        self._file = sys.stdout if self._target is None else self._open()

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._paths)

    def write(self, result: FrameResult) -> None:
        """Append one frame. VideoError when the disk refuses."""
        if self._began is None:
            self._began = result.time
        try:
            if self._target and self._rotate and self._rotate.is_due(result.time - self._began, self._size):
                self._file.close()
                self._file, self._began, self._size = self._open(), result.time, 0
            # ASCII, as `json` writes it: a character is a byte.
            self._size += self._file.write(line_of(result, self._class_names, self._stream) + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise VideoError(f"{self._target or 'stdout'}: writing failed ({error}); is the disk full?") from None

    def close(self) -> None:
        if self._target:
            self._file.close()

    def _open(self) -> TextIO:
        assert self._target is not None
        path = self._target
        if self._rotate:
            path = numbered(path, self._first + len(self._paths))
        # A new file takes the name at once: a link that waits there is replaced, not followed.
        pending = PendingFile(path, VideoError)
        pending.commit()
        self._paths.append(path)
        return open(path, "w", encoding="utf-8")

    def __enter__(self) -> LiveLines:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class _Tube:
    """What is remembered of a track: per frame where its mask lies in the spool, and its scores by label."""

    frames: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    score_sums: dict[int, float] = field(default_factory=dict)


class TubeResultsSink:
    """`results.json`: the YouTube-VIS results format, a list with one entry per track and label that it was given.

    {"video_id", "category_id": label + 1, "score": sum of the label's scores / frames of the track, "segmentations":
    one compressed RLE or null per processed frame, "track_id": as in frames.jsonl}. Evaluators ignore the last key.
    Of more than `PADDED_FRAMES` frames a list holds those from the track's first to its last, and "first_frame" is the
    first one's place. A
    track that one class holds throughout is one entry whose score is its mean class score; the best entry of a track
    is its label, the others are the model's second thoughts, which submissions to the benchmarks list too.

    The masks wait in a temporary file; memory holds 16 bytes per track and frame.
    """

    def __init__(self, target: str | Path | RunFile, video_id: int = 1):
        self._run = target if isinstance(target, RunFile) else None
        self.path = target.path if isinstance(target, RunFile) else Path(target)
        self._video_id = video_id
        self._frames = 0
        self._tubes: dict[int, _Tube] = {}
        if isinstance(target, RunFile):
            saved = target.saved
            self._spool = target.open_spool(saved.spool_bytes if saved else 0)
            if saved:
                self._recall(saved.frames)
            return
        import tempfile  # here: a run's folder has a place for it

        try:
            self._spool = cast(BinaryIO, tempfile.TemporaryFile(mode="w+b", dir=self.path.parent))  # noqa: SIM115
        except OSError as error:
            raise VideoError(
                f"{self.path}: cannot be written ({error}); check the folder and its permissions"
            ) from None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def bytes(self) -> int:
        """Length of the spool, all of it on the disk."""
        self._spool.flush()
        return self._spool.tell()

    def _recall(self, frames: int) -> None:
        """The tubes of the first `frames` frames, which the spool holds."""
        self._spool.seek(0)
        offset = 0
        for line in self._spool:
            frame, track_id, label, score = json.loads(line.partition(b"\t")[2])
            self._add(track_id, frame, offset, label, score)
            offset += len(line)
        self._frames = frames

    def _add(self, track_id: int, frame: int, offset: int, label: int, score: float) -> None:
        tube = self._tubes.setdefault(track_id, _Tube())
        tube.frames.append(frame)
        tube.offsets.append(offset)
        tube.score_sums[label] = tube.score_sums.get(label, 0.0) + score

    @property
    def tracks(self) -> int:
        """Tracks seen so far."""
        return len(self._tubes)

    def write(self, result: FrameResult) -> None:
        """Append one frame. VideoError when the disk refuses."""
        try:
            for instance in result.tracks:
                offset, label, score = self._spool.tell(), int(instance.frame_label), float(instance.score)
                facts = json.dumps([self._frames, instance.track_id, label, score])
                self._spool.write(f"{json.dumps(instance.rle)}\t{facts}\n".encode())
                self._add(instance.track_id, self._frames, offset, label, score)
        except OSError as error:
            raise VideoError(f"{self.path}: writing failed ({error}); is the disk full?") from None
        self._frames += 1

    def close(self) -> None:
        """Write the list, best first within a track, and give the file its name; without a single frame what lay
        there before stays."""
        if self._spool.closed:
            return
        if not self._frames or (self._run and self._run.kept):
            self._spool.close()
            return
        with (
            self._spool,
            write_atomically(self.path, VideoError) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            self._write_entries(file)

    def _write_entries(self, file: TextIO) -> None:
        separator = "["
        for track_id, tube in sorted(self._tubes.items()):
            for label, total in sorted(tube.score_sums.items(), key=lambda item: (-item[1], item[0])):
                head: dict[str, object] = {
                    "video_id": self._video_id,
                    "track_id": track_id,
                    "category_id": label + 1,
                    "score": total / len(tube.frames),
                }
                if self._frames > PADDED_FRAMES:
                    head["first_frame"] = tube.frames[0]
                file.write(separator + "\n" + json.dumps(head)[:-1] + ', "segmentations": [')
                self._write_segmentations(file, tube)
                file.write("]}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")

    def _write_segmentations(self, file: TextIO, tube: _Tube) -> None:
        """A list item per frame, read back from the spool one at a time."""
        where = dict(zip(tube.frames, tube.offsets, strict=True))
        long = self._frames > PADDED_FRAMES
        first, end = (tube.frames[0], tube.frames[-1] + 1) if long else (0, self._frames)
        for frame in range(first, end):
            if frame > first:
                file.write(", ")
            if frame in where:
                self._spool.seek(where[frame])
                file.write(self._spool.readline().partition(b"\t")[0].decode())
            else:
                file.write("null")

    def __enter__(self) -> TubeResultsSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
