"""Frames of another shape than their source's first one."""

from __future__ import annotations

import cv2
import numpy as np

from l2g.contract import PAD_VALUE
from l2g.runtime.video.sources.base import Image


def fit(image: Image, height: int, width: int) -> tuple[Image, bool]:
    """`image` (uint8 [h, w, 3]) scaled into height x width, and whether its shape was another.

    The aspect ratio is kept: the picture lies at the top left, the rest has the colour of the network canvas's padding.
    A difference of less than a pixel is rounding and is scaled away.
    """
    if image.shape[:2] == (height, width):
        return image, False
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height, inner_width = image.shape[0] * scale, image.shape[1] * scale
    same_shape = height - inner_height < 1 and width - inner_width < 1
    if same_shape:
        inner_height, inner_width = height, width
    size = (max(1, round(inner_width)), max(1, round(inner_height)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if same_shape:
        return np.asarray(scaled, dtype=np.uint8), False
    frame = np.empty((height, width, 3), dtype=np.uint8)
    frame[...] = PAD_VALUE
    frame[: size[1], : size[0]] = scaled
    return frame, True
