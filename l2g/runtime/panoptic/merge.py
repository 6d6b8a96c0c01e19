"""Slots merged into one map: Mask DINO's panoptic and semantic inference, a mask at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from l2g.runtime.arrays import Array, IntArray
from l2g.runtime.outputs import Contenders
from l2g.runtime.panoptic.options import PanopticOptions

# Rows of the picture for which the probabilities of all classes are held at once.
_ROWS = 32


@dataclass(frozen=True)
class Region:
    """What one or several slots became. number: in the map, from 1 up. slot: of a thing; of stuff the surest of its
    slots, -1 where all slots had a say. label: class. score: class probability, 0..1. area: pixels, at least 1."""

    number: int
    slot: int
    label: int
    score: float
    area: int


@dataclass(frozen=True)
class Merged:
    """numbers: int32 [H, W], of each pixel's region, 0 where it has none. regions: by number."""

    numbers: npt.NDArray[np.int32]
    regions: tuple[Region, ...]


def merge_panoptic(
    contenders: Contenders,
    mask_of: Callable[[int], Array],
    size: tuple[int, int],
    stuff_classes: Collection[int],
    threshold: float,
    options: PanopticOptions,
) -> Merged:
    """Each pixel to the slot whose weight times mask probability is the largest, if that mask covers it.

    contenders: M slots in the order in which equals win. mask_of: the mask logits of one of them, by its place, float
    [H, W] of the picture; asked for once, of those whose score is above `threshold`. size: H and W.

    A slot's mask is where its probability is one half or more. A slot is dropped where what it wins, of its mask or
    not, is less than `options.overlap_threshold` of its mask; its pixels are nobody's then. The slots of one class of
    stuff become one region.
    """
    kept = np.flatnonzero(contenders.scores > threshold)
    winner, covered, own = _compete(kept, contenders.weights, mask_of, size)
    won = np.bincount(winner.ravel() + 1, minlength=len(kept) + 1)[1:]
    left = np.bincount(winner[covered], minlength=len(kept)) if len(kept) else own
    holds = (left > 0) & ~(won / np.maximum(own, 1) < options.overlap_threshold)

    regions: list[Region] = []
    number_of = np.zeros(len(kept) + 1, np.int32)  # by place among the kept; the last is of pixels of nobody
    stuff: dict[int, list[int]] = {}
    for place in np.flatnonzero(holds).tolist():
        label = int(contenders.labels[kept[place]])
        stuff.setdefault(label, []).append(place) if label in stuff_classes else stuff.setdefault(-1 - place, [place])
    for key, places in stuff.items():
        area = int(left[places].sum())
        if area < (options.min_thing_area if key < 0 else options.min_stuff_area):
            continue
        best = max(places, key=lambda place: contenders.scores[kept[place]])
        number_of[places] = len(regions) + 1
        slot, label = int(contenders.slots[kept[best]]), int(contenders.labels[kept[best]])
        regions.append(Region(len(regions) + 1, slot, label, float(contenders.scores[kept[best]]), area))
    return Merged(number_of[np.where(covered, winner, len(kept))], tuple(regions))


def _compete(
    kept: IntArray, weights: Array, mask_of: Callable[[int], Array], size: tuple[int, int]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], IntArray]:
    """int32 [H, W]: who wins each pixel, a place in `kept`, -1 where there is none; bool [H, W]: whether its mask
    covers it; int64 [M]: the pixels of each one's mask."""
    winner = np.full(size, -1, np.int32)
    covered = np.zeros(size, bool)
    own = np.zeros(len(kept), np.int64)
    best: Array | None = None
    for place, row in enumerate(kept.tolist()):
        logits = mask_of(row)
        inside = logits >= 0
        own[place] = np.count_nonzero(inside)
        value = _sigmoid(logits)
        value *= weights[row]
        if best is None:
            best, better = value, np.ones(size, bool)
        else:
            better = value > best
            np.copyto(best, value, where=better)
        np.copyto(winner, place, where=better)
        np.copyto(covered, inside, where=better)
    return winner, covered, own


def merge_semantic(
    probabilities: Array, masks_of: Callable[[int, int], Array], size: tuple[int, int], options: PanopticOptions
) -> Merged:
    """Each pixel to the class of the largest sum, over all slots, of class probability times mask probability.

    probabilities: float [N, K]. masks_of: the mask logits of all slots in rows `start` to `stop` of the picture, float
    [N, stop - start, W]. size: H and W. A region's score is the mean of that sum over its pixels, at most 1; one of
    fewer than `options.min_stuff_area` pixels is left out.
    """
    height, width = size
    classes = probabilities.shape[1]
    labels = np.empty(size, np.int32)
    sums = np.zeros(classes)
    for start in range(0, height, _ROWS):
        stop = min(height, start + _ROWS)
        masks = _sigmoid(masks_of(start, stop)).reshape(len(probabilities), -1)
        scores = probabilities.T @ masks
        found = scores.argmax(axis=0)
        labels[start:stop] = found.reshape(stop - start, width)
        sums += np.bincount(found, weights=np.take_along_axis(scores, found[None], axis=0)[0], minlength=classes)
    areas = np.bincount(labels.ravel(), minlength=classes)
    number_of = np.zeros(classes, np.int32)
    regions: list[Region] = []
    for label in np.flatnonzero(areas >= max(1, options.min_stuff_area)).tolist():
        number_of[label] = len(regions) + 1
        score = min(1.0, float(sums[label] / areas[label]))
        regions.append(Region(len(regions) + 1, -1, label, score, int(areas[label])))
    return Merged(number_of[labels], tuple(regions))


def _sigmoid(logits: Array) -> Any:
    """In the type of `logits`, in one new array."""
    value = np.maximum(logits, -80)
    np.negative(value, out=value)
    np.exp(value, out=value)
    value += 1
    return np.divide(1, value, out=value)
