"""A list of cameras in a YAML file, and what is seen of each: turned, a part of it, at a lower rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.errors import VideoError
from l2g.records import Record
from l2g.runtime.video.live.address import without_password
from l2g.runtime.video.sources.base import Image, VideoSource


@dataclass(frozen=True)
class Camera(Record):
    """An entry of the list.

    name: of its results. url: as `--input` takes it. rotation: clockwise, in degrees. region: x1, y1, x2, y2 of the
    upright picture, each 0..1. rate: frames a second at most.
    """

    name: str
    url: str
    rotation: int = 0
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    rate: float | None = None

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.region
        if not self.name.strip():
            raise ValueError("name is empty")
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"rotation {self.rotation} found, 0, 90, 180 or 270 expected")
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            raise ValueError(f"region {list(self.region)} found, x1, y1, x2, y2 from 0 to 1 expected")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate {self.rate:g} found, more than 0 expected")

    def view(self, source: VideoSource) -> VideoSource:
        """What is to be seen of its source, which is open."""
        return source if self == Camera(self.name, self.url) else Viewed(source, self)


def read_cameras(path: str) -> list[Camera]:
    """The cameras of a YAML file, a list of entries. VideoError, which names the entry, for anything else."""
    try:
        from l2g.untrusted.yaml_files import parse_yaml
    except ModuleNotFoundError:
        raise VideoError(f"{path}: a list of cameras needs PyYAML; pip install 'l2g[live]'") from None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    try:
        entries = parse_yaml(text, path, VideoError)
    except VideoError as error:  # which shows the line
        raise VideoError(without_password(str(error))) from None
    if not isinstance(entries, list) or not entries:
        raise VideoError(f"{path}: a list of cameras expected, each with a name and a url")
    cameras: list[Camera] = []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict) and isinstance(entry.get("url"), int):
            entry = {**entry, "url": str(entry["url"])}  # a webcam's number
        try:
            cameras.append(Camera.from_json(entry, f"camera {number}"))
        except (TypeError, ValueError) as error:
            raise VideoError(f"{path}: camera {number}: {without_password(str(error))}") from None
    names = [camera.name for camera in cameras]
    if twice := [name for name in names if names.count(name) > 1]:
        raise VideoError(f"{path}: two cameras have the name '{twice[0]}'; give each its own")
    return cameras


class Viewed(VideoSource):
    """What a list of cameras wants of a source, once that is open."""

    def __init__(self, source: VideoSource, camera: Camera):
        super().__init__(source.name, source.selection)
        self.inner, self._camera = source, camera
        self.notices = source.notices
        self._shaped = False
        if source.is_open:
            self._take_shape()

    def await_open(self) -> None:
        self.inner.await_open()
        if not self._shaped:
            self._take_shape()

    def _take_shape(self) -> None:
        source, camera = self.inner, self._camera
        self.files, self.is_picture = source.files, source.is_picture
        self.part = f"{source.part} {camera.rotation} {camera.region} {camera.rate}"
        self.expected_frames = None if camera.rate else source.expected_frames
        self.frame_rate = min(source.frame_rate, camera.rate or math.inf)
        height, width, aspect = source.height, source.width, source.pixel_aspect
        if camera.rotation in (90, 270):
            height, width, aspect = width, height, 1 / aspect
        x1, y1, x2, y2 = camera.region
        self._rows = slice(round(y1 * height), max(round(y2 * height), round(y1 * height) + 1))
        self._columns = slice(round(x1 * width), max(round(x2 * width), round(x1 * width) + 1))
        self.height, self.width = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start
        self.pixel_aspect, self._shaped = aspect, True

    @property
    def is_open(self) -> bool:  # type: ignore[override]  # plain attributes in others, as below
        # It may be found in the background at any moment. Two threads that take its shape at once write the same.
        if not self._shaped and self.inner.is_open:
            self._take_shape()
        return self._shaped

    @property
    def is_live(self) -> bool:  # type: ignore[override]
        return self.inner.is_live

    @property
    def since(self) -> float | None:  # type: ignore[override]
        return self.inner.since

    @property
    def say(self) -> Callable[[str], None] | None:  # a plain attribute in others
        return self.inner.say

    @say.setter
    def say(self, say: Callable[[str], None] | None) -> None:
        self.inner.say = say

    @property
    def connection(self) -> int:  # type: ignore[override]  # a plain number in sources that are never lost
        return self.inner.connection

    @property
    def damage(self) -> str | None:  # type: ignore[override]
        return self.inner.damage

    def stop(self) -> None:
        self.inner.stop()

    def close(self) -> None:
        self.inner.close()

    def _decode(self) -> Iterator[tuple[int, float, Callable[[], Image]]]:
        due, step = -math.inf, 1 / (self._camera.rate or math.inf)
        for index, time, read in self.inner._decode():
            if time < due - 1e-6:
                continue
            # On a raster, so that 10 of 25 a second are 10; after a gap it begins anew.
            due = due + step if time - due < step else time + step
            yield index, time, lambda read=read: self._view(read())  # type: ignore[misc]

    def _view(self, image: Image) -> Image:
        turned = np.rot90(image, -self._camera.rotation // 90)
        return np.ascontiguousarray(turned[self._rows, self._columns])
