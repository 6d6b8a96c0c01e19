"""Four streams through one session and their identities for a long while: memory, and bits.

    python benchmarks/streams.py [--frames 100000]

A Local2Global of random weights, small enough for a hundred thousand frames in minutes of one core, as a graph of ONNX
Runtime. The streams have videos of their own, pause at moments of their own and begin anew at moments of their own, so
that the state is re-arranged time and again. Each is then run alone: every number of the model and every track has to
be the same to the bit. Exit code 1 where one is not, or resident memory after the first 5,000 frames grew by 1 %.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import L2GError
from l2g.export.exporter import export
from l2g.modeling.local2global import Local2Global
from l2g.runtime.arrays import ByteArray
from l2g.runtime.assembler import FrameAssembler, letterbox_of
from l2g.runtime.backends.open import open_backend
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.memory import resident_bytes
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.session import VideoSession
from tests.modeling import small

STREAMS = 4
SETTLED, LARGEST_GROWTH = 5000, 0.01
CONFIG = small.CONFIG.replace(num_classes=len(CLASS_NAMES), class_names=CLASS_NAMES)
# A random model's scores lie close together: a track begins at the score that so many of them reach.
_BORN = 0.3


@dataclass(frozen=True)
class Turn:
    """What a stream gets in a step: its frame, and whether it begins anew with it."""

    canvas: ByteArray
    anew: bool


def turns(number: int, canvases: list[ByteArray]) -> Iterator[Turn | None]:
    """A stream's steps without end: its video over and over; None where it pauses."""
    frame = 0
    for step in range(sys.maxsize):
        if step % (5 + number) == number:
            yield None
            continue
        yield Turn(canvases[frame % len(canvases)], frame % (1000 + 137 * number) == 999)
        frame += 1


class Stream:
    """One stream's identities, and the digest of everything that came out of it."""

    def __init__(self, backend, birth_score: float):
        box = letterbox_of(backend.contract, 96, 160)
        self._assembler = FrameAssembler(box, backend.contract, TrackParameters(birth_score, max_age=5))
        self._digest = hashlib.blake2b(digest_size=16)
        self.frames = self.tracks = 0

    def take(self, outputs: FrameOutputs, anew: bool) -> None:
        for field in fields(outputs):  # type: ignore[arg-type]
            self._digest.update(np.ascontiguousarray(getattr(outputs, field.name)))
        result = self._assembler.assemble(outputs, self.frames, self.frames / 10, "cut" if anew else None)
        for track in result.tracks:
            self._digest.update(repr((track.track_id, track.label, track.score, track.box, track.rle)).encode())
            self.tracks = max(self.tracks, track.track_id)
        self.frames += 1

    def digest(self) -> str:
        return self._digest.hexdigest()


def run(backend, videos: dict[int, list[ByteArray]], steps: int, born: dict[int, float], memory: list[tuple[int, int]]):
    """The streams of `videos` through one session for so many steps."""
    session = VideoSession(backend)
    streams = {number: Stream(backend, born[number]) for number in videos}
    coming = {number: turns(number, canvases) for number, canvases in videos.items()}
    for number in videos:
        session.join(number)
    frames = 0
    for _ in range(steps):
        found = {number: turn for number in videos if (turn := next(coming[number])) is not None}
        for number, turn in found.items():
            if turn.anew:
                session.reset(number)
        for number, outputs in session.step({number: turn.canvas for number, turn in found.items()}).items():
            streams[number].take(outputs, found[number].anew)
        before, frames = frames, frames + len(found)
        if before // 1000 != frames // 1000:
            memory.append((frames, resident_bytes() or 0))
    for number in videos:
        session.leave(number)
    return streams


def birth_score(backend, canvases: list[ByteArray]) -> float:
    session = VideoSession(backend)
    session.join(0)
    logits = np.stack([session.step({0: canvas})[0].logits for canvas in canvases])  # type: ignore[union-attr]
    session.leave(0)
    return float(np.quantile(1 / (1 + np.exp(-logits.max(-1))), 1 - _BORN))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="of the four streams together (default 100000)")
    args = parser.parse_args(argv)
    if args.frames < 2 * SETTLED:
        parser.error(
            f"{args.frames} frames asked for, at least {2 * SETTLED} expected: growth counts from {SETTLED} on"
        )
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.onnx"
            export(Local2Global(CONFIG).eval(), path)
            with closing(open_backend(str(path), top_k=None)) as backend:
                return measure(backend, args.frames)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure(backend, frames: int) -> int:
    box = letterbox_of(backend.contract, 96, 160)
    videos = {
        number: [box.to_canvas(frame) for frame in synthetic_video("long", number, frames=200).frames]
        for number in range(STREAMS)
    }
    born = {number: birth_score(backend, canvases) for number, canvases in videos.items()}
    per_step = sum(1 - 1 / (5 + number) for number in videos)
    steps, memory = round(frames / per_step), list[tuple[int, int]]()
    gc.collect()
    began = time.monotonic()
    together = run(backend, videos, steps, born, memory)
    seconds = time.monotonic() - began
    total = sum(stream.frames for stream in together.values())
    print(f"{total} frames of {STREAMS} streams in {seconds:.0f} s, {steps} steps")
    early = next((size for count, size in memory if count >= SETTLED), memory[-1][1])
    growth = max(size for count, size in memory if count >= min(SETTLED, memory[-1][0])) / early - 1
    shown = memory[:: max(1, len(memory) // 10)]
    print("resident MB: " + ", ".join(f"{size / 1e6:.1f} at {count}" for count, size in shown))
    print(f"after {SETTLED} frames {early / 1e6:.1f} MB, never more than {growth:+.2%} of it from then on")
    same = True
    for number, canvases in videos.items():
        alone = run(backend, {number: canvases}, steps, born, [])[number]
        equal = alone.digest() == together[number].digest()
        same &= equal
        print(
            f"stream {number}: {alone.frames} frames, {alone.tracks} tracks, "
            + ("to the bit what it is alone" if equal else "OTHER numbers than alone"),
            flush=True,
        )
    return 0 if same and growth < LARGEST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
