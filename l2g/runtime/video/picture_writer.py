"""The overlay of a single picture: a PNG file, without loss."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from l2g.errors import VideoError
from l2g.files import write_bytes
from l2g.runtime.video.run_folder import RunFile


class PictureWriter:
    """Takes one uint8 [H, W, 3] RGB picture and gives it its name on closing; a context manager like VideoWriter."""

    def __init__(self, target: str | Path | RunFile) -> None:
        self._run = target if isinstance(target, RunFile) else None
        self.path = target.path if isinstance(target, RunFile) else Path(target)
        self._image: npt.NDArray[np.uint8] | None = None

    def write(self, image: npt.NDArray[np.uint8], time: float) -> None:
        """The last picture written is the one that is kept; `time` has no meaning here."""
        self._image = image

    def close(self) -> None:
        """Write the file; without a picture nothing is left behind. VideoError when that fails."""
        if self._image is None or (self._run and self._run.kept):
            return
        image, self._image = self._image, None
        _, coded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        write_bytes(self.path, coded.tobytes(), VideoError)

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
