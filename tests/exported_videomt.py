"""A small VidEoMT as ONNX files, exported once per process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from l2g.export.exporter import ExportOptions, export
from tests.modeling.videomt.small import small_videomt


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="l2g-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def videomt_graph(top_k: int | None = None, precision: str = "fp32", target: str = "onnxruntime") -> Path:
    """`small_videomt()` as a graph: raw outputs, or detections of `top_k` slots."""
    path = _folder() / f"videomt-{top_k}-{precision}-{target}.onnx"
    export(small_videomt(), path, ExportOptions(top_k=top_k, precision=precision, target=target))
    return path
