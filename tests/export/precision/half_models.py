"""The small model's graph in float32 and FP16, and a block of it that FP16 breaks."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir
import torch

from l2g.contract import GraphContract
from l2g.export.exporter import ExportOptions, build_graph, contract_of
from l2g.modeling.local2global import Local2Global
from tests.exported import exported_model

# What the first of two linear layers is multiplied and the second divided by: exact in float32. FP16 still holds the
# weights, but not the activations between the two.
SCALE = 2.0**17
PLANTED = "encoder.layers.0"


@functools.cache
def planted_model() -> Local2Global:
    """The small model, float32's numbers unchanged, with activations beyond FP16 inside one feed-forward network."""
    model = exported_model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = Local2Global(model.config).eval()
    copy.load_state_dict(state)
    layer = copy.encoder.layers[0]
    with torch.no_grad():
        layer.linear1.weight.mul_(SCALE)
        layer.linear1.bias.mul_(SCALE)
        layer.linear2.weight.div_(SCALE)
    return copy


@functools.cache
def single(planted: bool = False, lowering: str = "gather", target: str = "onnxruntime") -> bytes:
    """The serialised float32 graph."""
    model, options = planted_model() if planted else exported_model(), ExportOptions(lowering=lowering, target=target)
    return build_graph(model, contract_of(model, options), options)


def contract() -> GraphContract:
    return contract_of(exported_model(), ExportOptions())


def parsed(graph: bytes) -> ir.Model:
    """A fresh copy to convert."""
    return ir.from_proto(onnx.load_from_string(graph))
