"""Engines that were built before, by what they were built from: the same one is never built twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from l2g.artifacts.records import EngineOptions
from l2g.artifacts.sidecar import Sidecar, check_file, read_sidecar, sidecar_path, write_sidecar
from l2g.errors import EngineError
from l2g.files import cache_root, write_bytes

ENGINE_NAME = "model.engine"


def engines_root() -> Path:
    """`engines` in the cache of l2g: ~/.cache/l2g, or what $L2G_CACHE says."""
    return cache_root() / "engines"


def cache_key(onnx_sha256: str, library: str, version: str, gpu: str | None, options: EngineOptions) -> str:
    """What an engine depends on, as one sum: graph, library, version, GPU (None: none is involved), options."""
    parts = {"onnx": onnx_sha256, "library": library, "version": version, "gpu": gpu, "options": options.to_json()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def find(root: Path, key: str) -> tuple[bytes, Sidecar] | None:
    """The engine of that key and its sidecar; None where there is none that is whole, which is then removed."""
    engine = root / key / ENGINE_NAME
    if not engine.exists():
        return None
    try:
        sidecar = read_sidecar(engine)
        return check_file(engine, sidecar), sidecar
    except EngineError:
        for file in (engine, sidecar_path(engine)):
            file.unlink(missing_ok=True)
        return None


def store(root: Path, key: str, content: bytes, sidecar: Sidecar) -> None:
    """Keep an engine; a cache that cannot be written is no reason to fail."""
    engine = root / key / ENGINE_NAME
    with contextlib.suppress(OSError, EngineError):
        engine.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(engine, content, EngineError)
        write_sidecar(engine, sidecar)
