"""Pictures as a video: the files of a folder, files that are named one by one, pages, one picture, an animated WebP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from l2g.errors import VideoError
from l2g.runtime.video.sources.base import (
    PICTURE_SUFFIXES,
    Image,
    Selection,
    VideoSource,
    check_size,
    is_picture_name,
    said_unreadable,
    shown,
)
from l2g.runtime.video.sources.fit import fit
from l2g.runtime.video.sources.picture_file import (
    WebPAnimation,
    decode_animation,
    decode_picture,
    read_regular,
    tiff_pages,
    to_8_bits,
    used_bits,
)

# Decoded pictures of an animation that are held at once.
_ANIMATION_BYTES = 1 << 27


def pictures_of_folder(folder: Path) -> list[Path]:
    """Its pictures in natural order of their names (frame2 before frame10); VideoError when there are none."""
    try:
        files = [file for file in folder.iterdir() if is_picture_name(file)]
    except OSError as error:
        raise VideoError(f"{shown(folder)}: cannot be read ({error.strerror}); check its permissions") from None
    if not files:
        expected = ", ".join(PICTURE_SUFFIXES)
        raise VideoError(f"{shown(folder)}: no pictures in this folder; expected files ending in {expected}")
    return in_natural_order(files)


def in_natural_order(files: Sequence[Path]) -> list[Path]:
    return sorted(files, key=lambda file: _natural(str(file)))


class PictureSequence(VideoSource):
    """Picture files one after the other at a fixed rate, each page of a TIFF a frame; a single one is a picture.

    Pictures of another shape than the first are letterboxed into its frame.
    """

    def __init__(self, name: str, files: Sequence[Path], selection: Selection, picture_rate: float):
        super().__init__(name, selection)
        self.files = tuple(files)
        self.frame_rate = picture_rate
        self._pages = [(file, page) for file in files for page in range(tiff_pages(file))]
        self._of_several_pages = sorted({file.name for file, page in self._pages if page})
        self.is_picture = len(self._pages) == 1
        self._bits = 0
        self._other_shapes: list[str] = []
        self._held: tuple[Path, bytes | None] | None = None
        first = next((image for image in map(self._read, self._pages) if image is not None), None)
        if first is None:
            raise VideoError(f"{name}: none of its {len(self._pages)} pictures can be read")
        self.height, self.width = first.shape[:2]
        check_size(name, self.height, self.width)
        self._interval = 1 / Fraction(picture_rate).limit_denominator(1_000_000)
        inside = sum(selection.spans(self._time(index)) for index in range(len(self._pages)))
        self.expected_frames = -(-inside // selection.stride)
        if self._of_several_pages:
            self.notices.append(
                f"{name}: {shown(self._of_several_pages[0])} holds several pictures: each is a frame, "
                f"{picture_rate:g} a second"
            )

    def _time(self, index: int) -> float:
        return float(index * self._interval)

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        for index, page in enumerate(self._pages):
            time = self._time(index)
            if time < self.selection.first:
                continue
            image = self._read(page)
            if image is None:
                if self.selection.spans(time):  # of one outside nothing is missed
                    self.unreadable[index] = shown(page[0].name)
                    self.damage = said_unreadable(self.name, self.unreadable)
                continue
            image, other_shape = fit(image, self.height, self.width)
            if other_shape:
                self._other_shapes.append(shown(page[0].name))
                self._say_shapes()
            yield index, time, lambda image=image: image  # type: ignore[misc]

    def _say_shapes(self) -> None:
        said = f"{self.name}: pictures of another shape than the first are letterboxed into {self.width}x{self.height}"
        self.notices = [notice for notice in self.notices if not notice.startswith(said)]
        self.notices.append(f"{said}: {len(self._other_shapes)}, the first is {self._other_shapes[0]}")

    def _read(self, page: tuple[Path, int]) -> Image | None:
        file, number = page
        if self._held is None or self._held[0] != file:
            self._held = (file, read_regular(file))
        data = self._held[1]
        image = decode_picture(data, number) if data else None
        if image is None or image.dtype == np.uint8:
            return image
        bits = used_bits(image)
        if bits > self._bits:
            # What is brighter than all before it tells more of the camera; a sequence does not go back.
            self._bits = bits
            if bits < 16:
                self.notices.append(f"{self.name}: 16-bit pictures that use {bits} bits; brightened to match")
        return to_8_bits(image, self._bits)


class AnimatedWebP(VideoSource):
    """An animated WebP, which FFmpeg does not decode; a bounded number of its pictures is held at once."""

    def __init__(self, name: str, file: Path, data: bytes, animation: WebPAnimation, selection: Selection):
        super().__init__(name, selection)
        self.files = (file,)
        self._data, self._animation = data, animation
        milliseconds = [round(1000 * duration) for duration in animation.durations]
        self._times = [sum(milliseconds[:index]) / 1000 for index in range(len(milliseconds))]
        self.frame_rate = len(milliseconds) / (sum(milliseconds) / 1000)
        self.width = 1 + int.from_bytes(data[24:27], "little")
        self.height = 1 + int.from_bytes(data[27:30], "little")
        check_size(name, self.height, self.width)
        inside = sum(map(selection.spans, self._times))
        self.expected_frames = -(-inside // selection.stride)
        self._chunk = max(1, _ANIMATION_BYTES // (4 * self.height * self.width))
        self._first = decode_animation(name, data, 0, self._chunk)
        if not self._first:
            raise VideoError(f"{name}: no frame can be decoded; is the file complete, and OpenCV 5 or newer?")

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        images, self._first, done = self._first, [], 0
        while images:
            for image in images[: len(self._times) - done]:
                yield done, self._times[done], lambda image=image: image  # type: ignore[misc]
                done += 1
            images = decode_animation(self.name, self._data, done, self._chunk) if done < len(self._times) else []
        if done < len(self._times) or self._animation.is_cut:
            self.damage = f"{self.name}: the file is damaged: it ends after {done} pictures"


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part)
        for part in re.split(r"([0-9]+)", name)
    ]
