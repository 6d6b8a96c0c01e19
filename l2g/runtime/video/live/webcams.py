"""Cameras of this machine by number or name, in the way of its system: Video4Linux, AVFoundation, DirectShow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from l2g.errors import VideoError
from l2g.runtime.video.sources.base import reason


class Webcam(NamedTuple):
    """What FFmpeg opens, by which of its devices, and what people call it."""

    url: str
    format: str
    name: str


def find_webcam(asked: str) -> Webcam:
    """The camera of a number, or of a name (or a part of it that no other has). VideoError, which names those that are
    there, where there is none."""
    there = _webcams()
    if asked.isdecimal():
        found = [webcam for number, webcam in there if number == int(asked)]
    else:
        exact = [webcam for _, webcam in there if webcam.name == asked]
        found = exact or [webcam for _, webcam in there if asked.lower() in webcam.name.lower()]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{number} ({webcam.name})" for number, webcam in there)
    fault = "fits several" if found else "is not there"
    mend = f"there are {listed}" if there else "no camera is connected, or this user may not see it"
    raise VideoError(f"camera {asked} {fault}; {mend}")


def _webcams() -> Sequence[tuple[int, Webcam]]:
    """Those that are there, with the numbers that the system gives them."""
    if sys.platform == "darwin":
        # AVFoundation knows them by number: FFmpeg takes what follows a colon for a microphone.
        return [(int(name), Webcam(f"{name}:none", "avfoundation", text)) for name, text in _listed("avfoundation")]
    if sys.platform == "win32":
        # By the device's own name, which two cameras of one kind do not share.
        return [(n, Webcam(f"video={name}", "dshow", text)) for n, (name, text) in enumerate(_listed("dshow"))]
    devices = sorted((int(path.name[5:]), path) for path in Path("/dev").glob("video*") if path.name[5:].isdecimal())
    return [(number, Webcam(str(path), "v4l2", _name_of(path))) for number, path in devices]


def _listed(device: str) -> list[tuple[str, str]]:
    """(name, description) of FFmpeg's cameras of a kind."""
    try:
        from av.device import enumerate_input_devices

        found = enumerate_input_devices(device)
    except ImportError:
        raise VideoError("cameras by number or name need PyAV 18; pip install -U av") from None
    except (ValueError, OSError) as error:
        raise VideoError(f"this PyAV does not list cameras by {device} ({reason(error)})") from None
    return [(each.name, each.description) for each in found if "video" in each.media_types or not each.media_types]


def _name_of(device: Path) -> str:
    try:
        return Path("/sys/class/video4linux", device.name, "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return str(device)
