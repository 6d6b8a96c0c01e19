"""The stuff behind synthetic objects: four textures whose regions move, and which scroll within them.

Lengths are in scene units, as in `scene`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from l2g.data.synthetic.shapes import background_field, colour_table, coloured

# A class is a texture in hues of its own; its label is its position here, after those of the things.
STUFF_NAMES = ("clouds", "waves", "bricks", "gravel")
_HUES = (0.61, 0.42, 0.02, 0.15)  # blue, green, red, ochre; 0.05 more or less
_SIDE = 512  # of a texture, texels; every texture continues across its edges
_TEXELS = (0.8, 2.0, 2.0, 2.0)  # of each texture to a scene unit


@dataclass(frozen=True)
class Ground:
    """The stuff of one shot: S sites, each with the region that is nearest to it, and how each class looks.

    label int [S]: class of each site. centre, reach, period, phase: float [S, 2] of the sites' paths (x, y), `centre`
    as a share of the picture, the rest in scene units, frames and radians. weight float [S]: how much farther than
    others a site reaches, square units. ripple float [2, 4]: amplitude, wavelength, period and phase of the regions'
    edges in x and y. looks: by class; only those of `label` are ever drawn.
    """

    label: np.ndarray
    centre: np.ndarray
    reach: np.ndarray
    period: np.ndarray
    phase: np.ndarray
    weight: np.ndarray
    ripple: np.ndarray
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Look:
    """start: of the texture at the picture's middle, a share of its side. angle: radians. zoom: factor. drift: scene
    units a frame (x, y). table: colours for cv2.LUT."""

    start: tuple[float, float]
    angle: float
    zoom: float
    drift: tuple[float, float]
    table: np.ndarray


def sample_ground(rng: np.random.Generator) -> Ground:
    """Draw the stuff of a shot: two to four classes on three to five sites."""
    classes = rng.permutation(len(STUFF_NAMES))[: int(rng.integers(2, len(STUFF_NAMES) + 1))]
    sites = max(len(classes), 3) + int(rng.integers(0, 2))
    label = np.concatenate([classes, rng.choice(classes, sites - len(classes))])
    u = rng.random((sites, 11))
    centre = np.stack([(rng.permutation(sites) + 0.2 + 0.6 * u[:, 0]) / sites, 0.1 + 0.8 * u[:, 1]], 1)
    reach = 10 + 25 * u[:, 2:4]
    speed = 0.3 + 0.6 * u[:, 4:6]  # scene units a frame at the fastest
    ripple = rng.random((2, 4)) * (4, 30, 40, 2 * np.pi) + (2, 25, 40, 0)
    return Ground(
        label=label,
        centre=centre,
        reach=reach,
        period=2 * np.pi * reach / speed,
        phase=2 * np.pi * u[:, 6:8],
        weight=900 * (2 * u[:, 8] - 1),
        ripple=ripple,
        looks=tuple(_sample_look(rng, hue) for hue in _HUES),
    )


def _sample_look(rng: np.random.Generator, middle: float) -> Look:
    x, y, turn, zoom, heading, speed, tint, s0, s1, value, step = rng.random(11)
    angle, pace = 2 * np.pi * heading, 0.15 + 0.6 * speed
    low = 0.18 + 0.35 * value
    hue = (middle + 0.1 * (tint - 0.5)) % 1
    stops = [(hue, 0.3 + 0.3 * s0, low), (hue, 0.2 + 0.3 * s1, low + 0.2 + 0.15 * step)]
    return Look(
        start=(x, y),
        angle=0.6 * (2 * turn - 1),
        zoom=0.8 + 0.45 * zoom,
        drift=(pace * math.cos(angle), pace * math.sin(angle)),
        table=colour_table(stops if s0 < s1 else stops[::-1]),
    )


def draw_ground(ground: Ground, t: int, unit: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame t of the stuff alone: its picture uint8 [H, W, 3], and uint8 [H, W], each pixel's class (position in
    STUFF_NAMES). unit: pixels per scene unit."""
    regions = _regions(ground, t, unit, height, width)
    picture = np.empty((height, width, 3), np.uint8)
    for label in sorted(set(ground.label.tolist())):
        mask = cv2.compare(regions, label, cv2.CMP_EQ)
        if mask.any():
            cv2.copyTo(_surface(ground.looks[label], label, t, unit, height, width), mask, picture)
    return picture, regions


