"""Reading picture files: pages, bit depths, and the pictures of an animation."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2g.errors import VideoError
from l2g.runtime.video.sources.base import MAX_PIXELS
from l2g.runtime.video.sources.integrity import jpeg_is_cut
from l2g.runtime.video.sources.picture_size import avif_turns, claimed_size, with_straight_colours

# EXIF orientation is applied; palettes, grey and CMYK become colour; alpha is dropped; 16 bits stay.
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


def read_regular(path: Path) -> bytes | None:
    """The bytes of a regular file, None for what cannot be read; never waits, as for a pipe or a device."""
    try:
        return path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else None
    except (OSError, ValueError):
        return None


def decode_picture(data: bytes, page: int = 0) -> npt.NDArray[Any] | None:
    """[H, W, 3] RGB of 8 or 16 bits; None for what is cut short, broken, too large or not made of whole numbers."""
    height, width = claimed_size(data, page)
    # OpenCV before 5 fills what a JPEG lacks with grey.
    if height * width > MAX_PIXELS or (data[:2] == b"\xff\xd8" and jpeg_is_cut(data)):
        return None
    coded = np.frombuffer(with_straight_colours(data), dtype=np.uint8)
    try:
        if page:
            _, pages = cv2.imdecodemulti(coded, _AS_STORED, range=(page, page + 1))
            image = pages[0] if pages else None
        else:
            image = cv2.imdecode(coded, _AS_STORED) if coded.size else None
    except cv2.error:
        return None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        return None
    turns, mirrored = avif_turns(data)
    if turns:
        image = np.rot90(image, turns)
    if mirrored is not None:
        image = image[::-1] if mirrored == 0 else image[:, ::-1]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB))


def used_bits(image: npt.NDArray[np.uint16]) -> int:
    """How many of its 16 bits a picture uses, as cameras do: 10, 12, or all.

    Sensors of 10 and 12 bits write their numbers into files of 16 as they are. A true 16-bit picture as dark as that
    would be black in 8 bits.
    """
    return next((bits for bits in (10, 12) if image.max() < 1 << bits), 16)


def to_8_bits(image: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.uint8]:
    """Rounded, so that white stays white: 2 ** bits - 1 becomes 255."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=255 / ((1 << bits) - 1)))


def tiff_pages(path: Path) -> int:
    """How many pictures a TIFF file holds; 1 for what is no TIFF."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return 1
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return 1
        with path.open("rb") as file:
            head = file.read(16)
            order = {b"II": "little", b"MM": "big"}.get(head[:2])
            kind = int.from_bytes(head[2:4], order or "little")  # type: ignore[arg-type]
            if order is None or kind not in (42, 43):
                return 1
            # Classic TIFF: 2 bytes count entries of 12, offsets of 4; BigTIFF: 8 bytes, entries of 20, offsets of 8.
            count_bytes, entry_bytes, offset_bytes, at = (2, 12, 4, 4) if kind == 42 else (8, 20, 8, 8)
            offset = int.from_bytes(head[at : at + offset_bytes], order)  # type: ignore[arg-type]
            seen: set[int] = set()
            while offset and offset not in seen:
                file.seek(offset)
                entries = file.read(count_bytes)
                if len(entries) < count_bytes:
                    break
                seen.add(offset)
                count = int.from_bytes(entries, order)  # type: ignore[arg-type]
                file.seek(offset + count_bytes + count * entry_bytes)
                offset = int.from_bytes(file.read(offset_bytes), order)  # type: ignore[arg-type]
    except (OSError, ValueError, OverflowError):
        return 1
    return max(1, len(seen))


@dataclass(frozen=True)
class WebPAnimation:
    """durations: seconds that each picture is shown. is_cut: the file announces more bytes than it holds."""

    durations: tuple[float, ...]
    is_cut: bool


def webp_animation(data: bytes) -> WebPAnimation | None:
    """What the chunks of an animated WebP say; None for everything else."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 21 or not data[20] & 2:
        return None
    durations, position = [], 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"ANMF":
            # Browsers show what has no duration for a tenth of a second.
            milliseconds = int.from_bytes(data[position + 20 : position + 23], "little") or 100
            durations.append(milliseconds / 1000)
        position += 8 + length + length % 2
    return WebPAnimation(tuple(durations), position > len(data) + 1) if durations else None


def is_moving_picture(data: bytes) -> bool:
    """Whether a file that is named like a picture is an APNG or an AVIF sequence, which FFmpeg reads as a video."""
    if data[4:8] == b"ftyp":
        return b"avis" in data[8 : max(8, int.from_bytes(data[:4], "big"))]
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"acTL" in data[: data.find(b"IDAT")]


def decode_animation(name: str, data: bytes, first: int, count: int) -> list[npt.NDArray[np.uint8]]:
    """Pictures `first` to `first + count` of an animated WebP, uint8 [H, W, 3] RGB."""
    if not hasattr(cv2, "imdecodeanimation"):
        raise VideoError(f"{name}: an animated WebP needs OpenCV 5; pip install -U opencv-python-headless")
    try:
        done, animation = cv2.imdecodeanimation(np.frombuffer(data, dtype=np.uint8), start=first, count=count)
    except cv2.error:
        return []
    if not done:
        return []
    return [
        np.asarray(cv2.cvtColor(np.ascontiguousarray(frame[..., :3]), cv2.COLOR_BGR2RGB)) for frame in animation.frames
    ]
