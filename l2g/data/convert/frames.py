"""The frames of a foreign annotation: a folder of pictures beside it, or a video file, which is taken apart once."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import cv2

from l2g.data.checks import is_directory
from l2g.data.pictures import read_picture
from l2g.errors import DataError
from l2g.files import cache_root, folder_atomically

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, by name; none where it is none."""
    if not is_directory(folder):
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)


def frames_of(folder: Path, name: str) -> list[Path]:
    """The frames of video `name` (or name.mp4) of an annotation that lies in `folder`.

    Looked for are folders of pictures of that name, alone or below `frames` or `images`, then a video file, whose
    frames go to the cache. DataError where there is neither.
    """
    stem = Path(name).stem if Path(name).suffix.lower() in VIDEOS else name
    places = [folder / stem, folder / "frames" / stem, folder / "images" / stem]
    for place in places:
        if found := pictures_in(place):
            return found
    files = [folder / f"{stem}{suffix}" for suffix in VIDEOS] + [folder / "videos" / f"{stem}{s}" for s in VIDEOS]
    for file in files:
        if file.is_file():
            return _taken_apart(file)
    raise DataError(f"no frames of video '{name}' in '{folder}'; put them into '{places[0]}', or the video beside it")


def _taken_apart(file: Path) -> list[Path]:
    """The frames of a video file as PNG files in the cache."""
    from l2g.runtime.video.source import open_source

    facts = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache_root() / "frames" / f"{file.stem}-{key}"
    if not folder.is_dir():
        with folder_atomically(folder, DataError) as part, open_source(os.fspath(file)) as source:
            for number, frame in enumerate(source):
                write_picture(part / f"{number:06d}.png", frame.image)
    return pictures_in(folder)


def write_picture(path: Path, picture) -> None:
    """uint8 [H, W, 3] RGB or any single channel as a file; JPEG at quality 95 with full chroma."""
    shown = picture[..., ::-1] if picture.ndim == 3 else picture
    if not cv2.imwrite(str(path), shown, JPEG if path.suffix == ".jpg" else []):
        raise DataError(f"'{path}' cannot be written; is the disk full?")


def put_picture(source: Path, target: Path) -> bool:
    """Copy a picture file, or write it anew where the suffix is to be another; whether it was written anew."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix.lower() == target.suffix:
        shutil.copyfile(source, target)
        return False
    write_picture(target, read_picture(source))
    return True


def size_of(picture: Path) -> tuple[int, int]:
    """(height, width) of a picture file. DataError where it cannot be read."""
    height, width = read_picture(picture).shape[:2]
    return height, width
