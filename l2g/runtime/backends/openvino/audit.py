"""What OpenVINO really computes in: read from the compiled model's layers, not from what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import openvino as ov

from l2g.artifacts.records import Audit
from l2g.errors import EngineError

_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_NAMES = ("fp32", "bf16", "fp16", "int8", "unknown")
_ATTENTION = "ScaledDotProductAttention"
PRODUCTS = ("Convolution", "GroupConvolution", "MatMul", _ATTENTION)
# Of the compiled model's types those that hold a product.
_COMPUTING = ("Convolution", "EmbeddingBagPacked", "FullyConnected", "MatMul", "Subgraph", _ATTENTION, "MHA")
# What may stand between a product and the operator that its layer is named after: bias, activation, layout.
_BEHIND = (
    *("Add", "Multiply", "Relu", "Reshape", "Transpose", "Convert", "FakeQuantize", "Squeeze", "Unsqueeze"),
    "Concat",  # of the sums of some queries each
)
_STEPS = 4
# What OpenVINO adds to the names of products that it takes apart.
_SUFFIXES = ("/DequantizationMultiply", "/WithoutBiases")


@dataclass(frozen=True)
class _Product:
    """name: of the operator, behind: those that it may have been fused into. flops: for one stream."""

    name: str
    behind: tuple[str, ...]
    quantised: bool
    flops: int


def audit(model: ov.Model, runtime: ov.Model, asked: str) -> Audit:
    """Judge a compiled model. model: as it was read, with `named_attentions`, which is reshaped to one stream; runtime:
    what became of it.

    asked: "fp32", "bf16", "fp16" or "int8", of which the last is asked only of the products that the graph quantises.
    """
    products = tuple(_products(model))
    layers: dict[str, str] = {}
    for node in runtime.get_ordered_ops():
        facts = node.get_rt_info()
        if _fact(facts, "layerType") not in _COMPUTING:
            continue
        precision = _PRECISIONS.get(_fact(facts, "runtimePrecision"), "unknown")
        for name in _fact(facts, "originalLayersNames").split(","):
            for suffix in _SUFFIXES:
                name = name.removesuffix(suffix)
            layers[name] = precision
    if not products or not layers:
        raise EngineError(
            f"{len(products)} products and {len(layers)} layers found, so nothing is known of the model's precision; "
            "this version of OpenVINO describes its layers in another way than those that l2g knows"
        )
    found = {product: _precision_of(product, layers) for product in products}
    due = [product for product in products if asked != "int8" or product.quantised]
    wider = sorted(
        (p for p in due if found[p] != ("int8" if p.quantised else asked)), key=lambda product: -product.flops
    )
    total = sum(product.flops for product in due)
    flops = dict.fromkeys(_NAMES, 0)
    for product, precision in found.items():
        flops[precision] += product.flops
    return Audit(
        asked=asked,
        share=1 - sum(product.flops for product in wider) / total if total else 0.0,
        flops=flops,
        layers=dict(layer_precisions(runtime)),
        nodes=dict(Counter(found.values())),
        wider=tuple((product.name, found[product]) for product in wider[:10]),
        fused_attention=sum(_is_attention(node.get_rt_info()) for node in runtime.get_ordered_ops()),
        activation_bytes=None,
        weight_bytes=None,
        source="runtime model",
    )


def named_attentions(model: ov.Model) -> ov.Model:
    """The same with a name of its own for every attention: the graph's operator becomes several nodes, which OpenVINO
    only numbers, and in a compiled model by other numbers."""
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() == _ATTENTION:
            node.set_friendly_name(f"{_ATTENTION}/{place}")
    return model


def _products(model: ov.Model) -> Iterator[_Product]:
    model.reshape({port.any_name: [1, *_rest(port)] for port in model.inputs})
    for node in model.get_ordered_ops():
        if node.get_type_name() not in PRODUCTS:
            continue
        left, right = (port.get_partial_shape() for port in node.inputs()[:2])
        outputs = prod(dim.get_length() for dim in node.output(0).get_partial_shape())
        if node.get_type_name() == "MatMul":
            inner = left[len(left) - (2 if node.get_attributes()["transpose_a"] else 1)].get_length()
        elif node.get_type_name() == _ATTENTION:  # query x keys, and the weights x values
            inner = 2 * right[len(right) - 2].get_length()
        else:  # weights are [out, in, kernel...], those of a group have the group first
            first = 1 if node.get_type_name() == "Convolution" else 2
            inner = prod(right[axis].get_length() for axis in range(first, len(right)))
        quantised = all(dequantised(node.input_value(index).get_node()) for index in (0, 1))
        name = node.get_friendly_name().removesuffix(_SUFFIXES[1])
        yield _Product(name, tuple(_readers(node)), quantised, 2 * outputs * inner)


def _is_attention(facts: Any) -> bool:
    """Of a layer of the compiled model: both products of an attention at once, found by OpenVINO or by the graph."""
    names = _fact(facts, "originalLayersNames").split(",")
    return any(name.startswith(_ATTENTION) for name in names) or sum(name.endswith("/MatMul") for name in names) > 1


def _rest(port: Any) -> list[int]:
    return [dim.get_length() for dim in list(port.partial_shape)[1:]]


def _readers(node: Any) -> Iterator[str]:
    """The names of what follows a product while it has one reader only."""
    for _ in range(_STEPS):
        readers = {
            reader.get_node().get_friendly_name(): reader.get_node() for reader in node.output(0).get_target_inputs()
        }
        if len(readers) != 1:
            return
        node = next(iter(readers.values()))
        if node.get_type_name() not in _BEHIND:
            return
        yield node.get_friendly_name()


def dequantised(node: Any) -> bool:
    """Whether a value comes from eight bits: (Convert(integers) - zero) * scale, or a FakeQuantize."""
    for _ in range(6):
        kind = node.get_type_name()
        if kind == "FakeQuantize" or node.get_output_element_type(0).get_type_name() in ("i8", "u8"):
            return True
        if kind not in ("Multiply", "Subtract", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze"):
            return False
        node = node.input_value(0).get_node()
    return False


def _precision_of(product: _Product, layers: dict[str, str]) -> str:
    return next((layers[name] for name in (product.name, *product.behind) if name in layers), "unknown")


def layer_precisions(runtime: ov.Model) -> Counter[str]:
    """How many layers that hold a product compute in what."""
    facts = [node.get_rt_info() for node in runtime.get_ordered_ops()]
    computing = [one for one in facts if _fact(one, "layerType") in _COMPUTING]
    return Counter(_PRECISIONS.get(_fact(one, "runtimePrecision"), "unknown") for one in computing)


def fact_of(node: Any, name: str) -> str:
    """What a compiled model says of one of its layers, "" where it says nothing."""
    return _fact(node.get_rt_info(), name)


def _fact(facts: Any, name: str) -> str:
    return str(facts[name].astype(str)) if name in facts else ""
