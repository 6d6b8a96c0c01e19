"""Synthetic video with exact annotation: deterministic in (split, seed, index), drawn on demand, 1 ms a frame.

    l2g data draw --split val --seed 0 --videos 64 --output DIR

writes a data set in the YouTube-VIS layout. Training draws its clips with `synthetic_video` and `synthetic_image` and
needs no disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from l2g.data.synthetic.scene import (
    SHIFT,
    Geometry,
    Motion,
    Recipe,
    Repaint,
    Shot,
    Sprites,
    place,
    sample_motion,
    sample_repaints,
    sample_shots,
    sample_sprites,
    texel_count,
)
from l2g.data.synthetic.shapes import background_field, coloured, pattern, sensor_noise, texels_per_radius
from l2g.errors import DataError

MIN_VISIBLE = 16  # pixels; an object with fewer is not annotated in that frame
DEFAULT_SIZE = (96, 160)


@dataclass(frozen=True)
class Split:
    """A family of videos. `tag` enters the seed, so that no two splits ever draw the same numbers."""

    tag: int
    frames: int
    videos: int
    recipe: Recipe


_HIDING = Recipe(
    objects=(3, 8), occluders=(1, 3), occluder_width=(12.0, 22.0), crowding=0.3, wander=0.4, diameter=(32.0, 58.0)
)
# Alike objects that cross, hide each other for 5 to 40 frames, change their colours at once, leave and come back.
_CROSSING = Recipe(
    objects=(4, 6), occluders=(0, 1), crowding=0.3, wander=0.7, roam=0.9, speed=(1.4, 1.4), alike=True, repaints=(1, 3)
)
SPLITS = {
    "train": Split(tag=1, frames=300, videos=1000, recipe=Recipe()),
    "val": Split(tag=2, frames=36, videos=64, recipe=Recipe()),
    "occluded": Split(tag=3, frames=36, videos=64, recipe=_HIDING),
    "long": Split(tag=4, frames=300, videos=32, recipe=Recipe(crowding=0.25)),
    "crossing": Split(tag=6, frames=240, videos=32, recipe=_CROSSING),
    "demo": Split(tag=5, frames=60, videos=1, recipe=Recipe(objects=(4, 6))),
}


@dataclass(frozen=True)
class SyntheticVideo:
    """T frames with I objects, as drawn.

    Attributes:
        frames: uint8 [T, H, W, 3] RGB.
        label_map: uint8 [T, H, W]; object i is visible where it is i + 1, 0 is everything else.
        labels: int64 [I], classes 0..7 (positions in CLASS_NAMES). Every object is annotated in at least one frame.
        present: bool [T, I], True where at least MIN_VISIBLE pixels of the object are visible.
        hidden: float32 [T, I] in 0..1, the share of the object's pixels within the picture that something covers; NaN
            where fewer than MIN_VISIBLE of its pixels lie within the picture.
    """

    frames: np.ndarray
    label_map: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    hidden: np.ndarray

    def masks(self) -> np.ndarray:
        """bool [I, T, H, W]: the visible part of every object."""
        return self.label_map[None] == np.arange(1, len(self.labels) + 1, dtype=np.uint8)[:, None, None, None]


def synthetic_video(
    split: str,
    index: int,
    *,
    seed: int = 0,
    frames: int | Sequence[int] | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    cuts: int = 0,
) -> SyntheticVideo:
    """Draw video `index` of a split.

    frames: how many (None: the split's own length), or the frame numbers to draw, in any order (a video goes on for
    ever, so any number from 0 on exists). size: (height, width) in pixels. cuts: scene cuts within the split's length.
    Raises DataError for an unknown split or a size or frame count that cannot be drawn.
    """
    scene = sample_scene(split, index, seed=seed, size=size, cuts=cuts)
    times = frame_numbers(split, frames)
    return annotated(*draw(scene, times, scene.backdrop), scene)


def sample_scene(split: str, index: int, *, seed: int, size: tuple[int, int], cuts: int) -> Scene:
    """What video `index` of a split shows; arguments and errors as of `synthetic_video`."""
    kind = split_facts(split)
    height, width = size
    if min(height, width) < 32:
        raise DataError(f"synthetic video of {height}x{width} asked for; at least 32x32 is needed")
    if min(seed, index) < 0:
        raise DataError(f"synthetic video {index} of seed {seed} asked for; both start at 0")
    rng = np.random.default_rng([kind.tag, seed, index])
    unit = math.sqrt(height * width / (96 * 160))
    # Any run of videos has its share of crowded ones, so that sets of other seeds are equally hard.
    rank = (0.5 + index * 0.6180339887498949) % 1, (0.5 + index * 0.4142135623730951) % 1
    sprites = sample_sprites(rng, kind.recipe, rank)
    motion = sample_motion(rng, kind.recipe, sprites, (width / unit, height / unit))
    shots = sample_shots(rng, sprites, kind.frames, cuts)
    camera = _Camera(unit, rng.uniform(0.35, 0.75), int(rng.integers(2, 6)), int(rng.integers(0, 2**31)))
    repaints = sample_repaints(rng, kind.recipe, sprites, kind.frames)
    return Scene(sprites, motion, shots, repaints, camera, height, width)


def frame_numbers(split: str, frames: int | Sequence[int] | None) -> np.ndarray:
    """int [T]: the frames that `frames` asks for; DataError for none, and for one before the first."""
    times = np.asarray(split_facts(split).frames if frames is None else frames)
    times = np.arange(int(times)) if times.ndim == 0 else times
    if times.size == 0 or times.min() < 0:
        raise DataError(f"synthetic video with frames {frames!r} asked for; ask for 1 or more, numbered from 0")
    return times


def synthetic_image(split: str, index: int, *, seed: int = 0, size: tuple[int, int] = DEFAULT_SIZE) -> SyntheticVideo:
    """One frame, T = 1, of a video of its own: for training on images. The stream of images never repeats a scene."""
    return synthetic_video(split, index, seed=seed, frames=[0], size=size)


def split_facts(name: str) -> Split:
    """The split of that name; DataError when there is none."""
    if name not in SPLITS:
        raise DataError(f"no synthetic split '{name}'; there are {', '.join(SPLITS)}")
    return SPLITS[name]


@dataclass(frozen=True)
class _Camera:
    """unit: pixels per scene unit. blur: sigma at unit 1. noise: standard deviation. seed: of the noise windows."""

    unit: float
    blur: float
    noise: int
    seed: int


@dataclass(frozen=True)
class Scene:
    """All that a video shows, at every frame, and the size of its pictures."""

    sprites: Sprites
    motion: Motion
    shots: tuple[Shot, ...]
    repaints: tuple[Repaint, ...]
    camera: _Camera
    height: int
    width: int

    def backdrop(self, shot: int, t: int) -> np.ndarray:
        """The part of the noise field that the camera sees at frame t, in the shot's colours: uint8 [H, W, 3]."""
        x, y, angle, zoom, speed, a, b, c = self.shots[shot].backdrop
        theta = 2 * np.pi * angle + 0.15 * math.sin(t / 40 + 6.3 * a)
        scale = (0.5 + 0.7 * zoom) * (1 + 0.1 * math.sin(t / 50 + 6.3 * b)) / self.camera.unit
        pan = 20 + 60 * speed
        cos, sin = scale * math.cos(theta), scale * math.sin(theta)
        cx = 512 * x + pan * math.sin(t / 60 + 6.3 * c)
        cy = 512 * y + pan * math.sin(t / 75 + 6.3 * a)
        width, height = self.width, self.height
        matrix = np.array(
            [[cos, -sin, cx - (cos * width - sin * height) / 2], [sin, cos, cy - (sin * width + cos * height) / 2]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(background_field(), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
        return coloured(seen, self.shots[shot].table)


def draw(
    scene: Scene, times: np.ndarray, backdrop: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3], label map uint8 [T, H, W] (sprite n is n + 1, occluders come last, 0 is the backdrop),
    uncovered areas int64 [T, objects]. backdrop: (number of the shot, frame) -> uint8 [H, W, 3], which is drawn on."""
    sprites, height, width, unit = scene.sprites, scene.height, scene.width, scene.camera.unit
    geometry = place(sprites, scene.motion, scene.shots, times, height, width)
    sides = texel_count(sprites, unit)

    def texture(n: int, table: np.ndarray) -> np.ndarray:
        return coloured(pattern(sprites.texture[n], sprites.variant[n], sides[n]), table)

    textures = [texture(n, table) for n, table in enumerate(sprites.colours)]
    repainted = [(paint.start, paint.sprite, texture(paint.sprite, paint.table)) for paint in scene.repaints]
    frames = np.empty((len(times), height, width, 3), np.uint8)
    labels = np.zeros((len(times), height, width), np.uint8)
    areas = np.zeros((len(times), sprites.objects), np.int64)
    starts = [shot.start for shot in scene.shots]
    for k, t in enumerate(times):
        picture = backdrop(int(np.searchsorted(starts, t, side="right")) - 1, int(t))
        worn = list(textures)
        for start, n, skin in repainted:
            if start <= t:
                worn[n] = skin
        _paint(picture, labels[k], areas[k], sprites, worn, sides, geometry, k)
        frames[k] = _expose(picture, scene.camera, int(t))
    return frames, labels, areas


def _paint(
    picture: np.ndarray,
    labels: np.ndarray,
    areas: np.ndarray,
    sprites: Sprites,
    textures: list[np.ndarray],
    sides: tuple[int, ...],
    geometry: Geometry,
    k: int,
) -> None:
    """Draw the sprites of frame k back to front into `picture` and `labels`; note each object's area when uncovered."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for n in sprites.order:
        x0, y0, x1, y1 = geometry.bounds[k, n].tolist()
        if x1 - x0 < 1 or y1 - y0 < 1:
            continue
        contour, split = geometry.contours[k, n], sprites.split[n]
        value = int(n) + 1
        cv2.fillPoly(
            labels, [part for part in (contour[:split], contour[split:]) if len(part)], value, cv2.LINE_8, SHIFT
        )
        mask = (labels[y0:y1, x0:x1] == value).view(np.uint8)  # cv2.compare refuses a single pixel
        if n < sprites.objects:
            areas[n] = cv2.countNonZero(mask)
        matrix = geometry.inverse[k, n].copy()
        matrix[:, 2] += matrix[:, 0] * x0 + matrix[:, 1] * y0
        matrix *= texels_per_radius(sides[n])
        matrix[:, 2] += sides[n] / 2 - 0.5
        patch = cv2.warpAffine(textures[n], matrix, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        cv2.copyTo(patch, mask, picture[y0:y1, x0:x1])


def _expose(picture: np.ndarray, camera: _Camera, t: int) -> np.ndarray:
    """Blur and noise of the lens and the sensor."""
    height, width = picture.shape[:2]
    blurred = cv2.GaussianBlur(picture, (0, 0), camera.blur * math.sqrt(camera.unit))
    noise = sensor_noise(height, width, camera.noise)
    jump = (camera.seed + 2654435761 * (t + 1)) & 0xFFFFFFFF
    x, y = (jump >> 8) % 64, (jump >> 20) % 64
    return cv2.add(blurred, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)


def annotated(frames: np.ndarray, labels: np.ndarray, areas: np.ndarray, scene: Scene) -> SyntheticVideo:
    """What `draw` gave, annotated: occluders are nobody, and so are crumbs and the objects that never show."""
    objects = slice(1, scene.sprites.objects + 1)
    visible = np.stack([np.bincount(m.ravel(), minlength=256)[objects] for m in labels])
    present = visible >= MIN_VISIBLE
    keep = np.flatnonzero(present.any(0))
    table = np.zeros((len(labels), 256), np.uint8)
    table[:, keep + 1] = np.where(present[:, keep], np.arange(1, len(keep) + 1), 0)
    label_map = np.stack([cv2.LUT(m, row) for m, row in zip(labels, table, strict=True)])
    hidden = np.where(areas >= MIN_VISIBLE, 1 - visible / np.maximum(areas, 1), np.nan).astype(np.float32)
    return SyntheticVideo(frames, label_map, scene.sprites.label[keep], present[:, keep], hidden[:, keep])
