"""The small model of the tests as ONNX files, exported once per process, and ways to spoil them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from l2g.contract import METADATA_KEY
from l2g.export.exporter import ExportOptions, export
from tests.modeling.small import small_model


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="l2g-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def small_graph(top_k: int | None = None) -> Path:
    """`small_model()` exported: raw outputs, or detections of `top_k` slots."""
    path = _folder() / f"small-{top_k}.onnx"
    export(small_model(), path, ExportOptions(top_k=top_k))
    return path


def edited(path: Path, change: Callable[[onnx.ModelProto], None], output: Path) -> Path:
    """A copy of the graph at `output` with `change` done to it."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, output)
    return output


def set_contract(text: str | None) -> Callable[[onnx.ModelProto], None]:
    """A change that replaces the contract by `text`, or takes it away."""

    def change(model: onnx.ModelProto) -> None:
        kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != METADATA_KEY}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept if text is None else kept | {METADATA_KEY: text})

    return change
