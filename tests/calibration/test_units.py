"""What counts as quantisable in the small model."""

import numpy as np
import onnx
import pytest

from l2g.calibration.placement import ONNXRUNTIME, TENSORRT, find_places, quantise
from l2g.calibration.ranges import Interval
from l2g.calibration.units import take_inventory
from l2g.errors import ExportError
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from tests.export.models import inputs, session
from tests.exported import small_graph
from tests.exported_swin import SWIN, swin_graph, swin_model


@pytest.fixture(scope="module")
def model():
    return onnx.load(small_graph())


@pytest.fixture(scope="module")
def inventory(model):
    return take_inventory(model)


def test_the_default_set_is_backbone_and_encoder(inventory):
    assert {name.split(".")[0] for name in inventory.default} == {"backbone", "encoder"}
    others = {unit.name.split(".")[0] for unit in inventory.units if not unit.default}
    assert others == {"proposals", "aligner", "decoder"}
    assert "backbone.res3.0" in inventory.names
    assert "aligner.layers.1.cross_attn" in inventory.names


def test_coordinates_scores_and_the_first_convolution_are_never_units(model, inventory):
    weights = {weight.name for weight in model.graph.initializer}
    every = {n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in weights}
    left = every - inventory.nodes(inventory.names)
    words = ("sampling_offsets", "attention_weights", "class_embed", "bbox_embed", "mask_embed", "ref_point_head")
    few = {"/backbone/stem/conv1/Conv", "/backbone/res2/res2.0/conv2/Conv", "/backbone/res2/res2.0/conv3/Conv"}
    # The small model's second stage is four channels wide.
    assert {name for name in left if not any(word in name for word in words)} == few
    for word in words:
        assert any(word in name for name in left)
        assert not any(word in name for name in inventory.nodes(inventory.names))


def test_no_product_of_two_activations_is_a_unit(model, inventory):
    weights = {weight.name for weight in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    assert all(nodes[name].input[1] in weights for name in inventory.nodes(inventory.names))


def test_each_node_is_in_one_unit_and_the_total_is_of_the_whole_graph(model, inventory):
    names = [name for unit in inventory.units for name in unit.nodes]
    assert len(names) == len(set(names))
    counted, _ = count_flops(model, shapes_for_one_stream(model))
    assert inventory.flops == sum(counted.values())
    assert 0 < inventory.share(inventory.default) < inventory.share(inventory.names) < 100


def test_a_convolution_by_hand(inventory):
    """The 3 x 3 output convolution of the pixel decoder: 16 x 24 pixels, 64 channels in and out."""
    unit = next(unit for unit in inventory.units if unit.name == "encoder.output")
    assert unit.flops == 2 * 16 * 24 * 64 * 64 * 9


def test_a_foreign_graph_is_refused():
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    value = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], [0.0] * 4)
    ends = [value("x", 1, [2, 2])], [value("y", 1, [2, 2])]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "foreign", *ends, [weight]))
    with pytest.raises(ExportError, match="no convolution or linear layer of a known block"):
        take_inventory(model)


def test_a_swins_stages_attentions_and_mlps_are_units_of_their_own():
    inventory = take_inventory(onnx.load(swin_graph()))
    names = [name for name in inventory.names if name.startswith("backbone.")]
    blocks = [f"layers.{stage}.blocks.{index}" for stage, depth in enumerate(SWIN.depths) for index in range(depth)]
    expected = {f"backbone.{block}.{part}" for block in blocks for part in ("attn", "attn.products", "mlp")}
    expected |= {f"backbone.layers.{stage}.downsample.reduction" for stage in range(3)}
    assert set(names) == expected
    units = {unit.name: unit for unit in inventory.units}
    block = "backbone.layers.1.blocks.1"
    attention, products, mlp = (units[f"{block}.{part}"] for part in ("attn", "attn.products", "mlp"))
    # 12 x 20 tokens are 6 windows of 49; 128 channels, an MLP of 512.
    assert attention.flops == 2 * 6 * 49 * 128 * (384 + 128)
    assert products.flops == 2 * 6 * 49 * 49 * 128 * 2
    assert mlp.flops == 2 * 12 * 20 * 128 * 512 * 2
    assert (attention.default, products.default, mlp.default) == (True, False, True)
    assert not any(name.endswith("products") for name in inventory.names if not name.startswith("backbone."))


@pytest.mark.parametrize("layout", [TENSORRT, ONNXRUNTIME], ids=lambda layout: layout.name)
def test_a_swin_on_8_bits_is_the_float32_one_rounded(layout):
    """Everything that may be, products within windows too: the four stages' outputs, relative root mean square."""
    graph = onnx.load(swin_graph())
    inventory = take_inventory(graph)
    nodes = inventory.nodes(name for name in inventory.names if name.startswith("backbone."))
    maps = [f"/backbone/norm{stage}/LayerNormalization_output_0" for stage in range(4)]
    exact = tensors(graph, {*find_places(graph, nodes, layout).tensors, *maps})
    spans = {name: Interval(float(array.min()), float(array.max())) for name, array in exact.items()}
    found = tensors(quantise(graph, nodes, spans.__getitem__, layout), maps)
    for name in maps:
        error = np.sqrt(np.square(found[name] - exact[name]).mean() / np.square(exact[name]).mean())
        # Measured: 0.002 to 0.05. With spans of half the width 0.15.
        assert 1e-4 < error < 0.07, name


def tensors(graph, names):
    """What two streams without a past give of these, by name."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    exposed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    opened = session(exposed.SerializeToString())
    feeds = zip([value.name for value in opened.get_inputs()], inputs(swin_model(), 2, valid=[0, 0]), strict=True)
    return dict(zip(names, opened.run(list(names), dict(feeds)), strict=True))
