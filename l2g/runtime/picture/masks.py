"""One instance's mask at source resolution, kept as the patch that it covers, and its run-length code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from l2g.runtime.arrays import BoolArray


@dataclass(frozen=True)
class InstanceMask:
    """A binary mask on a picture of `height` x `width` pixels.

    Only the tight patch is stored: most objects cover a small part of a large picture, and cutting, drawing and coding
    cost what the object costs.

    patch: bool [h, w], its first row and column at (`top`, `left`); 0 x 0 when the mask is empty.
    """

    height: int
    width: int
    top: int
    left: int
    patch: BoolArray

    @classmethod
    def from_patch(cls, patch: BoolArray, top: int, left: int, height: int, width: int) -> InstanceMask:
        """Trim `patch` (bool [h, w] at (`top`, `left`) of a `height` x `width` picture) to what is set in it."""
        column, row, columns, rows = cv2.boundingRect(patch.view(np.uint8)) if patch.size else (0, 0, 0, 0)
        if rows == 0:
            return cls(height, width, 0, 0, np.zeros((0, 0), dtype=bool))
        return cls(height, width, top + row, left + column, patch[row : row + rows, column : column + columns])

    @property
    def area(self) -> int:
        """Number of pixels set."""
        return int(np.count_nonzero(self.patch))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) in pixels, x2 and y2 just past the last pixel set; all 0 for an empty mask."""
        h, w = self.patch.shape
        return self.left, self.top, self.left + w, self.top + h

    def full(self) -> BoolArray:
        """bool [height, width]."""
        mask = np.zeros((self.height, self.width), dtype=bool)
        h, w = self.patch.shape
        mask[self.top : self.top + h, self.left : self.left + w] = self.patch
        return mask

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length code, {"size": [height, width], "counts": str}, equal to pycocotools' encode."""
        h, w = self.patch.shape
        # Column by column, each with a pixel of nothing before and after it.
        columns = np.zeros((w, h + 2), dtype=np.uint8)
        columns[:, 1:-1] = cv2.transpose(self.patch.view(np.uint8)) if self.patch.size else 0
        pixels = columns.ravel()
        column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), h + 2)
        edges = (self.left + column) * self.height + self.top + row
        # Runs that end at the bottom of one column and start at the top of the next are one run in COCO's order.
        touching = np.flatnonzero(edges[1:] == edges[:-1])
        if touching.size:
            edges = np.delete(edges, np.concatenate([touching, touching + 1]))
        bounds = np.zeros(edges.size + 2, np.int64)
        bounds[1:-1], bounds[-1] = edges, self.height * self.width
        counts = bounds[1:] - bounds[:-1]
        if counts.size > 1 and counts[-1] == 0:
            counts = counts[:-1]
        coded = coco_mask.frPyObjects(
            {"size": [self.height, self.width], "counts": counts.tolist()}, self.height, self.width
        )
        return {"size": [self.height, self.width], "counts": coded["counts"].decode("ascii")}
