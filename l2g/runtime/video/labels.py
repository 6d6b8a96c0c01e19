"""Where labels go: beside their objects, off each other where there is room, in the same place from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Pixels between two labels.
GAP = 1
# Frames after which a label that had to move away looks for a better place again.
PATIENCE = 30
# Pixels that have to be free around the better place, or the label would soon have to leave it.
ROOM = 8


def _places() -> np.ndarray:
    """float [P, 4]: places beside a box, best first. Of a place (a, b, c, d) the label's upper left corner is at
    (left + a * box width + c * label width, top + b * box height + d * label height)."""
    beside: list[tuple[float, float, float, float]]
    beside = [(0, 0, 0, -1), (1, 0, -1, -1), (0, 1, 0, 0), (1, 1, -1, 0), (0, 0, 0, 0), (1, 0, 0, 0), (0, 0, -1, 0)]
    beside += [(1, 1, 0, -1), (0, 1, -1, -1), (0.5, 0.5, -0.5, -0.5)]
    # Farther and farther away, with a line to the object.
    away = [
        (a, b, c, d)
        for step in (1.2, 2.4, 3.6, 4.8, 6.0, 7.2)
        for a, b, c, d in (
            (0, 0, 0, -1 - step),
            (0, 1, 0, step),
            (0.5, 0, -0.5, -1 - step),
            (0.5, 1, -0.5, step),
            (1, 0.5, 0.15 * step, -0.5),
            (0, 0.5, -1 - 0.15 * step, -0.5),
            (1, 0, 0.15 * step, -step),
            (0, 0, -1 - 0.15 * step, -step),
            (1, 1, 0.15 * step, step - 1),
            (0, 1, -1 - 0.15 * step, step - 1),
        )
    ]
    return np.array(beside + away, np.float64)


_PLACES = _places()
# What counts, in this order: to cover nothing, to be near (pixels), to be early in the list.
_COVER_COST, _DISTANCE_COST, _ORDER = 1e9, 1e3, np.arange(len(_PLACES))


@dataclass(frozen=True)
class Placement:
    """Upper left corner of a label in pixels. variant: which of the sizes offered. away: it does not touch its box."""

    x: int
    y: int
    variant: int
    away: bool


class LabelPlacer:
    """Places the labels of one video, frame after frame.

    Greedy, the oldest track first. A label keeps its place while that covers no other, and else takes the nearest
    such one; where no place is free for any of its sizes, the last size goes where it covers least.
    """

    def __init__(self) -> None:
        self._chosen: dict[int, tuple[int, int]] = {}  # by track: variant and number of the place
        self._frame = 0

    def memory(self) -> np.ndarray:
        """int64 [K + 1, 3]: the frame, then track, variant and place of every label."""
        chosen = [(track, *place) for track, place in self._chosen.items()]
        return np.array([(self._frame, 0, 0), *chosen], np.int64)

    def recall(self, memory: np.ndarray) -> None:
        """Know what `memory` told."""
        self._frame = int(memory[0, 0])
        self._chosen = {track: (variant, number) for track, variant, number in memory[1:].tolist()}

    def place(
        self,
        tracks: Sequence[int],
        boxes: np.ndarray,
        sizes: np.ndarray,
        picture: tuple[int, int],
        taken: Sequence[tuple[int, int, int, int]] = (),
    ) -> list[Placement]:
        """tracks: T ids. boxes: int [T, 4] (x1, y1, x2, y2). sizes: int [T, V, 2], width and height of V variants of
        each label, best first, none larger than `picture` (height, width). taken: rectangles to stay off."""
        corners = _corners(boxes, sizes, picture)
        distances = _distances(boxes, sizes, corners)
        occupied = np.empty((len(taken) + len(tracks), 4), np.int64)
        occupied[: len(taken)] = np.reshape(taken, (-1, 4))
        count, chosen, found = len(taken), {}, {}
        # The oldest first: its label is where the eye expects it.
        for row in sorted(range(len(tracks)), key=lambda row: tracks[row]):
            track = tracks[row]
            variant, number = self._choose(track, corners[row], distances[row], sizes[row], occupied[:count])
            x, y = corners[row, variant, number].tolist()
            width, height = sizes[row, variant].tolist()
            occupied[count] = x - GAP, y - GAP, x + width + GAP, y + height + GAP
            count += 1
            chosen[track] = variant, number
            found[row] = Placement(x, y, variant, away=bool(distances[row, variant, number] > 1))
        self._chosen, self._frame = chosen, self._frame + 1
        return [found[row] for row in range(len(tracks))]

    def _choose(
        self, track: int, corners: np.ndarray, distances: np.ndarray, sizes: np.ndarray, occupied: np.ndarray
    ) -> tuple[int, int]:
        """corners: int [V, P, 2]. distances: int [V, P]. The variant and the number of the place."""
        before = self._chosen.get(track)
        if before is None or _covered(corners[before][None], sizes[before[0]], occupied).any():
            return _best(corners, distances, sizes, occupied)[0]
        # Each looks in a frame of its own, so that not all labels jump at once.
        if (self._frame + track) % PATIENCE:
            return before
        better, cost = _best(corners, distances, sizes, occupied + np.array([-ROOM, -ROOM, ROOM, ROOM]))
        worth = before[0], float(_DISTANCE_COST * distances[before] + before[1])
        return better if (better[0], cost) < worth else before


def _best(
    corners: np.ndarray, distances: np.ndarray, sizes: np.ndarray, occupied: np.ndarray
) -> tuple[tuple[int, int], float]:
    """The variant and the number of the cheapest place, and its cost; the first variant that covers nothing."""
    for variant in range(len(sizes)):
        costs = _COVER_COST * _covered(corners[variant], sizes[variant], occupied)
        costs += _DISTANCE_COST * distances[variant] + _ORDER
        number = int(costs.argmin())
        if costs[number] < _COVER_COST:
            break
    return (variant, number), float(costs[number])


def _corners(boxes: np.ndarray, sizes: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    """int [T, V, P, 2]: upper left corners (x, y) of every label in every place, inside the picture."""
    spans = (boxes[:, 2:] - boxes[:, :2])[:, None, None]
    offsets = _PLACES[:, :2] * spans + _PLACES[:, 2:] * sizes[:, :, None]
    corners = boxes[:, None, None, :2] + np.rint(offsets).astype(np.int64)
    inside: np.ndarray = np.clip(corners, 0, np.array(picture[::-1]) - sizes[:, :, None])
    return inside


def _distances(boxes: np.ndarray, sizes: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """int [T, V, P]: pixels between each label and its box, along the axis where that is more; 0: they touch."""
    boxes = boxes[:, None, None]
    before, after = boxes[..., :2] - (corners + sizes[:, :, None]), corners - boxes[..., 2:]
    distances: np.ndarray = np.maximum(before, after).max(axis=-1).clip(0)
    return distances


def _covered(corners: np.ndarray, size: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    """int [P]: pixels of `occupied` (int [M, 4]) that a label of `size` covers in each place."""
    low = np.maximum(corners[:, None], occupied[:, :2])
    high = np.minimum((corners + size)[:, None], occupied[:, 2:])
    sides = np.maximum(high - low, 0)
    covered: np.ndarray = (sides[..., 0] * sides[..., 1]).sum(axis=1)
    return covered
