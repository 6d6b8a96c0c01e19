"""Colour matrices that FFmpeg's scaler has no name for (H.273, table 4)."""

from __future__ import annotations

import av

from l2g.errors import VideoError

_DERIVED = 12
# Primaries -> the matrix that follows from them: BT.709, BT.2020, SMPTE 170M and 240M.
_OF_PRIMARIES = {1: 1, 9: 9, 6: 7, 7: 7}
_OTHERS = {
    8: "YCgCo",
    10: "BT.2020 of constant luminance",
    11: "SMPTE 2085",
    _DERIVED: "a matrix of unknown primaries",
    13: "a matrix of constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def same_matrix(name: str, frame: av.VideoFrame) -> int | None:
    """A matrix that is the frame's own under another number, None where its number will do.

    Raises VideoError where its colours cannot be converted. name: of the source, for the message.
    """
    matrix = int(frame.colorspace)
    if matrix == _DERIVED and int(frame.color_primaries) in _OF_PRIMARIES:
        return _OF_PRIMARIES[int(frame.color_primaries)]
    if matrix in _OTHERS:
        raise VideoError(
            f"{name}: its colours are coded as {_OTHERS[matrix]}, which cannot be converted here; "
            "convert them with ffmpeg -i IN -vf zscale=matrix=709,format=yuv420p OUT"
        )
    return None
