"""The look of synthetic objects: an outline and a texture family per class, colours that say nothing of the class."""

from __future__ import annotations

import colorsys
from functools import cache, lru_cache

import cv2
import numpy as np

# A class is a pair of outline and texture; the label of a class is its position here.
CLASSES = (
    ("disc", "stripes"),
    ("square", "checks"),
    ("triangle", "dots"),
    ("star", "border"),
    ("cross", "gradient"),
    ("ring", "spokes"),
    ("crescent", "speckle"),
    ("hexagon", "circles"),
)
CLASS_NAMES = tuple(f"{texture} {shape}" for shape, texture in CLASSES)

POINTS = 72  # of every outline, so that the geometry of all sprites is one array
VARIANTS = 4  # of each texture: frequency and phase
_REACH = 1.25  # texture coordinates cover [-_REACH, _REACH] in units of the outline's radius


@cache
def outline(shape: str) -> tuple[np.ndarray, int]:
    """The outline float64 [POINTS, 2] within the unit circle, and where its second contour (a hole) begins."""
    if shape == "ring":
        hole = 24
        return np.concatenate([_circle(POINTS - hole), 0.42 * _circle(hole)]), POINTS - hole
    if shape in ("disc", "blob"):
        return _circle(POINTS), POINTS
    if shape == "crescent":
        return _resample(_crescent()), POINTS
    return _resample(_VERTICES[shape]()), POINTS


def _circle(points: int) -> np.ndarray:
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _crescent() -> np.ndarray:
    """The unit disc less a disc of radius 0.75 at (0.55, 0)."""
    bite, radius = 0.55, 0.75
    x = (1 + bite**2 - radius**2) / (2 * bite)
    outer = np.linspace(np.arccos(x), 2 * np.pi - np.arccos(x), 60)
    start = np.arctan2(-np.sqrt(1 - x * x), x - bite) + 2 * np.pi
    inner = np.linspace(start, 2 * np.pi - start, 40)
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], 1),
            np.stack([bite + radius * np.cos(inner), radius * np.sin(inner)], 1),
        ]
    )


def _star() -> np.ndarray:
    angle = np.arange(10) * (np.pi / 5)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.52)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _cross() -> np.ndarray:
    a, b = 0.36, 0.92
    return np.array(
        [(a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a), (-a, -b), (a, -b), (a, -a), (b, -a), (b, a)]
    )


_VERTICES = {
    "square": lambda: 0.98 * _circle(4),
    "bar": lambda: np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], np.float64),
    "triangle": lambda: _circle(3),
    "hexagon": lambda: _circle(6),
    "star": _star,
    "cross": _cross,
}


def _resample(vertices: np.ndarray) -> np.ndarray:
    """POINTS points at equal distances along the closed polygon, the corners kept as nearly as that allows."""
    closed = np.concatenate([vertices, vertices[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, along[-1], POINTS, endpoint=False)
    return np.stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)], 1)


@lru_cache(maxsize=512)
def pattern(texture: str, variant: int, size: int) -> np.ndarray:
    """How much of the second colour each texel has: uint8 [size, size], 0..255."""
    axis = (np.arange(size) + 0.5) / size * 2 * _REACH - _REACH
    v, u = np.meshgrid(axis, axis, indexing="ij")
    weight = _TEXTURES[texture](u, v, variant)
    return np.rint(255 * np.clip(weight, 0, 1)).astype(np.uint8)


def texels_per_radius(size: int) -> float:
    """Texels of a [size, size] pattern per unit of the outline."""
    return size / (2 * _REACH)


def _steep(wave: np.ndarray) -> np.ndarray:
    """A sine's values to a softened square wave in 0..1."""
    return 0.5 + 2.0 * wave


def _stripes(u, v, variant):
    return _steep(np.sin(2 * np.pi * ((1.6 + 0.25 * variant) * u + 0.2 * variant)))


