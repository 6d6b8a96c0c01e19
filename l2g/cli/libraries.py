"""Which libraries are installed, in which version, and what an extra of this package lacks. Imports none of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import l2g

if TYPE_CHECKING:
    from packaging.markers import Marker

# What a user knows a library as -> distributions that bring it, the first that is installed counts.
LIBRARIES = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-lean": ("tensorrt-lean", "tensorrt-lean-cu13", "tensorrt-lean-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    "openvino": ("openvino",),
    "numpy": ("numpy",),
    "opencv": (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ),
    "av": ("av",),
}


@dataclass(frozen=True)
class Extra:
    """An extra of the package. missing: its requirements that this Python does not fulfil, as pip takes them."""

    name: str
    missing: tuple[str, ...]


def version_of(*distributions: str) -> str | None:
    """The version of the first of these distributions that is installed, None where none is."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def library_versions() -> dict[str, str | None]:
    """Version by library; None where it is not installed."""
    return {name: version_of(*distributions) for name, distributions in LIBRARIES.items()}


def versions() -> str:
    """l2g and its libraries, a line each."""
    rows = {"l2g": l2g.__version__, **library_versions()}
    return "\n".join(f"{name:<14}{version or 'not installed'}" for name, version in rows.items())


def extras(distribution: str = "l2g") -> tuple[Extra, ...]:
    """Every extra of an installed package, from its metadata; nothing where the package is not installed.

    The first is named "" and holds what the package always needs.
    """
    try:
        metadata = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ()
    names = ("", *(metadata.get_all("Provides-Extra") or ()))
    return tuple(Extra(name, tuple(sorted(set(_missing(distribution, name))))) for name in names)


def _missing(distribution: str, extra: str) -> Iterator[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for requirement in map(Requirement, importlib.metadata.requires(distribution) or ()):
        if not _belongs(requirement.marker, extra):
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(distribution):
            for nested in requirement.extras:
                yield from _missing(distribution, nested)
            continue
        found = version_of(*_alternatives(requirement.name))
        if found is None:
            yield f"{requirement.name}{requirement.specifier}"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name}{requirement.specifier} (found {found})"


def _belongs(marker: Marker | None, extra: str) -> bool:
    """Whether a requirement with this marker is one of the extra, here and now; "" is what is always needed."""
    if marker is None:
        return not extra
    always = marker.evaluate({"extra": ""})
    return always if not extra else marker.evaluate({"extra": extra}) and not always


def _alternatives(name: str) -> tuple[str, ...]:
    """The distributions that do for the named one: onnxruntime-gpu for onnxruntime, though not the other way round."""
    return next((names for names in LIBRARIES.values() if names[0] == name), (name,))
