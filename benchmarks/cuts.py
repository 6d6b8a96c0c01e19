"""How well hard cuts are found, and what is taken for one: synthetic video with cuts, pans, flashes, fades and changes
of the light, where the truth is known.

    python benchmarks/cuts.py [--videos 100] [--size 96x160] [--strides 1 2 4 8]

Every kind of video has `--videos` videos of 48 frames. A cut counts as found where the detector names its very frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from l2g.cli.arguments import size
from l2g.data.synthetic.video import synthetic_video
from l2g.runtime.video.cuts import CutDetector

FRAMES = 48
Scene = Callable[[int, list[int], tuple[int, int]], np.ndarray]


@dataclass
class Score:
    """Of one kind of video: cuts that are there, found, and named where none is; seconds of each frame."""

    there: int = 0
    found: int = 0
    wrong: int = 0
    frames: int = 0
    seconds: list[float] = field(default_factory=list)


def drawn(index: int, times: list[int], hw: tuple[int, int]) -> np.ndarray:
    """uint8 [T, H, W, 3] of a video without cuts."""
    return synthetic_video("long", index, seed=23, frames=times, size=hw).frames


def plain(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    return drawn(index, times, hw), set()


def cuts(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    """Five scenes, of other videos each, one after the other."""
    places = sorted(rng.choice(np.arange(4, FRAMES - 3, 4), 4, replace=False).tolist())
    parts = np.split(np.arange(FRAMES), places)
    frames = [drawn(1000 + 5 * index + k, [times[t] for t in part], hw) for k, part in enumerate(parts)]
    return np.concatenate(frames), set(places)


def pan(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    """The camera turns to and fro, by up to an eighth of the picture's height from frame to frame."""
    height, width = hw
    frames = drawn(index, times, (height, 3 * width))
    speed = rng.uniform(0.02, 0.125) * height
    x = width * (1 + 0.9 * np.sin(speed * np.arange(FRAMES) / (0.9 * width)))
    return np.stack([frame[:, int(left) : int(left) + width] for frame, left in zip(frames, x, strict=True)]), set()


def flash(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    """Four flashes of one to three frames, from bright to white."""
    frames = drawn(index, times, hw).astype(np.float32)
    for start in (8, 18, 28, 38):
        for t in range(start, start + int(rng.integers(1, 4))):
            frames[t] = frames[t] * rng.uniform(1.5, 3) + rng.uniform(40, 200)
    return np.clip(frames, 0, 255).astype(np.uint8), set()


def fade(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    """To black and back, and over into another scene, in 6 to 12 frames each."""
    frames = drawn(index, times, hw).astype(np.float32)
    other = drawn(5000 + index, times, hw).astype(np.float32)
    length = int(rng.integers(6, 13))
    t = np.arange(FRAMES)
    black = np.clip(np.abs(t - 14) / length, 0, 1)[:, None, None, None]
    over = np.clip((t - 30) / length, 0, 1)[:, None, None, None]
    return ((frames * (1 - over) + other * over) * black).astype(np.uint8), set()


def light(rng: np.random.Generator, index: int, times: list[int], hw: tuple[int, int]) -> tuple[np.ndarray, set[int]]:
    """The light goes on, off, and takes another colour, from one frame to the next."""
    frames = drawn(index, times, hw).astype(np.float32)
    for start in (10, 20, 30, 40):
        frames[start:] *= 1 / frames[start:].mean() * rng.uniform(50, 190) * rng.uniform(0.7, 1.3, 3)
    return np.clip(frames, 0, 255).astype(np.uint8), set()


KINDS = {"cuts": cuts, "one scene": plain, "pans": pan, "flashes": flash, "fades": fade, "light": light}


def videos(kind: str, count: int, stride: int, hw: tuple[int, int]) -> Iterator[tuple[np.ndarray, set[int]]]:
    for index in range(count):
        rng = np.random.default_rng([count, index, list(KINDS).index(kind)])
        yield KINDS[kind](rng, index, list(range(0, FRAMES * stride, stride)), hw)


def measure(kind: str, count: int, stride: int, hw: tuple[int, int]) -> Score:
    score = Score()
    for frames, there in videos(kind, count, stride, hw):
        detector, named = CutDetector(), set()
        for t, frame in enumerate(frames):
            start = time.perf_counter()
            if detector.is_cut(frame):
                named.add(t)
            score.seconds.append(time.perf_counter() - start)
        score.there += len(there)
        score.found += len(there & named)
        score.wrong += len(named - there)
        score.frames += len(frames)
    return score


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--size", type=size, default=(96, 160), metavar="HxW", help="of the frames (default 96x160)")
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 2, 4, 8], help="every n-th frame (1 2 4 8)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    print(f"{'stride':<8}{'video':<12}{'cuts':>6}{'found':>8}{'wrong':>8}{'frames':>9}{'median ms':>11}{'p99 ms':>9}")
    for stride in args.strides:
        total = Score()
        for kind in KINDS:
            score = measure(kind, args.videos, stride, args.size)
            median, late = 1e3 * np.percentile(score.seconds, [50, 99])
            print(
                f"{stride:<8}{kind:<12}{score.there:>6}{score.found:>8}{score.wrong:>8}{score.frames:>9}"
                f"{median:>11.2f}{late:>9.2f}"
            )
            total.there, total.found = total.there + score.there, total.found + score.found
            total.wrong += score.wrong
        named = total.found + total.wrong
        precision = total.found / named if named else float("nan")
        print(f"{stride:<8}all: precision {precision:.4f}, recall {total.found / max(1, total.there):.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
