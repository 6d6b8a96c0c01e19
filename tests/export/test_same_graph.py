"""The shipped model's graph is, byte for byte, the one that parity, FP16 and INT8 were measured with."""

import hashlib
import importlib.metadata

import pytest

import l2g
from l2g.export.exporter import ExportOptions, build_graph, contract_of

# With the versions that wrote it; others may spell the same graph in another way.
VERSIONS = {"torch": "2.13.0", "onnx": "1.23.2", "onnx-ir": "1.1.0"}
SUM = "4055bea88ff9f128df71b42acbd5d4ae90b75f18c17a21d4030282e037b8c93d"


def test_the_graph_of_the_shipped_model_is_what_was_measured():
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in VERSIONS}
    if found != VERSIONS:
        pytest.skip(f"written with {VERSIONS}, installed are {found}")
    model, options = l2g.load_checkpoint("l2g_tiny"), ExportOptions()
    graph = build_graph(model, contract_of(model, options), options)
    assert hashlib.sha256(graph).hexdigest() == SUM
