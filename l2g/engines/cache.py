"""Engines that were built before, by what they were built from: the same one is never built twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from l2g.artifacts.records import EngineOptions
from l2g.artifacts.sidecar import Sidecar, check_file, read_sidecar, sidecar_path, write_sidecar
from l2g.contract import GraphContract
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


def find(root: Path, key: str, onnx_sha256: str, contract: GraphContract) -> tuple[bytes, Sidecar] | None:
    """The engine of that key and its sidecar; None where there is none that is whole and of the graph with that sum and
    contract, which is then removed.

    Engines are code: EngineError where others than this user can write to the entry.
    """
    engine = root / key / ENGINE_NAME
    if not engine.exists():
        return None
    for place in (root, engine.parent, engine, sidecar_path(engine)):
        _expect_own(place)
    try:
        sidecar = read_sidecar(engine)
        content = check_file(engine, sidecar)
        if sidecar.engine.onnx_sha256 != onnx_sha256 or sidecar.contract != contract:
            raise EngineError(f"{engine}: of another graph than its place in the cache says")
        return content, sidecar
    except EngineError:
        for file in (engine, sidecar_path(engine)):
            file.unlink(missing_ok=True)
        return None


def store(root: Path, key: str, content: bytes, sidecar: Sidecar) -> None:
    """Keep an engine; a cache that cannot be written is no reason to fail."""
    engine = root / key / ENGINE_NAME
    with contextlib.suppress(OSError, EngineError):
        for folder in reversed((engine.parent, *engine.parent.parents)):
            folder.mkdir(0o755, exist_ok=True)  # not by the umask: `find` refuses what others can write to
        write_bytes(engine, content, EngineError)
        write_sidecar(engine, sidecar)


def _expect_own(place: Path) -> None:
    if not hasattr(os, "getuid") or not place.exists():
        return
    found = place.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & 0o022:
        raise EngineError(
            f"{place}: others than you can write there, and engines are code; take it from them with: "
            f"chmod go-w {place}, or build with --no-cache"
        )
