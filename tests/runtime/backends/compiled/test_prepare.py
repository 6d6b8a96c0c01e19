"""What a model is made into before it runs: which types, which operators, and what is left of them."""

from collections import defaultdict

import onnx
import pytest
import torch

from l2g.export.exporter import ExportOptions, build_graph, contract_of, reduced_graph
from l2g.export.graph.blocks import block_of
from l2g.modeling.stateless_step import StatelessStep
from l2g.runtime.backends.compiled.audit import fused_attentions, judge, parts, products
from l2g.runtime.backends.compiled.prepare import PRECISIONS, prepare
from l2g.runtime.backends.compiled.trace import trace
from tests.exported import exported_model
from tests.modeling.small import CONFIG, HEIGHT, WIDTH, frames, small_model

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def given(streams=2):
    n, c = CONFIG.num_queries, CONFIG.hidden_dim
    torch.manual_seed(streams)
    return frames(streams), torch.randn(streams, n, c), torch.rand(streams, n, 4), torch.ones(streams, 1)


def traced(model, precision="fp32", top_k=None, keep=()):
    step = StatelessStep(prepare(model, precision, keep), top_k).eval()
    return step, trace(step, given())


@pytest.fixture(scope="module")
def half():
    """(step, traced) of the small model in FP16."""
    return traced(exported_model(), "fp16")


def nodes(graph, *operators):
    found = [node for node in graph.graph.nodes if str(node.target).removesuffix(".default") in operators]
    assert found, operators
    return found


def types_in(found):
    return {source.meta["val"].dtype for node in found for source in node.all_input_nodes}


def test_what_computes_in_float32_is_what_does_so_in_an_exported_graph(half):
    """Block by block: the types of the products of the FP16 graph, against those of the compiled step."""
    options = ExportOptions(precision="fp16")
    model = exported_model()
    content = reduced_graph(build_graph(model, contract_of(model, options), options), "fp16")
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
    exported = defaultdict(set)
    for node in graph.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm") and not block_of(node).startswith("step"):
            exported[block_of(node)].add({1: "fp32", 10: "fp16"}[types[node.output[0]]])
    step, made = half
    compiled = defaultdict(set)
    for product in products(made, step):
        compiled[
            block_of(
                "/" + product.name.removeprefix("model.").replace(".", "/").replace("layers/", "layers.") + "/MatMul"
            )
        ].add(product.precision)
    assert exported["heads.class_embed"] == {"fp32"}
    common = exported.keys() & compiled.keys()
    assert len(common) >= 12
    assert {block: exported[block] for block in common} == {block: compiled[block] for block in common}


def test_what_lies_between_the_products_and_is_an_island_is_float32(half):
    _, made = half
    for island in (("aten.sin", "aten.cos"), ("aten.topk",), ("aten.log",), ("aten.sigmoid",), ("aten.div.Tensor",)):
        assert types_in(nodes(made, *island)) == {torch.float32}, island
    (first, *_) = nodes(made, "aten.convolution")
    assert types_in([first]) == {torch.float16}
    assert types_in(nodes(made, "aten.sub.Tensor")[:1]) == {torch.float32}  # frames minus the mean
    for node in nodes(made, "l2g.fused_deformable_attention"):
        value, reference, offsets, logits = (source.meta["val"].dtype for source in node.all_input_nodes)
        assert (value, reference, offsets, logits) == (torch.float16, torch.float32, torch.float16, torch.float16)
    for node in nodes(made, "aten.native_layer_norm", "aten.native_group_norm"):
        value = node.all_input_nodes[0].meta["val"]
        queries = value.shape[-2:] == (CONFIG.num_queries, CONFIG.hidden_dim)
        assert value.dtype == (torch.float32 if queries else torch.float16), node
    # Tokens are carried from layer to layer in 16 bits, and not widened by the float32 constants that they meet.
    wide = [node for node in nodes(made, "aten.add.Tensor") if node.meta["val"].numel() > 2 * CONFIG.num_queries * 64]
    assert types_in(wide) == {torch.float16}


