"""What a page shows of a run: the newest result of every stream, how each fares, and what happened."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2g.runtime.arrays import ByteArray
from l2g.runtime.memory import device_bytes, resident_bytes
from l2g.runtime.video.live.watcher import Progress, Watcher

# Ages of so many results make the percentiles; so many lines of what happened are kept.
AGES, NOTES = 500, 50
# Seconds for which who asks for one picture after the other counts as looking.
_GLANCE = 2.0


@dataclass
class _Stream:
    progress: Progress | None = None  # until its first result
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=AGES))
    number: int = 0  # of the picture
    finished: float = field(default_factory=time.monotonic)


class Board(Watcher):
    """Keeps what was told last, for any number of readers in threads of their own. Memory is bounded."""

    def __init__(self, out: Callable[[str], None]):
        self._out = out
        self._changed = threading.Condition()
        self._streams: dict[str, _Stream] = {}
        self._notes: deque[tuple[float, str]] = deque(maxlen=NOTES)
        self._viewers = 0
        self._glanced = -math.inf

    @property
    def wants_pictures(self) -> bool:  # type: ignore[override]  # of a watcher that never does, a plain False
        """Whether somebody looks at one."""
        return self._viewers > 0 or time.monotonic() < self._glanced + _GLANCE

    def expect(self, streams: Sequence[str]) -> None:
        with self._changed:
            for name in streams:
                self._streams.setdefault(name, _Stream())

    def result(self, progress: Progress) -> None:
        with self._changed:
            stream = self._streams.setdefault(progress.stream, _Stream())
            stream.progress, stream.finished = progress, time.monotonic()
            stream.ages.append(progress.age)
            stream.number += progress.picture is not None
            self._changed.notify_all()

    def say(self, text: str) -> None:
        with self._changed:
            self._notes.append((time.time(), text))
        self._out(text)

    def names(self) -> list[str]:
        with self._changed:
            return sorted(self._streams)

    def watching(self, begin: bool) -> None:
        """Somebody begins to look at pictures, or ends."""
        with self._changed:
            self._viewers += 1 if begin else -1

    def glance(self, name: str) -> tuple[int, ByteArray] | None:
        """The number and picture of a stream's newest result, if it has one, for somebody who will ask again."""
        with self._changed:
            self._glanced = time.monotonic()
            return self._picture(name, 0)

    def picture_after(self, name: str, number: int, seconds: float) -> tuple[int, ByteArray] | None:
        """A stream's picture that is newer than that number, and its own; None where none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._picture(name, number) is not None, seconds)
            return self._picture(name, number)

    def snapshot(self) -> dict[str, Any]:
        """For the page, as JSON has it."""
        with self._changed:
            now = time.monotonic()
            return {
                "streams": [_told(name, stream, now) for name, stream in sorted(self._streams.items())],
                "notes": [{"time": moment, "text": text} for moment, text in self._notes],
            }

    def metrics(self) -> str:
        """In the text format of Prometheus."""
        lines: list[str] = []
        streams = self.snapshot()["streams"]
        for name, kind, meaning, key in _METRICS:
            lines += [f"# HELP l2g_{name} {meaning}", f"# TYPE l2g_{name} {kind}"]
            lines += [f'l2g_{name}{{stream="{_escaped(told["name"])}"}} {told[key]}' for told in streams]
        lines += ["# HELP l2g_result_age_seconds From a frame's arrival to its result, of the last results",
                  "# TYPE l2g_result_age_seconds summary"]  # fmt: skip
        for told in streams:
            for quantile, key in (("0.5", "age_p50"), ("0.99", "age_p99")) if told["done"] else ():
                label = f'stream="{_escaped(told["name"])}",quantile="{quantile}"'
                lines.append(f"l2g_result_age_seconds{{{label}}} {told[key]}")
        if (memory := resident_bytes()) is not None:
            lines += ["# HELP l2g_resident_memory_bytes Of this process", "# TYPE l2g_resident_memory_bytes gauge",
                      f"l2g_resident_memory_bytes {memory}"]  # fmt: skip
        if used := device_bytes():
            lines += ["# HELP l2g_device_memory_bytes In use on the GPU, by everybody",
                      "# TYPE l2g_device_memory_bytes gauge",
                      *(f'l2g_device_memory_bytes{{gpu="{gpu}"}} {size}' for gpu, size in enumerate(used))]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _picture(self, name: str, number: int) -> tuple[int, ByteArray] | None:
        stream = self._streams.get(name)
        # The newest result has none where nobody looked when it was made.
        picture = stream.progress.picture if stream is not None and stream.progress is not None else None
        return None if stream is None or stream.number <= number or picture is None else (stream.number, picture)


_METRICS = (
    ("frames_in_total", "counter", "Frames that came", "came"),
    ("frames_done_total", "counter", "Frames with a result", "done"),
    ("frames_dropped_total", "counter", "Frames passed over because a newer one had come", "dropped"),
    ("reconnects_total", "counter", "How often the source was lost and found again", "connections"),
    ("tracks_total", "counter", "Tracks so far", "tracks_so_far"),
    ("tracks", "gauge", "Tracks seen in the newest result", "tracks_now"),
    ("rate", "gauge", "Results per second", "rate"),
    ("silence_seconds", "gauge", "Since the newest result", "silence"),
)


def _told(name: str, stream: _Stream, now: float) -> dict[str, Any]:
    silence = round(now - stream.finished, 1)
    if stream.progress is None:
        return {"name": name, **_NOTHING, "silence": silence}
    progress, ages = stream.progress, np.array(stream.ages)
    result = progress.result
    return {
        "name": name,
        "index": result.index,
        "time": round(result.time, 3),
        "came": progress.done + progress.dropped,
        "done": progress.done,
        "dropped": progress.dropped,
        "connections": progress.connections,
        "rate": round(progress.rate or 0.0, 2),
        "age_p50": round(float(np.percentile(ages, 50)), 4),
        "age_p99": round(float(np.percentile(ages, 99)), 4),
        "silence": silence,
        "tracks_now": len(result.tracks),
        "tracks_so_far": progress.tracks,
        "tracks": [
            {"id": track.track_id, "name": result.class_names[track.label], "score": round(track.score, 3)}
            for track in result.tracks
        ],
    }


# Of a stream that has no result yet.
_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("came", "done", "dropped", "connections", "tracks_now", "tracks_so_far"), 0),
    **dict.fromkeys(("time", "rate", "age_p50", "age_p99"), 0.0),
    "index": None,
    "tracks": [],
}


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
