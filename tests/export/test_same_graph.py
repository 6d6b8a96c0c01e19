"""The shipped model's graph is, node for node, the one that parity, FP16 and INT8 were measured with.

Its numbers are folded by BLAS, whose last bits are another processor's: they are held to what they weigh.
"""

import hashlib
import importlib.metadata

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import l2g
from l2g.export.exporter import ExportOptions, build_graph, contract_of

# With the versions that wrote it; others may spell the same graph in another way.
VERSIONS = {"torch": "2.13.0", "onnx": "1.23.2", "onnx-ir": "1.1.0"}
NODES = "52f8c022a5446045c20b3659c8c6172ffdc2d40565e569b1c13bb907c24ce5f7"
SIZE, MOMENT = 0.81473092306, 0.40026185610


def test_the_graph_of_the_shipped_model_is_what_was_measured():
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in VERSIONS}
    if found != VERSIONS:
        pytest.skip(f"written with {VERSIONS}, installed are {found}")
    model, options = l2g.load_checkpoint("l2g_tiny"), ExportOptions()
    nodes, size, moment = weighed(onnx.load_from_string(build_graph(model, contract_of(model, options), options)))
    assert nodes == NODES
    assert (size, moment) == pytest.approx((SIZE, MOMENT), rel=1e-6)


def weighed(model: onnx.ModelProto) -> tuple[str, float, float]:
    """A sum over everything but the numbers of float constants (of which equal ones are one, as bits have it); their
    mean magnitude as nodes read them; and their mean product with a number for each place, which tells orders apart."""
    magnitude, moment, count = 0.0, 0.0, 0
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    digest = hashlib.sha256()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            values = constants.get(name)
            if values is None:
                continue
            node.input[place] = f"{values.dtype} {values.shape}"
            if values.dtype != np.float32:
                digest.update(values.tobytes())
                continue
            weights = np.abs(values.astype(np.float64)).ravel()
            magnitude += weights.sum()
            moment += weights @ np.modf((np.arange(count, count + weights.size)) * 0.6180339887498949)[0]
            count += weights.size
        digest.update(node.SerializeToString(deterministic=True))
    for value in (*model.graph.input, *model.graph.output):
        digest.update(value.SerializeToString(deterministic=True))
    return digest.hexdigest(), magnitude / count, moment / count
