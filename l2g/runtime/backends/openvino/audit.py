"""What OpenVINO really computes in: read from the compiled model's layers, not from what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import openvino as ov

from l2g.artifacts.records import MIN_SHARE, Audit

_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_NAMES = ("fp32", "bf16", "fp16", "int8", "unknown")
_ATTENTION = "ScaledDotProductAttention"
PRODUCTS = ("Convolution", "GroupConvolution", "MatMul", _ATTENTION)
# Of the compiled model's types those that hold a product: a CPU's, then what only a GPU calls so.
_COMPUTING = (
    *("Convolution", "EmbeddingBagPacked", "FullyConnected", "MatMul", "Subgraph", _ATTENTION, "MHA"),
    *("Gemm", "scaled_dot_product_attention", "embedding_bag"),
)
# What may stand between a product and the operator that its layer is named after: bias, activation, layout.
_BEHIND = (
    *("Add", "Multiply", "Relu", "Reshape", "Transpose", "Convert", "FakeQuantize", "Squeeze", "Unsqueeze"),
    "Concat",  # of the sums of some queries each
)
_STEPS = 4
# What OpenVINO adds to the names of products that it takes apart, and `marks` to those that it spells in another way.
_SUFFIXES = ("/DequantizationMultiply", "/WithoutBiases", "/product")


@dataclass(frozen=True)
class Product:
    """name: of the operator, behind: those that it may have been fused into. precision: that the graph gives it, "int8"
    where both of its factors come from eight bits. flops: for one stream."""

    name: str
    behind: tuple[str, ...]
    precision: str
    flops: int


@dataclass(frozen=True)
class Judged:
    """shares: of each precision that a part of the products is to be in that counts (`MIN_SHARE`), how much of it by
    FLOPs is, 0 to 1; what no layer names is left out. Where none is named, whether any layer is in it, 0 or 1."""

    audit: Audit
    shares: dict[str, float]


def audit(products: Sequence[Product], runtime: ov.Model, asked: str, floating: str | None = None) -> Judged | None:
    """Judge a compiled model; None of a device that tells nothing of its layers. products: of the graph, by
    `products_of`, before it was rewritten. runtime: what became of it.

    asked: what all of it is to be in, as it is told. floating: what the products are to be in that are not of eight
    bits, "fp32", "bf16" or "fp16"; None: each in the precision that the graph gives it.
    """
    nodes = runtime.get_ordered_ops()
    if all(node.get_type_name() in ("Parameter", "Result") for node in nodes):
        return None
    facts = [found for found in map(_facts, nodes) if _fact(found, "layerType") in _COMPUTING]
    layers: dict[str, str] = {}
    for found in facts:
        for name in _fact(found, "originalLayersNames").split(","):
            for suffix in _SUFFIXES:
                name = name.removesuffix(suffix)
            layers[name] = _precision(found)
    runs = {product: _precision_of(product, layers) for product in products}
    due = {
        product: product.precision if product.precision == "int8" else floating or product.precision
        for product in products
    }
    wider = sorted((each for each in products if runs[each] != due[each]), key=lambda product: -product.flops)
    total = sum(product.flops for product in products)
    shares = {}
    for precision in sorted({*due.values()} - {"unknown"}):
        asked_for = [each for each in products if due[each] == precision]
        known = sum(each.flops for each in asked_for if runs[each] != "unknown")
        if sum(each.flops for each in asked_for) < (1 - MIN_SHARE) * total:
            continue
        if known:
            shares[precision] = sum(each.flops for each in asked_for if runs[each] == precision) / known
        elif not {*runs.values()} - {"unknown"}:
            shares[precision] = float(precision in layers.values())
    flops = dict.fromkeys(_NAMES, 0)
    for product, precision in runs.items():
        flops[precision] += product.flops
    judgement = Audit(
        asked=asked,
        share=1 - sum(product.flops for product in wider) / total if total else 0.0,
        flops=flops,
        layers=dict(Counter(map(_precision, facts))),
        nodes=dict(Counter(runs.values())),
        wider=tuple((product.name, runs[product]) for product in wider[:10]),
        fused_attention=sum(map(_is_attention, map(_facts, nodes))),
        activation_bytes=None,
        weight_bytes=None,
        source="runtime model",
    )
    return Judged(judgement, shares)


def named_attentions(model: ov.Model) -> ov.Model:
    """The same with a name of its own for every attention: the graph's operator becomes several nodes, which OpenVINO
    only numbers, and in a compiled model by other numbers."""
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() == _ATTENTION:
            node.set_friendly_name(f"{_ATTENTION}/{place}")
    return model


def products_of(model: ov.Model) -> tuple[Product, ...]:
    """Of a graph as it was read, with `named_attentions`, reshaped to one stream."""
    return tuple(_products(model))


def _products(model: ov.Model) -> Iterator[Product]:
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
        precision = "int8" if quantised else _PRECISIONS.get(node.get_output_element_type(0).get_type_name(), "unknown")
        name = node.get_friendly_name().removesuffix(_SUFFIXES[1])
        yield Product(name, tuple(_readers(node)), precision, 2 * outputs * inner)


def _is_attention(facts: Any) -> bool:
    """Of a layer of the compiled model: both products of an attention at once, found by OpenVINO or by the graph."""
    names = _fact(facts, "originalLayersNames").split(",")
    return any(name.startswith(_ATTENTION) for name in names) or sum(name.endswith("/MatMul") for name in names) > 1


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


def _precision_of(product: Product, layers: dict[str, str]) -> str:
    return next((layers[name] for name in (product.name, *product.behind) if name in layers), "unknown")


def fact_of(node: Any, name: str) -> str:
    """What a compiled model says of one of its layers, "" where it says nothing."""
    return _fact(_facts(node), name)


def _facts(node: Any) -> Any:
    return node.get_rt_info()


def _precision(facts: Any) -> str:
    return _PRECISIONS.get(_fact(facts, "runtimePrecision"), "unknown")


def _fact(facts: Any, name: str) -> str:
    return str(facts[name].astype(str)) if name in facts else ""
