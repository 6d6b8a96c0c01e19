"""Where results go: `frames.jsonl`, a line a frame for streams, and `results.json`, the YouTube-VIS results format.

Sinks are context managers that write under a temporary name and give the file its own name when they close. They do so
after an exception or Ctrl-C too: what was done is kept. Memory does not grow with the masks.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from l2g.errors import VideoError
from l2g.files import PendingFile, write_atomically
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.video.run_folder import RunFile, Target, pending_file


class JsonLinesSink:
    """`frames.jsonl`: one JSON object a line, in order, each frame that was processed.

    {"index": source frame, "time": seconds, "tracks": [{"id", "label": class index, "name": class name, "score": 0..1,
    "box": [x1, y1, x2, y2] in source pixels, "segmentation": {"size": [height, width], "counts": compressed RLE}}]}
    """

    def __init__(self, target: Target, class_names: Sequence[str]):
        self._class_names = class_names
        self._pending = pending_file(target)
        self.path = self._pending.path
        self.bytes = 0
        # Unbuffered: whoever reads along, or after a crash, finds every frame.
        if isinstance(self._pending, RunFile):
            self.bytes = self._pending.saved.line_bytes if self._pending.saved else 0
            self._file = self._pending.open(self.bytes)
        else:
            self._file = open(self._pending.temporary, "wb")  # noqa: SIM115 - `close` does

    def write(self, result: FrameResult) -> None:
        """Append one frame. VideoError when the disk refuses."""
        line = json.dumps(
            {
                "index": result.index,
                "time": round(result.time, 6),
                "tracks": [self._track(instance) for instance in result.tracks],
            }
        )
        try:
            self.bytes += self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise VideoError(f"{self.path}: writing failed ({error}); is the disk full?") from None

    def close(self) -> None:
        """Give the file its name."""
        if not self._file.closed:
            try:
                self._file.close()
            except OSError as error:
                if isinstance(self._pending, PendingFile):
                    self._pending.discard()
                raise self._pending.refusal(error) from None
            self._pending.commit()

    def _track(self, instance: TrackedInstance) -> dict[str, Any]:
        return {
            "id": instance.track_id,
            "label": instance.label,
            "name": self._class_names[instance.label],
            "score": round(instance.score, 6),
            "box": list(instance.box),
            "segmentation": instance.rle,
        }

    def __enter__(self) -> JsonLinesSink:
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
    one compressed RLE or null per processed frame, "track_id": as in frames.jsonl}. Evaluators ignore the last key. A
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
        try:
            self._spool = cast(BinaryIO, tempfile.TemporaryFile(mode="w+b", dir=self.path.parent))  # noqa: SIM115
        except OSError as error:
            raise VideoError(
                f"{self.path}: cannot be written ({error}); check the folder and its permissions"
            ) from None

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
        """Write the list, best first within a track, and give the file its name."""
        if self._spool.closed:
            return
        if self._run and self._run.kept:
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
                head = {
                    "video_id": self._video_id,
                    "track_id": track_id,
                    "category_id": label + 1,
                    "score": total / len(tube.frames),
                }
                file.write(separator + "\n" + json.dumps(head)[:-1] + ', "segmentations": [')
                self._write_segmentations(file, tube)
                file.write("]}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")

    def _write_segmentations(self, file: TextIO, tube: _Tube) -> None:
        """A list item per processed frame, read back from the spool one at a time."""
        where = dict(zip(tube.frames, tube.offsets, strict=True))
        for frame in range(self._frames):
            if frame:
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
