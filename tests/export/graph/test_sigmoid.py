"""Box refinement keeps its last bit."""

import numpy as np
import onnx_ir as ir
import torch

from l2g.export.graph.sigmoid import spell_out_box_sigmoids
from tests.export.models import session, traced


def sigmoid(*shape):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B", *shape]))
    node = ir.node("Sigmoid", [x], name="sigmoid")
    y = node.outputs[0]
    y.name, y.shape, y.dtype = "y", x.shape, ir.DataType.FLOAT
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 17}, name="g"), ir_version=8)


def test_boxes_at_the_border_are_as_in_pytorch():
    x = torch.linspace(-16, 16, 4000).view(1, 1000, 4)
    model = spell_out_box_sigmoids(sigmoid(1000, 4))
    (found,) = session(ir.to_proto(model).SerializeToString()).run(None, {"x": x.numpy()})
    expected = x.sigmoid().numpy()
    # A tenth of a unit in the last place on average; the operator itself is off in two of five values near 1.
    assert (found != expected)[expected > 0.999].mean() < 0.1
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=0)


def test_every_box_of_a_model_is_refined_so():
    names = [node.op_type for node in traced().graph]
    assert (names.count("Exp"), names.count("Sigmoid")) == (2, 0)  # one refinement a decoder layer


def test_other_sigmoids_stay():
    assert [node.op_type for node in spell_out_box_sigmoids(sigmoid(10, 8)).graph] == ["Sigmoid"]