def _checks(u, v, variant):
    f = np.pi * (1.6 + 0.2 * variant)
    return _steep(1.5 * np.sin(f * u + variant) * np.sin(f * v))


def _dots(u, v, variant):
    f = np.pi * (2.6 + 0.3 * variant)
    return 0.5 + 4.0 * (np.cos(f * u) * np.cos(f * v) - 0.45)


def _border(u, v, variant):
    size = u.shape[0]
    points, _ = outline("star")
    inner = np.full((size, size), 255, np.uint8)
    at = (points * (0.62 - 0.04 * variant) + _REACH) * size / (2 * _REACH) - 0.5
    cv2.fillPoly(inner, [np.rint(at * 16).astype(np.int32)], 0, cv2.LINE_AA, 4)
    return inner / 255.0


def _gradient(u, v, variant):
    angle = 0.4 * variant
    return 0.5 + 0.62 * (u * np.cos(angle) + v * np.sin(angle))


def _spokes(u, v, variant):
    return _steep(np.sin((6 + variant) * np.arctan2(v, u)))


def _speckle(u, v, variant):
    grid = np.random.default_rng([71, variant]).random((11, 11))
    return 0.5 + 3.0 * (cv2.resize(grid, u.shape[::-1], interpolation=cv2.INTER_CUBIC) - 0.55)


def _circles(u, v, variant):
    return _steep(np.sin(2 * np.pi * (1.7 + 0.2 * variant) * np.hypot(u, v) + 0.7 * variant))


def _grain(u, v, variant):
    """Streaks, for bars and blobs in the foreground."""
    grid = np.random.default_rng([72, variant]).random((24, 5))
    return cv2.resize(grid, u.shape[::-1], interpolation=cv2.INTER_CUBIC)


_TEXTURES = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "border": _border,
    "gradient": _gradient,
    "spokes": _spokes,
    "speckle": _speckle,
    "circles": _circles,
    "grain": _grain,
}


@lru_cache(maxsize=1)
def background_field() -> np.ndarray:
    """Value noise of four octaves, uint8 [512, 512], continuous across its edges; a scene sees a part of it."""
    rng = np.random.default_rng(70)
    total = np.zeros((512, 512))
    for cells, weight in ((8, 1.0), (16, 0.8), (32, 0.55), (64, 0.3)):
        grid = np.pad(rng.random((cells, cells)), 2, mode="wrap")
        step = 512 // cells
        fine = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += weight * fine[2 * step : 2 * step + 512, 2 * step : 2 * step + 512]
    low, high = np.percentile(total, (2, 98))
    return np.rint(255 * np.clip((total - low) / (high - low), 0, 1)).astype(np.uint8)


@lru_cache(maxsize=8)
def sensor_noise(height: int, width: int, level: int) -> np.ndarray:
    """Gaussian noise int16 [height + 64, width + 64, 3] of standard deviation `level`; a frame takes a window of it."""
    rng = np.random.default_rng([73, level])
    return np.rint(rng.normal(0, level, (height + 64, width + 64, 3))).astype(np.int16)


@lru_cache(maxsize=8)
def _ramp(stops: int) -> np.ndarray:
    """float64 [256, stops]: linear interpolation between evenly spaced stops as a matrix."""
    at = np.linspace(0, stops - 1, 256)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(stops)), 0)


def colour_table(stops: list[tuple[float, float, float]]) -> np.ndarray:
    """uint8 [1, 256, 3] for cv2.LUT: RGB colours from HSV stops (each 0..1), evenly spaced and interpolated."""
    rgb = np.array([colorsys.hsv_to_rgb(*stop) for stop in stops]) * 255
    return np.rint(_ramp(len(stops)) @ rgb).astype(np.uint8)[None]


def coloured(weights: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A map uint8 [h, w] through a colour table: uint8 [h, w, 3]."""
    return cv2.LUT(cv2.cvtColor(weights, cv2.COLOR_GRAY2RGB), table)
