"""What a folder's video processor asks of frames: its normalisation is taken over, and what l2g does not do is refused.

l2g squashes every frame to the canvas by an antialiased bilinear filter, as the public processor does by default.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from l2g.errors import ConfigError
from l2g.modeling.videomt.model import Normalisation

# What transformers saves a processor as, in the order in which it looks, and its part in the last.
FILE = "video_preprocessor_config.json"
_FILES = (FILE, "preprocessor_config.json")
_WHOLE, _PART = "processor_config.json", "video_processor"
BILINEAR = 2
_LARGEST = 1e9
# What must not be asked for.
_NEVER = ("do_center_crop", "do_pad")


def read_normalisation(folder: Path, side: int) -> Normalisation:
    """Of the processor in `folder`, ImageNet's where it says nothing or there is none. side: of the canvas, in pixels.

    Raises ConfigError for a file that is damaged, or asks for another size, filter or crop than l2g's.
    """
    name, found = _settings(folder)
    try:
        _check_geometry(found, side)
        factor = _number(found, "rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
        if not found.get("do_normalize", True):
            return _of((0.0,) * 3, (1.0,) * 3, factor)
        default = Normalisation()
        mean = _three(found, "image_mean", tuple(level / 255 for level in default.mean))
        return _of(mean, _three(found, "image_std", tuple(level / 255 for level in default.std)), factor)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def to_json(normalisation: Normalisation, side: int) -> str:
    """The file of a processor that does what l2g does."""
    settings = {
        "video_processor_type": "VideomtVideoProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(level / 255, 12) for level in normalisation.mean],
        "image_std": [round(level / 255, 12) for level in normalisation.std],
    }
    return json.dumps(settings, indent=2) + "\n"


def _settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """The file's name and what it says."""
    for name in (_WHOLE, *_FILES):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{name}: no settings of a processor ({type(error).__name__}: {error})") from None
        if name == _WHOLE and isinstance(found, dict):
            found = found.get(_PART)
            if found is None:
                continue
        if not isinstance(found, dict):
            raise ConfigError(f"{name}: settings of a processor expected, {type(found).__name__} found")
        return name, found
    return FILE, {}


def _check_geometry(found: dict[str, Any], side: int) -> None:
    if not found.get("do_resize", True):
        raise ConfigError(f"do_resize {_shown(found['do_resize'])} found, true expected: frames fill the canvas")
    size = found.get("size") or {}
    if size not in ({}, side, {"height": side, "width": side}):
        raise ConfigError(f"size {_shown(size)} found, height and width of {side} expected, the model's image_size")
    if found.get("resample") not in (None, BILINEAR):
        raise ConfigError(f"resample {_shown(found['resample'])} found, {BILINEAR} (bilinear) expected")
    for name in _NEVER:
        if found.get(name):
            raise ConfigError(f"{name} {_shown(found[name])} found, false expected: frames are squashed whole")


def _of(mean: tuple[float, ...], std: tuple[float, ...], factor: float) -> Normalisation:
    """Of levels 0..255, where the processor's are of levels times `factor`; rounded, since 1 / 255 was."""
    means, stds = (tuple(round(level / factor, 9) for level in levels) for levels in (mean, std))
    if not all(math.isfinite(level) for level in means + stds) or min(stds) <= 0:
        raise ConfigError(f"mean {list(means)} and std {list(stds)} of levels 0..255 found, finite ones expected")
    return Normalisation((means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))


def _three(found: dict[str, Any], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    levels = found.get(name)
    if levels is None:
        return default
    if not isinstance(levels, list) or len(levels) != 3 or not all(map(_is_number, levels)):
        raise ConfigError(f"{name} {_shown(levels)} found, three finite numbers expected, of R, G and B")
    if name == "image_std" and min(levels) <= 0:
        raise ConfigError(f"{name} {levels} found, numbers above 0 expected")
    return tuple(map(float, levels))


def _number(found: dict[str, Any], name: str, default: float) -> float:
    value = found.get(name)
    if value is None:
        return default
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"{name} {_shown(value)} found, a finite number above 0 expected")
    return float(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _LARGEST  # and NaN is not


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
