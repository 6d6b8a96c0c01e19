"""The shipped model as a graph, for tests that need true ones."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest


@functools.cache
def tiny_graph() -> Path:
    """The small model of the tests, or the graph that L2G_SERVING_GRAPH names: the environment with the server has no
    PyTorch, and exports none."""
    if given := os.environ.get("L2G_SERVING_GRAPH"):
        return Path(given)
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.exported import small_graph

    return small_graph()
