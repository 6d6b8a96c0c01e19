"""A small VidEoMT as ONNX files, exported once."""

from __future__ import annotations

import functools
from pathlib import Path

from l2g.export.exporter import ExportOptions, export
from tests.made_once import made_once
from tests.modeling.videomt.small import small_videomt


@functools.cache
def videomt_graph(top_k: int | None = None, precision: str = "fp32", target: str = "onnxruntime") -> Path:
    """`small_videomt()` as a graph: raw outputs, or detections of `top_k` slots."""
    options = ExportOptions(top_k=top_k, precision=precision, target=target)
    name = f"videomt-{top_k}-{precision}-{target}.onnx"
    return made_once(name, lambda path: export(small_videomt(), path, options))
