"""Whether a local file has lost its end, told from its own structure and not from the durations that it states."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

# The most of a file that is read to find its last marker.
_TAIL = 1 << 20


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
                return not _tail(file, size).rstrip(b"\0").endswith(b";")
            if head[:8] == b"\x89PNG\r\n\x1a\n":
                return b"IEND" not in _tail(file, size)
            if head[:2] == b"\xff\xd8":
                file.seek(0)
                return jpeg_is_cut(file.read())
    except OSError:
        return None
    return None


def jpeg_is_cut(data: bytes) -> bool:
    """Compressed data never hold a marker: the last scan has to be followed by the end of a picture."""
    return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


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
        if length == 0:  # to the end of the file
            return False
        if length < 8:
            return False  # junk behind the last box
        position += length
    return position > size


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
