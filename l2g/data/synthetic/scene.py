"""What moves in a synthetic video: sprites with smooth paths, rotation, scale and wobble, functions of the frame.

Lengths are in scene units: a picture of any size is a scene of 96 x 160 square units' area, so that a video at 720p is
the same video as at 96 x 160, drawn finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2g.data.synthetic.shapes import CLASSES, VARIANTS, colour_table, outline

SCENE_AREA = 96 * 160
SHIFT = 4  # fractional bits of the outlines handed to OpenCV


@dataclass(frozen=True)
class Recipe:
    """What a split's videos are made of. Ranges are (low, high), both reachable.

    objects: how many tracked objects. diameter: of an object, scene units. occluders: how many bars and blobs in the
    foreground. occluder_width: scene units. crowding: 0 spreads the objects' paths over the picture, 1 sends them all
    through its middle. wander: share of objects whose path leaves the picture. roam: how far such a path reaches at
    least, in pictures. speed: scene units a frame at the fastest point of a path, the least and what may come on top.
    alike: objects come in pairs of one class and nearly one colour, which cross each other on one line. repaints: how
    many times in a video an object's colours change from one frame to the next.
    """

    objects: tuple[int, int] = (2, 8)
    diameter: tuple[float, float] = (32.0, 60.0)
    occluders: tuple[int, int] = (0, 2)
    occluder_width: tuple[float, float] = (8.0, 16.0)
    crowding: float = 0.15
    wander: float = 0.65
    roam: float = 0.45
    speed: tuple[float, float] = (0.5, 1.8)
    alike: bool = False
    repaints: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Sprites:
    """N outlines with texture; the first `objects` of them are annotated, the others hide what is behind them.

    points float64 [N, POINTS, 2], polar angle [N, POINTS], split int [N] (start of a hole's contour), texture and
    variant per sprite, size [N, 2] half extents, colours: N tables for cv2.LUT, label int [objects]. Drawn in `order`.
    """

    objects: int
    label: np.ndarray
    points: np.ndarray
    angle: np.ndarray
    split: tuple[int, ...]
    texture: tuple[str, ...]
    variant: tuple[int, ...]
    size: np.ndarray
    colours: tuple[np.ndarray, ...]
    order: np.ndarray


@dataclass(frozen=True)
class Motion:
    """Coefficients of the sprites' motion, each [N] or [N, 2] (x, y); times in frames, angles in radians."""

    centre: np.ndarray
    reach: np.ndarray
    period: np.ndarray
    phase: np.ndarray
    turn: np.ndarray  # angle at frame 0, radians per frame, swing
    pulse: np.ndarray  # relative scale change, its period, its phase
    stretch: np.ndarray  # relative stretch along the own axes, its period, its phase
    wobble: np.ndarray  # amplitude, waves around the outline, period, phase


@dataclass(frozen=True)
class Shot:
    """One continuous take: its backdrop, and which sprites play in it from which point of their paths."""

    start: int
    offset: np.ndarray
    cast: np.ndarray
    backdrop: tuple[float, ...]
    table: np.ndarray


@dataclass(frozen=True)
class Repaint:
    """From frame `start` on sprite number `sprite` has these colours."""

    start: int
    sprite: int
    table: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Where every sprite is in every frame asked for.

    contours int32 [T, N, POINTS, 2] in 1 / 2**SHIFT pixels. bounds int [T, N, 4]: x0, y0, x1, y1, cut to the picture
    (empty where the sprite is outside or not in this shot). inverse float64 [T, N, 2, 3]: pixels -> sprite units.
    """

    contours: np.ndarray
    bounds: np.ndarray
    inverse: np.ndarray


def sample_sprites(rng: np.random.Generator, recipe: Recipe, rank: tuple[float, float]) -> Sprites:
    """Draw the cast of a video. rank: each 0..1, from few to many, of objects and of occluders."""
    low, high = recipe.objects
    objects = min(low + int((high - low + 1) * rank[0] ** 1.8), high)
    low, high = recipe.occluders
    bars = min(low + int((high - low + 1) * rank[1]), high)
    total = objects + bars
    label = rng.permutation(len(CLASSES))[:objects]
    twin = rng.random(objects) < 0.3
    label = np.where(twin, rng.integers(0, len(CLASSES), objects), label)
    if recipe.alike:
        label = _paired(label)
    shapes = [CLASSES[k][0] for k in label] + ["bar" if r < 0.7 else "blob" for r in rng.random(bars)]
    textures = tuple(CLASSES[k][1] for k in label) + ("grain",) * bars
    size = np.empty((total, 2))
    diameter = rng.uniform(*recipe.diameter, objects) * (1 - 0.035 * max(objects - 4, 0))
    size[:objects] = diameter[:, None] / 2
    for n in range(objects, total):
        width = rng.uniform(*recipe.occluder_width)
        size[n] = (width / 2, 160) if shapes[n] == "bar" else (width * 0.9, width * 0.9)
    outlines = [outline(shape) for shape in shapes]
    points = np.stack([o[0] for o in outlines])
    order = np.concatenate([rng.permutation(objects), np.arange(objects, total)])
    return Sprites(
        objects=objects,
        label=label.astype(np.int64),
        points=points,
        angle=np.arctan2(points[..., 1], points[..., 0]),
        split=tuple(o[1] for o in outlines),
        texture=textures,
        variant=tuple(int(v) for v in rng.integers(0, VARIANTS, total)),
        size=size,
        colours=_object_colours(rng, objects, recipe.alike) + tuple(_dull_table(rng) for _ in range(bars)),
        order=order,
    )


def _paired(values: np.ndarray) -> np.ndarray:
    """Every second of `values` [N, ...] replaced by the one before it."""
    return values[np.arange(len(values)) // 2 * 2]


def _object_colours(rng: np.random.Generator, objects: int, alike: bool = False) -> tuple[np.ndarray, ...]:
    """Vivid tables, hues spread over the objects of a video so that two of a class can be told apart; `alike` pairs by
    little."""
    hue = rng.random() + np.arange(objects) * 0.618 + rng.uniform(-0.05, 0.05, objects)
    draws = rng.random((objects, 6))
    if alike:
        hue, draws = _paired(hue) + np.arange(objects) % 2 * 0.06, _paired(draws)
    tables = []
    for h, (a, b, c, d, e, f) in zip(hue, draws, strict=True):
        vivid = (h % 1.0, 0.75 + 0.25 * a, 0.75 + 0.25 * b)
        if c < 0.5:
            other = ((h + 0.2 * (d - 0.5)) % 1.0, 0.6 + 0.3 * e, 0.12 + 0.15 * f)
        else:
            other = ((h + 0.3 + 0.4 * d) % 1.0, 0.3 * e, 0.9 + 0.1 * f)
        tables.append(colour_table([vivid, other] if d < 0.5 else [other, vivid]))
    return tuple(tables)


def _dull_table(rng: np.random.Generator) -> np.ndarray:
    hue, saturation, value, step = rng.random(4)
    value = 0.12 + 0.7 * value
    return colour_table([(hue, 0.25 * saturation, value), (hue, 0.25 * saturation, value + 0.08 + 0.1 * step)])


def _backdrop_table(rng: np.random.Generator) -> np.ndarray:
    hue, turn, s0, s1, s2, v0, v1, v2 = rng.random(8)
    stops = [(hue, 0.4 * s0, v0), ((hue + 0.3 * turn) % 1, 0.4 * s1, v1), ((hue + 0.6 * turn) % 1, 0.4 * s2, v2)]
    return colour_table([(h, s, 0.25 + 0.5 * v) for h, s, v in stops])


def sample_motion(rng: np.random.Generator, recipe: Recipe, sprites: Sprites, extent: tuple[float, float]) -> Motion:
    """Draw the paths. extent: width and height of the picture in scene units."""
    total, objects = len(sprites.split), sprites.objects
    span = np.array(extent)
    u = rng.random((total, 20))
    wanders = u[:, 0] < recipe.wander
    wanders[: min(2, objects)] = False  # at least two objects stay in the picture
    spread = (1 - recipe.crowding) * 0.4
    centre = span * (0.5 + spread * np.where(wanders, 1.4, 1.0)[:, None] * (2 * u[:, 1:3] - 1))
    home = np.clip(0.36 - 0.5 * sprites.size[:, :1] / span, 0.1, None) * span  # keeps a stayer's centre well inside
    reach = np.where(
        wanders[:, None], span * (recipe.roam + 0.35 * u[:, 3:5]), np.minimum(home, span * (0.1 + 0.3 * u[:, 3:5]))
    )
    least, spread = recipe.speed
    speed = least + spread * u[:, 5:7]
    period = np.maximum(2 * np.pi * reach / speed, 40.0)
    bars = slice(objects, total)
    centre[bars] = span * (0.5 + 0.25 * (2 * u[bars, 1:3] - 1))
    reach[bars] = span * (0.15 + 0.25 * u[bars, 3:5])
    period[bars] = 2 * np.pi * reach[bars] / (0.3 + 1.2 * u[bars, 5:7])
    turn = np.stack([2 * np.pi * u[:, 9], 0.09 * (2 * u[:, 10] - 1), 0.5 * u[:, 11]], 1)
    turn[bars] *= (0.12, 0.0, 0.2)
    turn[bars, 0] += np.pi / 2 * (u[bars, 19] < 0.25) - 0.35  # most bars stand, some lie
    pulse = np.stack([0.08 + 0.14 * u[:, 12], 60 + 90 * u[:, 13], 2 * np.pi * u[:, 14]], 1)
    pulse[bars, 0] = 0
    stretch = np.stack([0.02 + 0.1 * u[:, 15], 20 + 40 * u[:, 16], 2 * np.pi * u[:, 17]], 1)
    waves = rng.integers(2, 5, total)
    wobble = np.stack([0.015 + 0.055 * u[:, 18], waves, 16 + 40 * u[:, 17], 2 * np.pi * u[:, 16]], 1)
    wobble[bars, 0] *= [0.0 if t == 160 else 2.0 for t in sprites.size[bars, 1]]
    phase = 2 * np.pi * u[:, 7:9]
    if recipe.alike:  # each pair to and fro on one line, in opposite directions
        actors = slice(0, objects)
        centre[actors], reach[actors], period[actors] = (_paired(of[actors]) for of in (centre, reach, period))
        period[actors, 1] = period[actors, 0]
        phase[actors] = _paired(phase[actors, :1]) + np.pi * (np.arange(objects) % 2)[:, None]
    return Motion(centre, reach, period, phase, turn, pulse, stretch, wobble)


def sample_repaints(rng: np.random.Generator, recipe: Recipe, sprites: Sprites, frames: int) -> tuple[Repaint, ...]:
    """Draw when objects change their colours at once, in the order of their times."""
    low, high = recipe.repaints
    count = int(rng.integers(low, high + 1))
    starts, who = np.sort(rng.integers(1, frames, count)), rng.integers(0, sprites.objects, count)
    return tuple(Repaint(int(start), int(n), _object_colours(rng, 1)[0]) for start, n in zip(starts, who, strict=True))


def sample_shots(rng: np.random.Generator, sprites: Sprites, frames: int, cuts: int) -> tuple[Shot, ...]:
    """Draw the takes of a video: `cuts` scene cuts at least eight frames apart where `frames` allows it."""
    total = len(sprites.split)
    starts = [0]
    for k in range(1, cuts + 1):
        at = frames * (k + rng.uniform(-0.3, 0.3)) / (cuts + 1)
        starts.append(max(int(at), starts[-1] + 1))
    shots = []
    for k, start in enumerate(starts):
        cast = np.ones(total, bool)
        offset = np.zeros(total)
        if k:  # after a cut the scene is elsewhere in time, and some of the objects are gone
            offset = rng.uniform(200, 2000, total)
            cast = rng.random(total) < 0.7
            cast[rng.integers(sprites.objects)] = True
        shots.append(Shot(start, offset, cast, tuple(rng.random(8)), _backdrop_table(rng)))
    return tuple(shots)


def place(
    sprites: Sprites, motion: Motion, shots: tuple[Shot, ...], times: np.ndarray, height: int, width: int
) -> Geometry:
    """Geometry of every sprite at the frame numbers `times` (int [T]) in a picture of height x width pixels."""
    unit = math.sqrt(height * width / SCENE_AREA)
    which = np.searchsorted([shot.start for shot in shots], times, side="right") - 1
    t = times[:, None] + np.stack([shot.offset for shot in shots])[which]  # [T, N]
    cast = np.stack([shot.cast for shot in shots])[which]

    phase = 2 * np.pi * t[..., None] / motion.period + motion.phase
    centre = motion.centre + motion.reach * (0.85 * np.sin(phase) + 0.15 * np.sin(2.3 * phase + 1.0))
    theta = motion.turn[:, 0] + motion.turn[:, 1] * t + motion.turn[:, 2] * np.sin(phase[..., 0] * 1.7)
    scale = 1 + motion.pulse[:, 0] * np.sin(2 * np.pi * t / motion.pulse[:, 1] + motion.pulse[:, 2])
    stretch = 1 + motion.stretch[:, 0] * np.sin(2 * np.pi * t / motion.stretch[:, 1] + motion.stretch[:, 2])
    along = unit * scale[..., None] * sprites.size * np.stack([stretch, 1 / stretch], -1)  # half extents in pixels
    cos, sin = np.cos(theta), np.sin(theta)
    forward = np.empty((*t.shape, 2, 2))
    forward[..., 0, 0], forward[..., 0, 1] = cos * along[..., 0], -sin * along[..., 1]
    forward[..., 1, 0], forward[..., 1, 1] = sin * along[..., 0], cos * along[..., 1]

    amplitude, waves, period, start = (motion.wobble[:, k, None] for k in range(4))
    ripple = 1 + amplitude * np.sin(waves * sprites.angle + 2 * np.pi * t[..., None] / period + start)  # [T, N, POINTS]
    at = (ripple[..., None] * sprites.points) @ forward.swapaxes(-1, -2) + (unit * centre)[..., None, :]

    low = np.floor(at.min(2)).astype(np.int64) - 1
    high = np.ceil(at.max(2)).astype(np.int64) + 2
    bounds = np.concatenate([low, high], -1)
    bounds[..., 0::2] = np.clip(bounds[..., 0::2], 0, width)
    bounds[..., 1::2] = np.clip(bounds[..., 1::2], 0, height)
    bounds[~cast] = 0
    backward = np.linalg.inv(forward)
    inverse = np.concatenate([backward, -(backward @ (unit * centre)[..., None])], -1)
    return Geometry(np.rint(at * (1 << SHIFT)).astype(np.int32), bounds, inverse)


def texel_count(sprites: Sprites, unit: float) -> tuple[int, ...]:
    """Side of each sprite's texture (one per sprite) so that a texel is about a pixel."""
    side = np.ceil(2.5 * unit * np.minimum(sprites.size.max(1), 40) / 32).astype(int) * 32
    return tuple(int(s) for s in side)
