"""A graph of explicit 16-bit types, in the words in which OpenVINO's CPU computes it fastest.

Left in its own types a mixed graph is full of conversions that OpenVINO fuses with nothing. What it fuses well is a
float32 graph with a hint that names the narrow type, in which each operator of an island carries the mark that keeps it
float32. So the conversions are taken out, what the graph computes in float32 is marked, and `narrowed` reads from the
compiled model whether anything marked was computed in 16 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino as ov
from openvino import opset1, opset8

from l2g.runtime.backends.openvino.audit import PRODUCTS, dequantised, fact_of

_NARROW = ("bf16", "f16")
_WITHOUT_ARITHMETIC = ("Constant", "Parameter", "Result")
_CONSTANT = ("Constant", "Convert")
_RESHAPING = ("Reshape", "Squeeze", "Unsqueeze")
_SCALING = ("Add", "Multiply", "Subtract")
_MOVING = ("Concat", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze", "VariadicSplit")
# OpenVINO's name of the attribute that keeps an operator's precision, as its own files spell it.
_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}


def with_marks(core: ov.Core, model: ov.Model) -> tuple[ov.Model, frozenset[str]]:
    """(the float32 graph with its marks, the names of what is marked).

    model: of static shapes, with explicit types; it is used up. To be compiled with a hint of its narrow type.
    """
    integers = _around_integers(model)
    kept = [node for node in model.get_ordered_ops() if _is_float32(node) and node.get_friendly_name() not in integers]
    islands = _inner(kept)
    widen(model)
    marked = [name for node in islands for name in _durable(node)]
    model.validate_nodes_and_infer_types()
    return _mark(core, model, frozenset(marked)), frozenset(marked)


def _around_integers(model: ov.Model) -> set[str]:
    """The names of what is float32 only because eight bits are beside it: scales, products of integers with the bias
    that ONNX counts to them, and normalisations of whole maps. A mark there would keep OpenVINO from the integers."""
    names: set[str] = set()
    quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        before = {value.get_node().get_friendly_name(): value.get_node() for value in node.input_values()}
        near = {source: before[source].get_type_name() for source in before if source in names}
        if kind in PRODUCTS:
            found = all(dequantised(node.input_value(place).get_node()) for place in (0, 1))
        elif kind == "Add":
            found = f"{name}/WithoutBiases" in near or (name.endswith("/InstanceNormalization") and bool(near))
        elif kind == "MVN":
            found = quantised and _of_maps(node)
        else:
            moves = kind in ("Relu", *_RESHAPING) or (kind == "Multiply" and "MVN" in near.values())
            found = kind == "FakeQuantize" or dequantised(node) or (moves and bool(near))
        if found:
            names.add(name)
    return names


def _of_maps(mean_variance: Any) -> bool:
    """Whether a normalisation is of whole maps: its scales are of channels."""
    readers = (port.get_node() for port in mean_variance.output(0).get_target_inputs())
    scales = (node.input_value(1).get_partial_shape() for node in readers if node.get_type_name() == "Multiply")
    return any(len(scale) == 3 and scale[2] == 1 for scale in scales)


def _inner(islands: list[Any]) -> list[Any]:
    """Without what moves values that nobody reads in float32: there the graph narrows them anyway."""
    names, inner = {node.get_friendly_name() for node in islands}, []
    for node in reversed(islands):
        readers = [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
        if node.get_type_name() in _MOVING and not any(
            reader.get_type_name() == "Result" or reader.get_friendly_name() in names for reader in readers
        ):
            names.discard(node.get_friendly_name())
        else:
            inner.append(node)
    return inner[::-1]


def narrow_type(model: ov.Model) -> str | None:
    """The 16-bit floating point type of the graph as OpenVINO spells it; None where it holds none."""
    types = {kind for node in model.get_ops() for kind in _types(node.outputs())}
    return next((kind for kind in _NARROW if kind in types), None)


def narrowed(runtime: ov.Model, islands: frozenset[str]) -> list[str]:
    """The layers of a compiled model that compute in 16 bits something that was marked; of a model from OpenVINO's
    cache not all are known, since it keeps no names of what was fused."""
    found = []
    for node in runtime.get_ordered_ops():
        if fact_of(node, "runtimePrecision") in _NARROW:
            found += sorted(islands.intersection(fact_of(node, "originalLayersNames").split(",")))
    return found


def _types(ports: list[Any]) -> list[str]:
    return [port.get_element_type().get_type_name() for port in ports]


def _is_float32(node: Any) -> bool:
    """Whether the graph has an operator compute in float32."""
    if node.get_type_name() in _WITHOUT_ARITHMETIC:
        return False
    inputs, outputs = _types(node.inputs()), _types(node.outputs())
    if node.get_type_name() == "Convert" and {*inputs, *outputs} & set(_NARROW):
        return False
    return "f32" in outputs or inputs[:1] == ["f32"]


def widen(model: ov.Model) -> None:
    """Everything in float32, in place, without the conversions from and to 16 bits; the numbers of constants stay."""
    for node in model.get_ordered_ops():
        kind, (output, *_) = node.get_type_name(), _types(node.outputs()) or [""]
        if kind == "Constant" and output in _NARROW:
            # Not a conversion of it: OpenVINO keeps that one beside the integers, and computes none of them then.
            wide = opset1.constant(node.get_data(dtype=np.float32))
            wide.set_friendly_name(node.get_friendly_name())
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(wide.output(0))
        elif kind == "Convert" and _types(node.inputs())[0] in ("f32", *_NARROW) and output in ("f32", *_NARROW):
            source = node.input_value(0)
            if source.get_node().get_type_name() == "Constant":
                continue
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(source)
            source.add_names(node.output(0).get_names())
        elif kind == "Convert" and output in _NARROW:
            node.set_destination_type(ov.Type.f32)
    model.validate_nodes_and_infer_types()


def _durable(node: Any) -> list[str]:
    """`node` as operators whose mark outlasts OpenVINO's own changes of the graph; their names."""
    kind, name = node.get_type_name(), node.get_friendly_name()
    shape = [dim.get_length() for dim in node.output(0).get_partial_shape()]
    source: Any = node.input_value(0) if node.get_input_size() else None
    if kind == "Softmax":
        return _replace(node, opset1.softmax(source, node.get_attributes()["axis"] % len(shape)))
    if kind in _RESHAPING:
        # One for a chain of them, which would be joined to one without the mark.
        while source.get_node().get_type_name() in _RESHAPING:
            source = source.get_node().input_value(0)
        return _replace(node, opset1.reshape(source, np.array(shape, np.int64), False))
    if kind in ("Split", "VariadicSplit"):
        return list(_as_gathers(node))
    if kind in _SCALING and len(shape) > 2:
        _spread(node, shape)
    if kind == "MatMul" and len(shape) == 3 and node.input_value(1).get_node().get_type_name() in _CONSTANT:
        return _as_convolution(node)
    return [name]


