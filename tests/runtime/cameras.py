"""A camera on this machine that shows blobs."""

from __future__ import annotations

from benchmarks import camera
from tests.runtime.blobs import scene


class Camera(camera.Camera):
    """See `benchmarks.camera.Camera`."""

    def __init__(self, rate=20, size=(64, 96)):
        super().__init__(list(walk(*size)), rate)


def walk(height, width, frames=40):
    """A red block to the right and back, a green one that stays."""
    for i in range(frames):
        x = 4 + min(i, frames - i)
        yield scene(height, width, [(0, (x, 8, x + 24, 32)), (1, (60, 40, 84, 60))])
