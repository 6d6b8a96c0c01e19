"""Hard cuts: where one scene ends and another begins, so that a stream's state and its identities start anew.

A cut is where hardly anything of the last frame is found again near where it was. That holds against what changes a
picture within a scene: a pan moves everything by a little, a change of the light keeps the patterns, in a fade or a
dissolve each frame is much like the one before, and what a flash bleaches tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import cv2
import numpy as np

from l2g.errors import VideoError
from l2g.runtime.arrays import BoolArray, ByteArray

# "auto", "off", or the times of the cuts in seconds.
Cuts: TypeAlias = str | Sequence[float]

# The picture is looked at this small (the longer side the larger), in square blocks, each sought so far around its
# place: a fifth of the picture's height, which is a pan of a second at 5 frames a second.
SHORT_SIDE, LONG_SIDE, BLOCK, REACH = 24, 40, 8, 5
# Below this mean correlation of the blocks a frame is of another scene, and below this share of what is usual where
# things move fast. Synthetic video, `benchmarks/cuts.py`: frames of one scene have 0.82 and more, every 4th frame 0.65,
# every 8th 0.46; frames of two scenes 0.41 at most if all else differs too.
ALIKE, OF_USUAL = 0.55, 0.6
# The usual is a running mean with this memory, and is believed from so many comparisons on.
USUAL_MEMORY, FEWEST_COMPARED = 0.9, 2
# Blocks whose values spread less than this tell nothing; nor does a frame that has fewer others.
FLAT, FEWEST_BLOCKS = 4.0, 3
# A block is bleached with this share of bleached pixels, a frame with this share of bleached blocks. Such frames are
# passed over, up to so many: a flash, but not a day in the snow.
BLEACHED_PIXELS, BLEACHED_BLOCKS, LONGEST_FLASH = 0.1, 0.3, 5
# Beyond frames that were passed over less is found again: each takes this factor off the bounds, down to the second.
PASSED, LEAST_PASSED = 0.85, 0.6
_BLEACHED = 250


class CutFinder(Protocol):
    def is_cut(self, picture: ByteArray, time: float) -> bool:
        """Whether a new scene begins with this frame: uint8 [H, W, 3] RGB without padding, at `time` in seconds."""


class CutDetector:
    """Finds hard cuts in a stream of frames, one after the other. 0.4 to 0.8 ms a frame, at any size of the canvas."""

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._usual = 0.0
        self._compared = self._flashing = self._passed = 0

    def is_cut(self, picture: ByteArray, time: float = 0.0) -> bool:
        """Whether a new scene begins with this frame: uint8 [H, W, 3] RGB without padding. The time plays no part."""
        look, last = _Look.at(picture), self._last
        self._flashing = self._flashing + 1 if look.bleached else 0
        if 0 < self._flashing <= LONGEST_FLASH or np.count_nonzero(look.telling) < FEWEST_BLOCKS:
            self._passed += 1
            return False
        passed, self._passed, self._last = self._passed, 0, look
        if last is None or last.small.shape != look.small.shape:
            return False
        both = last.telling & look.telling
        alike = likeness(last.small, look.small, both if both.any() else last.telling)
        bound = min(ALIKE, OF_USUAL * self._usual) * max(LEAST_PASSED, PASSED**passed)
        if self._compared >= FEWEST_COMPARED and alike < bound:
            return True
        memory = min(USUAL_MEMORY, self._compared / (self._compared + 1))
        self._usual = memory * self._usual + (1 - memory) * alike
        self._compared += 1
        return False


@dataclass(frozen=True)
class _Look:
    """What is looked at of a frame: uint8 [h, w, 3], and bool [h / BLOCK, w / BLOCK], which blocks have a pattern.

    bleached: too much of it is white to be judged.
    """

    small: ByteArray
    telling: BoolArray
    bleached: bool

    @classmethod
    def at(cls, picture: ByteArray) -> _Look:
        small = _thumbnail(picture)
        height, width = small.shape[0] // BLOCK, small.shape[1] // BLOCK
        blocks = small.reshape(height, BLOCK, width, BLOCK, 3)
        # The pixels of a channel of a block beside each other: means along the last axis are much the fastest.
        channels = blocks.transpose(0, 2, 4, 1, 3).astype(np.float64).reshape(height, width, 3, -1)
        telling: BoolArray = channels.std(axis=3).mean(axis=2) >= FLAT
        white = (channels.max(axis=2) >= _BLEACHED).mean(axis=2) > BLEACHED_PIXELS
        return cls(small, telling & ~white, bool(white.mean() > BLEACHED_BLOCKS))


class NamedCuts:
    """Cuts at given times: the first frame at or after each begins a scene."""

    def __init__(self, times: Sequence[float]):
        if not all(math.isfinite(time) and time >= 0 for time in times):
            raise VideoError(f"cuts at {', '.join(map(str, times))} found, seconds from 0 on expected")
        self._ahead = sorted(times)

    def is_cut(self, picture: ByteArray, time: float) -> bool:
        passed = 0
        # Times that are given have three digits as a rule, those of frames all.
        while passed < len(self._ahead) and self._ahead[passed] <= time + 5e-4:
            passed += 1
        del self._ahead[:passed]
        return passed > 0


class NoCuts:
    """One scene."""

    def is_cut(self, picture: ByteArray, time: float) -> bool:
        return False


def cut_finder(cuts: Cuts) -> CutFinder:
    """For one stream. VideoError for what is none of "auto", "off" and a sequence of seconds."""
    if cuts == "auto":
        return CutDetector()
    if cuts == "off":
        return NoCuts()
    if isinstance(cuts, str):
        raise VideoError(f"cuts '{cuts}' found, 'auto', 'off' or times in seconds expected")
    return NamedCuts(cuts)


def likeness(before: ByteArray, after: ByteArray, blocks: BoolArray) -> float:
    """The mean, over the chosen blocks of `before`, of the best correlation with what is near that place in `after`.

    Thumbnails uint8 [h, w, 3]; blocks bool [h / BLOCK, w / BLOCK], at least one.
    """
    found = []
    for row, column in zip(*np.nonzero(blocks), strict=True):
        y, x = int(row) * BLOCK, int(column) * BLOCK
        around = after[max(0, y - REACH) : y + BLOCK + REACH, max(0, x - REACH) : x + BLOCK + REACH]
        # Of each channel the mean is taken off, and lengths do not count: brightness and contrast play no part.
        scores = cv2.matchTemplate(around, before[y : y + BLOCK, x : x + BLOCK], cv2.TM_CCOEFF_NORMED)
        found.append(cv2.minMaxLoc(scores)[1])
    return sum(found) / len(found)


def _thumbnail(picture: ByteArray) -> ByteArray:
    height, width = picture.shape[:2]
    size = (SHORT_SIDE, LONG_SIDE) if width < height else (LONG_SIDE, SHORT_SIDE)
    # Four pixels of each thumbnail pixel are enough, and reading them all costs 1 ms at 480 x 864.
    step = max(1, min(height // (2 * size[1]), width // (2 * size[0])))
    sampled = np.ascontiguousarray(picture[step // 2 :: step, step // 2 :: step])
    return np.asarray(cv2.resize(sampled, size, interpolation=cv2.INTER_AREA), np.uint8)
