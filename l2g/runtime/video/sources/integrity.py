"""Whether a local file has lost its end, told from its own structure and not from the durations that it states."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import BinaryIO

# The most of a file that is read to find its last marker.
_TAIL = 1 << 20
# Marks of a JPEG; compressed data hold none but restarts (d0 to d7).
_JPEG_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# What an ISO media file may end in the middle of. Cameras lay what is no box behind the last one.
_BOXES = (
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"mfra", b"sidx",
    b"pnot",
)  # fmt: skip


def is_cut(path: Path) -> bool | None:
    """True where the file's structure announces more bytes than it holds, False where it is whole, None if untold."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            if head[:4] == b"RIFF":
                return _riff_is_cut(file, size)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
                return _boxes_are_cut(file, size)
            if head[:4] == b"\x1a\x45\xdf\xa3":
                return _matroska_is_cut(file, size)
            if head[:4] == b"GIF8":
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _gif_is_cut(data)
            if head[:8] == b"\x89PNG\r\n\x1a\n":
                return b"IEND" not in _tail(file, size)
            if head[:2] == b"\xff\xd8":
                file.seek(0)
                return jpeg_is_cut(file.read())
    except OSError:
        return None
    return None


def jpeg_is_cut(data: bytes) -> bool:
    """Whether the first picture of the file lacks its end. Phones lay more behind it: a video, a map of depths."""
    position = 2
    while mark := _JPEG_MARK.search(data, position):
        kind, position = data[mark.end() - 1], mark.end()
        if kind == 0xD9:
            return False
        if kind not in (0x01, 0xD8):  # these two alone have no length
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return True


def _gif_is_cut(data: mmap.mmap) -> bool | None:
    """Block by block to the trailer, whatever lies behind it; None where it is no block."""

    def colours(packed: int) -> int:
        return 6 << (packed & 7) if packed & 0x80 else 0

    position = 13 + colours(data[10]) if len(data) > 10 else 13
    while position < len(data):
        kind, position = data[position], position + 1
        if kind == 0x3B:
            return False
        if kind == 0x2C:  # a picture: its place, its colours, the width of its codes
            position += 10 + colours(data[position + 8]) if position + 8 < len(data) else len(data)
        elif kind == 0x21:
            position += 1
        else:
            return None
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return True


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - _TAIL))
    return file.read()


def _riff_is_cut(file: BinaryIO, size: int) -> bool | None:
    """AVI beyond 1 GB is several RIFF chunks, one after the other; recorders that crash leave their size at 0."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF":
            return False if position else None
        if length in (0, 0xFFFFFFFF):
            return None
        position += 8 + length + length % 2
    return position > size + 1  # the last one may lack its padding


def _boxes_are_cut(file: BinaryIO, size: int) -> bool:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file; else junk behind the last box
            return False
        position += length
        if position > size:
            return head[4:8] in _BOXES
    return False


def _matroska_is_cut(file: BinaryIO, size: int) -> bool | None:
    """Two elements, each identity, length, content: the header and the segment. A live recording has no length."""
    position = 0
    for _ in range(2):
        file.seek(position)
        head = file.read(16)
        identity = _vint_length(head[0]) if head else 0
        if not 0 < identity <= 4 or len(head) <= identity:
            return None
        width = _vint_length(head[identity])
        if not 0 < width <= 8 or len(head) < identity + width:
            return None
        value = int.from_bytes(head[identity : identity + width], "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return None
        position += identity + width + value
    return position > size


def _vint_length(first: int) -> int:
    """Bytes of an EBML number, told by the leading zeros of its first one; 0 for none."""
    return 9 - first.bit_length() if first else 0
