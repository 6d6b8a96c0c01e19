"""What the header of a picture file claims of its size, read before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

# Of a directory of a TIFF: width, height, what there is beside colours; its types of one number, by their bytes.
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_EXTRA = 256, 257, 338
_ALPHA_WITHIN, _ALPHA_BESIDE = 1, 2
_NOTHING = (0, 0)
_JPEG_2000 = b"\xff\x4f\xff\x51"  # a stream begins, its size follows
_TIFF_BYTES = {1: 1, 3: 2, 4: 4, 16: 8}
# Where the size and the orientation of an AVIF are said: box by box, and what is in a box before its boxes.
_AVIF_WAY = ((b"meta", 4), (b"iprp", 0), (b"ipco", 0))


def claimed_size(data: bytes, page: int = 0) -> tuple[int, int]:
    """(height, width) that the header of a PNG, BMP, JPEG, JPEG 2000, TIFF, WebP or AVIF claims, of a TIFF that of its
    `page`; (0, 0) for others, and where nothing is claimed."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[:2] == b"BM":
        if int.from_bytes(data[14:18], "little") == 12:  # OS/2's header: two bytes a side
            return int.from_bytes(data[20:22], "little"), int.from_bytes(data[18:20], "little")
        sides = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (22, 18))
        height, width = map(abs, sides)  # negative where the rows run downwards
        return height, width
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[4:8] == b"ftyp":
        return _avif(data)
    if data[:4] == _JPEG_2000 or data[4:8] == b"jP  ":
        return _jpeg_2000(data)
    if data[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
        found = next((tags for number, tags in enumerate(_tiff(data)) if number == page), {})
        return found.get(_TIFF_HEIGHT, _NOTHING)[0], found.get(_TIFF_WIDTH, _NOTHING)[0]
    return 0, 0


def with_straight_colours(data: bytes) -> bytes:
    """A picture file whose colours come as they are stored: libtiff multiplies those of a TIFF by its alpha, unless
    the file says that they are multiplied already. Every other file is returned as it is."""
    if data[:2] not in (b"II", b"MM"):
        return data
    places = [at for tags in _tiff(data) for value, at in [tags.get(_TIFF_EXTRA, _NOTHING)] if value == _ALPHA_BESIDE]
    if not places:
        return data
    changed = bytearray(data)
    for at in places:
        changed[at : at + 2] = _ALPHA_WITHIN.to_bytes(2, "little" if data[:2] == b"II" else "big")
    return bytes(changed)


def _jpeg(data: bytes) -> tuple[int, int]:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, 0


def _jpeg_2000(data: bytes) -> tuple[int, int]:
    """Of its stream, in a file of boxes or bare; a picture is what is right of and below its origin."""
    at = data.find(_JPEG_2000)
    right, below, x, y = (int.from_bytes(data[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(4))
    return (max(0, below - y), max(0, right - x)) if at >= 0 else _NOTHING


def _webp(data: bytes) -> tuple[int, int]:
    """Of the first chunk: the canvas of an extended file, else the picture, with loss or without."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[8:10], "little") & 0x3FFF, int.from_bytes(body[6:8], "little") & 0x3FFF
    return 0, 0


def _avif(data: bytes) -> tuple[int, int]:
    """The largest of its pictures: a grid has tiles, and transparency is a picture of its own."""
    sizes = [
        (int.from_bytes(data[start + 8 : start + 12], "big"), int.from_bytes(data[start + 4 : start + 8], "big"))
        for kind, start, _ in _avif_properties(data)
        if kind == b"ispe"
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _avif_properties(data: bytes) -> list[tuple[bytes, int, int]]:
    """(kind, start, end) of what is said of its pictures."""
    spans = [(0, len(data))]
    for name, skipped in _AVIF_WAY:
        spans = [(start + skipped, end) for span in spans for kind, start, end in _boxes(data, *span) if kind == name]
    return [box for span in spans for box in _boxes(data, *span)]


def avif_turns(data: bytes) -> tuple[int, int | None]:
    """How an AVIF asks to be shown, which decoders leave to others: quarters anticlockwise, then what is mirrored, rows
    (0), columns (1) or nothing (None)."""
    if data[4:8] != b"ftyp":
        return 0, None
    asked = {kind: data[start] for kind, start, end in _avif_properties(data) if start < min(end, len(data))}
    mirror = asked.get(b"imir")
    return asked.get(b"irot", 0) & 3, None if mirror is None else mirror & 1


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of what the boxes of an ISO media file hold."""
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield data[start + 4 : start + 8], start + head, min(end, start + size)
        start += size


def _tiff(data: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """Of each page, as far as its directories lie in the file: by tag its number, and where that lies."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, count: int) -> int:
        return int.from_bytes(data[at : at + count], order)

    # Classic TIFF: 2 bytes count entries of 12, offsets of 4; BigTIFF: 8 bytes, entries of 20, offsets of 8.
    is_classic = number(2, 2) == 42
    counting, entry, offset, first = (2, 12, 4, 4) if is_classic else (8, 20, 8, 8)
    at, seen = number(first, offset), set[int]()
    while at and at not in seen and at < len(data):
        seen.add(at)
        entries = min(number(at, counting), (len(data) - at) // entry)
        found = {}
        for place in range(at + counting, at + counting + entries * entry, entry):
            tag, kind = number(place, 2), number(place + 2, 2)
            if tag in (_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_EXTRA):
                found[tag] = number(place + 4 + offset, _TIFF_BYTES.get(kind, 0)), place + 4 + offset
        yield found
        at = number(at + counting + number(at, counting) * entry, offset)
