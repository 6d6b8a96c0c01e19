"""Words as pictures: coverage masks of text, for whichever OpenCV is installed.

OpenCV 5 carries outline fonts for Latin, Greek, Cyrillic, Arabic, Chinese, Japanese and Korean. OpenCV 4 has stroke
fonts of ASCII only: there accents are left away, and a name in another script has to be replaced (`drawable`).
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache

import cv2
import numpy as np

# Longest name drawn; what is longer ends in dots.
LONGEST_NAME = 24
OUTLINE_FONTS = hasattr(cv2, "FontFace")
# OpenCV 4: height of a line of the stroke font at scale 1, in pixels.
_STROKE_LINE = 34.0
# Of OpenCV 5's variable font; 400 is "regular", which is thin at 11 pixels on a coloured ground.
_WEIGHT = 500
# A font keeps the place where it writes; several videos are drawn at once.
_font_lock = threading.Lock()


def drawable(name: str, otherwise: str) -> str:
    """`name` in one line, shortened, and in letters that the font has; `otherwise` where none of it can be drawn."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if not OUTLINE_FONTS:
        found = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode().strip()
        name = found if any(c.isalnum() for c in found) else otherwise
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 2].rstrip() + ".."


@lru_cache(maxsize=2048)
def text_mask(text: str, size: int) -> np.ndarray:
    """uint8 [round(1.45 * size), W]: how far letters cover each pixel, 255 fully. size: of the font, in pixels."""
    height, baseline = round(1.45 * size), round(1.1 * size)
    # Wide enough for anything, since text that reaches the edge would be wrapped.
    canvas = np.zeros((height, 2 * size * (len(text) + 1)), np.uint8)
    with _font_lock:
        _put_text(canvas, text, (1, baseline), size)
    columns = np.flatnonzero(canvas.any(axis=0))
    mask: np.ndarray = canvas[:, : columns[-1] + 1 if columns.size else 0].copy()
    mask.flags.writeable = False  # it is shared by everyone who asks
    return mask


def _put_text(canvas: np.ndarray, text: str, origin: tuple[int, int], size: int) -> None:
    if OUTLINE_FONTS:
        cv2.putText(canvas, text, origin, (255,), _font(), size, _WEIGHT)
    else:
        line = max(1, round(size / 18))
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size / _STROKE_LINE, (255,), line, cv2.LINE_AA)


@lru_cache(maxsize=1)
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")
