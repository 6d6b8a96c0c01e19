"""The traced graph: everything that the canvas decides is a constant, and the number of streams is free."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from l2g.config import AlignerConfig
from l2g.errors import ExportError
from l2g.export.deformable.lowering import lower
from l2g.export.exporter import ExportOptions, contract_of
from l2g.export.graph import shapes, tracing
from l2g.export.graph.batch_axis import generalise
from l2g.export.graph.folding import fold
from l2g.export.graph.tracing import trace
from l2g.export.graph.values import constant
from l2g.modeling.stateless_step import StatelessStep
from tests.export.models import close, eager, inputs, run, session, traced
from tests.modeling.small import small_model
from tests.modeling.videomt.small import small_videomt


def test_boundary_is_the_contracts():
    model = traced()
    names = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    assert names == [
        ["frames", "prior_queries", "prior_boxes", "prior_valid"],
        ["queries", "boxes", "logits", "mask_logits"],
    ]
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert str(value.shape.dims[0]) == "B"
        assert all(isinstance(dim, int) for dim in value.shape.dims[1:])
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8


def test_nothing_is_computed_that_the_canvas_fixes():
    counts = Counter(node.op_type for node in traced().graph)
    for name in (
        "Shape",
        "Range",
        "ConstantOfShape",
        "Constant",
        "Identity",
        "BatchNormalization",
        "Sqrt",
        "Pow",
        "If",
    ):
        assert counts[name] == 0, name
    assert counts["DeformableAttention"] == 3
    # The one Sin and Cos per coordinate and position left are those of boxes; grids are constants.
    assert counts["Sin"] == counts["Cos"] <= 4 * 3


def test_no_work_is_idle_or_done_twice():
    seen = set()
    for node in traced().graph:
        if node.op_type == "Cast":
            assert node.inputs[0].dtype != node.attributes["to"].as_int() or node.outputs[0].is_graph_output()
        if node.op_type == "Reshape":
            assert node.inputs[0].shape != node.outputs[0].shape, node.name
        key = (node.op_type, *(v and v.name for v in node.inputs), *(f"{a}" for a in node.attributes.values()))
        assert key not in seen, node.name
        seen.add(key)


# Everything that a model may be configured to, in as few traces as possible.
VARIANTS = {
    "no trajectory, dynamic positions, marked slots, levels from the finest and no boxes of masks": {
        "trajectory": False,
        "encoder": {"levels": 5, "feature_order": "high2low"},
        "box_init": "no",
        "slot_marks": 0.3,
        "aligner": AlignerConfig(layers=1, ffn_dim=40, local_position="dynamic"),
    },
    "no aligner, basic blocks, bitmask": {
        "aligner": None,
        "box_init": "bitmask",
        "state_box": "head",
        "backbone": {"block": "basic", "blocks": (1, 1, 1, 1)},
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_model(changes):
    changes = {key: vars(value) if isinstance(value, AlignerConfig) else value for key, value in changes.items()}
    model = small_model(seed=1, **changes)
    graph = trace(model, contract_of(model, ExportOptions()), 17)
    assert {node.op_type for node in graph.graph}.isdisjoint({"Shape", "Range"})
    runner = session(ir.to_proto(lower(graph, "gather", "onnxruntime")).SerializeToString())
    for streams in (1, 3):
        arrays = inputs(model, streams, seed=streams, valid=[1] * streams)
        close(run(runner, arrays), eager(model, arrays))


class _Branching(nn.Module):
    def forward(self, x):
        return x + 1 if len(x) > 2 else x * 2


class _Counting(nn.Module):
    def forward(self, x):
        return x * len(x)


class _Repeating(nn.Module):
    def forward(self, x):
        return x + torch.arange(3.0)[None].expand(len(x), -1)


class _Pairing(nn.Module):
    def forward(self, x):
        return (x[:, None] + x[None]).sum(-1)


def _pair(module):
    """The folded graphs of `module` for two and for three streams."""
    import io

    import onnx

    models = []
    for streams in (2, 3):
        buffer = io.BytesIO()
        torch.onnx.export(module, (torch.ones(streams, 3),), buffer, dynamo=False, opset_version=17)
        models.append(fold(ir.from_proto(onnx.load_from_string(buffer.getvalue()))))
    return models


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "text"), [(_Branching(), "depends on the number of streams"), (_Counting(), "depends on the number")]
)
def test_a_model_that_looks_at_the_number_of_streams_is_refused(module, text):
    with pytest.raises(ExportError, match=text):
        generalise(*_pair(module), (2, 3))


@pytest.mark.filterwarnings("ignore")
def test_constants_repeated_for_every_stream_are_kept_once():
    model = generalise(*_pair(_Repeating()), (2, 3))
    (node,) = list(model.graph)
    (row,) = [constant(value) for value in node.inputs if constant(value) is not None]
    np.testing.assert_array_equal(row, [[0, 1, 2]])


@pytest.mark.filterwarnings("ignore")
def test_two_dimensions_that_follow_the_streams():
    """[B, 1, 3] + [1, B, 3] has two; nothing needs them written down."""
    model = generalise(*_pair(_Pairing()), (2, 3))
    assert [str(dim) for dim in model.graph.outputs[0].shape.dims] == ["B", "B"]


@pytest.mark.parametrize("make", [small_model, small_videomt])
def test_a_trace_in_which_nothing_is_computed_is_the_same(make, monkeypatch):
    model, zeros = make(), shapes.zeros
    contract, seen = contract_of(model, ExportOptions()), []

    def watched(operator, args, kwargs):
        seen.append(operator.overloadpacket.__name__)
        return zeros(operator, args, kwargs)

    monkeypatch.setattr(shapes, "zeros", watched)
    empty = tracing._trace(StatelessStep(model).eval(), contract, 20, 2)
    assert {"_convolution", "addmm", "bmm"} <= set(seen)
    monkeypatch.setattr(tracing, "nothing_computed", lambda _: nullcontext())
    computed = tracing._trace(StatelessStep(model).eval(), contract, 20, 2)
    assert ir.to_proto(empty) == ir.to_proto(computed)