def test_nothing_is_left_that_no_input_reaches(half):
    """Grids, embeddings, sizes, folded norms: in a CUDA graph nothing may come from the host."""
    _, made = half
    reached = set()
    for node in made.graph.nodes:
        if node.op == "placeholder" or reached & set(node.all_input_nodes):
            reached.add(node)
        elif node.op == "call_function":
            pytest.fail(f"{node.format_node()} depends on no input")
    names = {str(node.target) for node in made.graph.nodes}
    assert not {"aten.rsqrt.default", "aten.arange.default", "aten.batch_norm.default"} & names
    assert all(node.target._schema.is_mutable is False for node in made.graph.nodes if hasattr(node.target, "_schema"))


def test_convolutions_have_their_channels_last_and_a_bias(half):
    _, made = half
    convolutions = nodes(made, "aten.convolution")
    assert len(convolutions) > 15
    for node in convolutions:
        assert node.meta["val"].is_contiguous(memory_format=torch.channels_last), node.format_node()
    backbone = [node for node in convolutions if node.args[2] is not None]
    assert len(backbone) >= 17  # of the backbone all, its norms folded


def test_no_batch_of_products_shares_its_weights(half):
    _, made = half
    for node in nodes(made, "aten.bmm"):
        assert all(source.op != "get_attr" for source in node.all_input_nodes)


@pytest.mark.parametrize("state_box", ["mask", "head"])
def test_masks_are_computed_of_chosen_slots_where_the_state_does_not_need_all(state_box):
    model = small_model(state_box=state_box)
    _, made = traced(model, top_k=3)
    slots = {node.meta["val"].shape[1] for node in nodes(made, "aten.bmm") if node.meta["val"].shape[2] > 100}
    # Those of the local queries, whose boxes are masks', are all there.
    assert slots == ({CONFIG.num_queries} if state_box == "mask" else {CONFIG.num_queries, 3})
    with torch.no_grad():
        for found, expected in zip(made(*given()), StatelessStep(model, 3)(*given()), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_all_masks_are_there_where_they_are_asked_for():
    _, made = traced(small_model(state_box="head"))
    assert made(*given())[-1].shape == (2, CONFIG.num_queries, HEIGHT // 4, WIDTH // 4)


def test_blocks_that_are_kept():
    step, made = traced(exported_model(), "bf16", keep=("encoder.layers.0", "heads.mask_embed"))
    found = {part.name: set(part.flops) for part in parts(products(made, step), 2)}
    assert found["encoder.layers.0"] == {"fp32"}
    assert "fp32" in found["heads.mask_embed"]
    assert found["decoder.layers.0"] == {"bf16"}


@pytest.mark.parametrize(("precision", "expected"), [("fp16", torch.float32), ("bf16", torch.bfloat16)])
def test_a_weight_beyond_the_type_keeps_its_layer_in_float32(precision, expected):
    model = small_model()
    with torch.no_grad():
        model.decoder.layers[0].linear1.weight[0, 0] = 1e5
    prepared = prepare(model, precision)
    assert prepared.decoder.layers[0].linear1.weight.dtype == expected
    assert prepared.decoder.layers[0].linear2.weight.dtype == HALF[precision]


def test_the_model_itself_stays_as_it_is():
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepare(model, "fp16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(PRECISIONS) == {"fp32", "fp16", "bf16"}


def test_the_audit_weighs_by_flops(half):
    step, made = half
    found = products(made, step)
    audit = judge(found, "fp16", 2, fused_attentions(made), 1000)
    assert audit.flops["bf16"] == 0
    assert audit.share == pytest.approx(1 - audit.flops["fp32"] / sum(audit.flops.values()), abs=1e-6)
    assert 0.9 < audit.share < 1
    assert {name for name, _ in audit.wider} == {"model.heads.class_embed"}
    # A layer's attentions: 1 of the encoder's, 2 of the decoder's twice, 2 of the aligner's twice.
    assert audit.fused_attention == 1 + 4 + 4
    # The products of the first bottleneck by hand: one stream, 16 x 24 pixels.
    part = next(part for part in parts(found, 2) if part.name == "backbone.res2")
    assert part.flops == {"fp16": 2 * 16 * 24 * (8 * 4 + 4 * 4 * 9 + 4 * 16 + 8 * 16)}


def test_the_audit_of_full_precision_finds_nothing_else():
    step, made = traced(exported_model())
    audit = judge(products(made, step), "fp32", 2, 0, 0)
    assert (audit.share, audit.wider) == (1.0, ())
