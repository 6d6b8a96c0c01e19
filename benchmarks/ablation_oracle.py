"""Identities as the annotation has them: what a model would score if it lost none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from l2g.metrics.rle import Rle
from l2g.runtime.outputs import RawOutputs

FITS = 0.1  # a slot may be an object's from this IoU of masks on


def as_annotated(outputs: RawOutputs, found: dict[int, Rle], truth: Sequence[Rle | None]) -> RawOutputs:
    """A frame's outputs, B = 1, with the slot whose mask fits an object best, all objects together, in the object's own
    row. Where none fits, or the object is hidden, its row shows no mask.

    found: by slot its mask. truth: each object's mask, None where it is hidden.
    """
    count = outputs.queries.shape[1]
    objects = [row for row, mask in enumerate(truth[:count]) if mask is not None]
    slots = sorted(found)
    own: dict[int, int] = {}
    if objects and slots:
        overlap = coco_mask.iou(
            [found[slot] for slot in slots], [truth[row] for row in objects], [False] * len(objects)
        )
        pairs = zip(*linear_sum_assignment(-overlap), strict=True)
        own = {objects[column]: slots[place] for place, column in pairs if overlap[place, column] > FITS}
    others = iter([slot for slot in range(count) if slot not in set(own.values())])
    order = np.array([own[row] if row in own else next(others) for row in range(count)])
    shown = np.array([row for row in range(count) if row in own or row >= len(truth)], np.int64)
    return outputs.permuted(order).with_masks_of(shown)
