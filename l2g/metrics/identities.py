"""How well identities hold: switches of the predicted identity along each annotated object (CLEAR MOT, 2008).

AP over a video punishes an identity switch, but does not say that it was one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

from l2g.metrics.rle import Rle

# A prediction stands for an object in a frame from this mask IoU on (CLEAR MOT's usual bound).
SAME_OBJECT = 0.5
# An object that is back counts as found again if an identity stands for it within so many frames.
FOUND_WITHIN = 10


@dataclass(frozen=True)
class IdentityReport:
    """Counts over a video, or a data set by addition.

    object_frames: frames in which an annotated object is visible, summed over objects. matched: those of them in which
    a prediction stands for it. switches: times that another identity than the last took over.
    """

    object_frames: int = 0
    matched: int = 0
    switches: int = 0

    def __add__(self, other: IdentityReport) -> IdentityReport:
        return IdentityReport(
            self.object_frames + other.object_frames, self.matched + other.matched, self.switches + other.switches
        )

    @property
    def switches_per_100_frames(self) -> float:
        """Switches per object and 100 frames in which it is visible."""
        return 100 * self.switches / max(1, self.object_frames)

    @property
    def coverage(self) -> float:
        """Share of the object-frames that have a prediction, 0..1."""
        return self.matched / max(1, self.object_frames)


def identity_switches(
    objects: Sequence[Sequence[Rle | None]], predictions: Sequence[Mapping[int, Rle]]
) -> IdentityReport:
    """Follow each annotated object of one video through the predictions.

    objects: per object one compressed RLE or None per frame. predictions: per frame {identity: compressed RLE}. In
    each frame an identity stays with its object while their IoU is at least `SAME_OBJECT`; the rest are paired for the
    largest IoU, one to one.
    """
    report = IdentityReport()
    last: dict[int, int] = {}
    for visible, pairs in _follow(objects, predictions):
        switches = sum(index in last and last[index] != identity for index, identity in pairs.items())
        last.update(pairs)
        report += IdentityReport(len(visible), len(pairs), switches)
    return report


@dataclass(frozen=True)
class Return:
    """An object that was out of sight and came back.

    absent: frames in which it was not to be seen. same: whether the identity that stood for it last stands for it
    again; None where none does within `FOUND_WITHIN` frames in which it is visible.
    """

    absent: int
    same: bool | None


def returns(objects: Sequence[Sequence[Rle | None]], predictions: Sequence[Mapping[int, Rle]]) -> list[Return]:
    """What became of the annotated objects of one video each time they came back, by `identity_switches`' pairs.

    Only of objects that an identity had stood for before. An object that leaves again before `FOUND_WITHIN` visible
    frames are over, or with whose video they end, has the frames that it has.
    """
    found: list[Return] = []
    last: dict[int, int] = {}  # object -> the identity that stood for it last
    absent: dict[int, int] = {}
    looked: dict[int, int] = {}  # object that is back -> visible frames since, while none stands for it

    def judge(index: int, same: bool | None) -> None:
        found.append(Return(absent.pop(index), same))
        del looked[index]

    for visible, pairs in _follow(objects, predictions):
        for index in last:
            if index not in visible:
                if index in looked:
                    judge(index, None)
                absent[index] = absent.get(index, 0) + 1
            elif index in absent:
                looked[index] = looked.get(index, 0) + 1
                if index in pairs:
                    judge(index, pairs[index] == last[index])
                elif looked[index] == FOUND_WITHIN:
                    judge(index, None)
        last.update(pairs)
    for index in list(looked):
        judge(index, None)
    return found


def _follow(
    objects: Sequence[Sequence[Rle | None]], predictions: Sequence[Mapping[int, Rle]]
) -> Iterator[tuple[list[int], dict[int, int]]]:
    """Per frame the objects that are visible, and of those that an identity stands for, which."""
    last: dict[int, int] = {}
    for t, found in enumerate(predictions):
        visible = [index for index, tube in enumerate(objects) if tube[t]]
        pairs = _pair(visible, [rle for index in visible if (rle := objects[index][t])], found, last)
        yield visible, pairs
        last.update(pairs)


def _pair(visible: list[int], truths: list[Rle], found: Mapping[int, Rle], last: dict[int, int]) -> dict[int, int]:
    """object -> identity in one frame."""
    if not visible or not found:
        return {}
    identities = list(found)
    ious = coco.iou([found[identity] for identity in identities], truths, [0] * len(truths)).T
    ious = np.where(ious >= SAME_OBJECT, ious, 0)
    pairs = {}
    for row, index in enumerate(visible):
        if index in last and last[index] in found:
            column = identities.index(last[index])
            if ious[row, column]:
                pairs[index] = last[index]
                ious[row], ious[:, column] = 0, 0
    for row, column in zip(*linear_sum_assignment(-ious), strict=True):
        if ious[row, column]:
            pairs[visible[row]] = identities[column]
    return pairs