def _regions(ground: Ground, t: int, unit: float, height: int, width: int) -> np.ndarray:
    """uint8 [H, W]: the class of the site that each pixel is nearest to, by distances that ripple with time."""
    x = ((np.arange(width, dtype=np.float32) + 0.5) / unit)[None]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / unit)[:, None]
    (ax, lx, px, fx), (ay, ly, py, fy) = ground.ripple.astype(np.float32)
    turn = np.float32(2 * np.pi)
    across = x + ax * np.sin(turn * (y / lx + t / px) + fx)
    down = y + ay * np.sin(turn * (x / ly + t / py) + fy)
    extent = np.array([width, height]) / unit
    sites = extent * ground.centre + ground.reach * np.sin(2 * np.pi * t / ground.period + ground.phase)
    far = [
        (across - sx) ** 2 + (down - sy) ** 2 - weight
        for (sx, sy), weight in zip(sites.astype(np.float32), ground.weight.astype(np.float32), strict=True)
    ]
    return ground.label.astype(np.uint8)[np.argmin(far, axis=0)]


def _surface(look: Look, label: int, t: int, unit: float, height: int, width: int) -> np.ndarray:
    """The whole picture uint8 [H, W, 3] in one texture, as far as it has scrolled by frame t."""
    scale = _TEXELS[label] * look.zoom / unit
    cos, sin = scale * math.cos(look.angle), scale * math.sin(look.angle)
    cx, cy = (_SIDE * s + _TEXELS[label] * d * t for s, d in zip(look.start, look.drift, strict=True))
    matrix = np.array(
        [[cos, -sin, cx - (cos * width - sin * height) / 2], [sin, cos, cy - (sin * width + cos * height) / 2]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(texture(label), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    return coloured(seen, look.table)


@cache
def texture(label: int) -> np.ndarray:
    """How much of the second colour each texel of a class has: uint8 [512, 512], 0..255."""
    if STUFF_NAMES[label] == "clouds":
        return background_field()
    v, u = np.meshgrid(*[(np.arange(_SIDE) + 0.5) / _SIDE] * 2, indexing="ij")
    weight = {"waves": _waves, "bricks": _bricks, "gravel": _gravel}[STUFF_NAMES[label]](u, v)
    return np.rint(255 * np.clip(weight, 0, 1)).astype(np.uint8)


def _waves(u, v):
    return 0.5 + 0.5 * np.sin(2 * np.pi * (26 * v + 0.4 * np.sin(2 * np.pi * 7 * u)))


def _bricks(u, v):
    """Courses of 8 units, each shifted by half a brick of 16, with joints of 1.5 units."""
    courses, bricks = 32, 16
    row = (v * courses).astype(int)
    along = (u * bricks + 0.5 * (row % 2)) % bricks
    shade = np.random.default_rng(75).random((courses, bricks))[row, along.astype(int)]
    joint = ((v * courses) % 1 < 1.5 / 8) | (along % 1 < 1.5 / 16)
    return np.where(joint, 0.0, 0.6 + 0.4 * shade)


def _gravel(u, v):
    """Grains of about two units."""
    grid = np.pad(np.random.default_rng(76).random((128, 128)), 2, mode="wrap")
    fine = cv2.resize(grid, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[8 : 8 + _SIDE, 8 : 8 + _SIDE]
    return 0.5 + 1.6 * (fine - 0.5)