def _spread(node: Any, shape: list[int]) -> None:
    """A lone factor or offset in the shape of a line: one number, or one of each row, would pass for the scale or zero
    point of eight bits, which moves through the graph and takes no mark along."""
    for place in (0, 1):
        constant = node.input_value(place).get_node()
        if constant.get_type_name() == "Constant" and constant.get_data().size == 1 and shape[-1] > 1:
            line = np.full([1] * (len(shape) - 1) + shape[-1:], constant.get_data().item(), np.float32)
            node.input(place).replace_source_output(opset1.constant(line).output(0))


def _as_convolution(node: Any) -> list[str]:
    """A product with constant weights becomes a layer that loses the mark; a convolution of one tap keeps it."""
    outer = [0] if node.get_attributes()["transpose_b"] else [1, 0]
    weights = node.input_value(1)
    if outer != [0]:
        weights = opset1.transpose(weights, np.array(outer, np.int64)).output(0)
    weights = opset1.unsqueeze(weights, np.int64(2))
    swapped = np.array([0, 2, 1], np.int64)
    across = opset1.transpose(node.input_value(0), swapped)
    product = opset1.convolution(across, weights, [1], [0], [0], [1])
    added = {"across": across, "product": product}
    for suffix, other in added.items():
        other.set_friendly_name(f"{node.get_friendly_name()}/{suffix}")
    return [
        *(other.get_friendly_name() for other in added.values()),
        *_replace(node, opset1.transpose(product, swapped)),
    ]


def _as_gathers(node: Any) -> Iterator[str]:
    """Slices would be joined to a split again, which loses the mark."""
    axis, begin = node.input_value(1).get_node().get_data(), 0
    for number, port in enumerate(node.outputs()):
        size = port.get_shape()[int(axis.item())]
        part = opset8.gather(node.input_value(0), np.arange(begin, begin + size), axis.reshape(()))
        part.set_friendly_name(f"{node.get_friendly_name()}/{number}")
        for target in list(port.get_target_inputs()):
            target.replace_source_output(part.output(0))
        begin += size
        yield part.get_friendly_name()


def _replace(node: Any, other: Any) -> list[str]:
    other.set_friendly_name(node.get_friendly_name())
    for old, new in zip(node.outputs(), other.outputs(), strict=True):
        for target in list(old.get_target_inputs()):
            target.replace_source_output(new)
        new.add_names(old.get_names())
    return [other.get_friendly_name()]


def _mark(core: ov.Core, model: ov.Model, names: frozenset[str]) -> ov.Model:
    """The model with marks. Python sets no attribute of this kind, so it goes through OpenVINO's own form of file."""
    with tempfile.TemporaryDirectory(prefix="l2g-openvino-") as folder:
        path, weights = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        ov.serialize(model, path, weights)
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            if layer.get("name") in names:
                facts = layer.find("rt_info")
                if facts is None:
                    facts = ElementTree.Element("rt_info")
                    layer.insert(1 if layer.find("data") is not None else 0, facts)
                ElementTree.SubElement(facts, "attribute", _MARK)
        tree.write(path)
        marked = core.read_model(path)  # its weights stay mapped when the file is gone
    for node in marked.get_ops():
        if node.get_type_name() == "Divide" and node.get_friendly_name() in names:
            # Or it becomes a product with the reciprocal, without the mark.
            node.get_rt_info()["nonconvertable_divide_0"] = True
    return marked
