"""How a decoded frame is brought upright: the display matrix that the decoder lays beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from l2g.runtime.video.sources.base import Image


@dataclass(frozen=True)
class Orientation:
    """Transpose, flip rows, flip columns, in that order; nearest quarter turn."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def upright(self, image: Image) -> Image:
        """image: uint8 [H, W, 3] as decoded. Contiguous, and the same array where nothing is to be done."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """From the frame's display matrix, where it has one (containers' rotation, EXIF of photographs)."""
    side_data = cast(Mapping[SideDataType, Any], frame.side_data)
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return Orientation()
    # 3 x 3, row major, 16.16 fixed point: (x', y') = (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].astype(np.float64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, bool(b < 0), bool(c < 0))
    return Orientation(False, bool(d < 0), bool(a < 0))


def _member_without_a_name(kind: type[Enum], value: Any) -> Enum | None:
    if not isinstance(value, int):
        return None
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# FFmpeg grows kinds of side data faster than PyAV names them (EXIF is one), and one that is unknown makes all of a
# frame's side data unreadable, the display matrix among them.
SideDataType._missing_ = classmethod(_member_without_a_name)  # type: ignore[method-assign, assignment]
