"""Attention as one operator: found where it is wide, and the model's numbers still."""

import collections

import onnx
import pytest

from l2g.errors import ExportError
from l2g.export.exporter import ExportOptions, build_graph, contract_of, export
from l2g.export.graph import attention, node_builder
from l2g.export.graph.blocks import block_of
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from tests.exported_videomt import videomt_graph
from tests.modeling.videomt.small import small_videomt

LAYERS = 4


@pytest.fixture
def plain():
    """The graph as it is where all stays in the cache."""
    return onnx.load(videomt_graph())


@pytest.fixture
def wide(monkeypatch):
    """Nothing stays in the cache."""
    monkeypatch.setattr(node_builder, "PART_BYTES", 1)


def operators(graph):
    return collections.Counter(node.op_type for node in graph.graph.node)


def test_every_attention_is_one_node_that_gives_the_same(plain, wide, tmp_path):
    """The export itself holds the graph to PyTorch, over rollouts of several streams with resets and NaN."""
    export(small_videomt(), tmp_path / "model.onnx")
    fused = onnx.load(tmp_path / "model.onnx")
    assert operators(fused)[attention.OPERATOR] == LAYERS
    assert operators(fused)["Softmax"] == 0
    assert operators(plain)[attention.OPERATOR] == 0, "small ones stay as they are"
    nodes = [node for node in fused.graph.node if node.op_type == attention.OPERATOR]
    assert [block_of(node, "module") for node in nodes] == [f"layers.{i}.attention" for i in range(LAYERS)]
    assert all(len(node.input) == 4 for node in nodes), "the biases of the three projections are added inside"
    counted = [count_flops(graph, shapes_for_one_stream(graph)) for graph in (fused, plain)]
    assert counted[0] == counted[1]
    tokens, queries, width = 24 * 24 // 16 + 4, 11, 48
    products = 2 * 2 * width * (2 * tokens**2 + 2 * (tokens + queries) ** 2) + 2 * queries * 24 * 24 * width
    assert counted[0] == ({**counted[0][0], "product": products}, 0)


def test_a_wrong_scale_is_found_out(wide, tmp_path, monkeypatch):
    found = attention._scaled
    monkeypatch.setattr(attention, "_scaled", lambda value: (pair := found(value)) and (pair[0], 2 * pair[1]))
    with pytest.raises(ExportError, match="differs from the model"):
        export(small_videomt(), tmp_path / "model.onnx")


def test_an_engine_fuses_by_itself(wide):
    model, options = small_videomt(), ExportOptions(target="tensorrt")
    graph = onnx.load_from_string(build_graph(model, contract_of(model, options), options))
    assert operators(graph)[attention.OPERATOR] == 0
    assert operators(graph)["Softmax"] == LAYERS


def test_other_softmaxes_are_left_alone(wide):
    """Scaled behind the product, say: what is not known is not touched."""
    model, options = small_videomt(), ExportOptions()
    found = {}
    for name in ("eager", "sdpa"):
        model.network.config._attn_implementation = name
        graph = onnx.load_from_string(build_graph(model, contract_of(model, options), options))
        found[name] = operators(graph)[attention.OPERATOR]
    assert found == {"eager": 0, "sdpa": LAYERS}
