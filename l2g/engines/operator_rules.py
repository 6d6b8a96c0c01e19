"""Operators and forms that TensorRT-RTX refuses or reads otherwise, and quantisation that TensorRT refuses as well.

Each was measured with TensorRT-RTX 1.7.1, without a GPU, on a graph of that one operator which is valid ONNX and runs
in ONNX Runtime or in the reference: what its parser refuses, what its builder refuses after a clean parse, and what it
takes and computes otherwise. The library's own answers (`supports_operator`, `supports_model`, a clean parse) do not
hold. What another version does is not known, so the text names the version that was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from l2g.engines.builder import CURRENT, RTX_CAPABILITIES
from l2g.engines.findings import FLOATS, Circumstances, Examined, Finding, Findings, names_of

MEASURED = "measured with TensorRT-RTX 1.7.1"
_QUANTISE = "quantise again for it: l2g quantize --layout tensorrt"
# The largest k that its builder takes.
MOST_CHOSEN = 3840
# Element types that only some GPUs compute in -> the least compute capability.
FP8, FP4 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1
LEAST_CAPABILITY = {FP8: ("FP8", (8, 9)), FP4: ("FP4", (12, 0))}
# And what builds for 8.0 and later only, by operator; the portable set begins there.
_NOT_ON_75 = ("Einsum", "LSTM")
_NARROW = {TensorProto.UINT16: "uint16", TensorProto.INT16: "int16", TensorProto.UINT64: "uint64"}
_NO_IMPORTER = frozenset(
    """
    NonZero RoiAlign MaxRoiPool DeformConv DFT Unique Det Col2Im AffineGrid CenterCropPad Compress SplitToSequence
    BitShift BitwiseAnd
    """.split()  # noqa: SIM905
)

Applies = Callable[[Examined, onnx.NodeProto], bool]


@dataclass(frozen=True)
class Form:
    """Nodes of these operators, where `applies` to them. stage: "parser" or "builder", which refuses them."""

    operators: frozenset[str]
    applies: Applies
    stage: str
    text: str
    mend: str


def _form(operators: str, applies: Applies, stage: str, text: str, mend: str) -> Form:
    return Form(frozenset(operators.split()), applies, stage, text, mend)


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for found in node.attribute:
        if found.name == name:
            value = helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _used_outputs(graph: Examined, node: onnx.NodeProto) -> int:
    """Outputs that have a name, and so are asked for."""
    return sum(bool(name) for name in node.output)


def _of_type(graph: Examined, name: str, *types: int) -> bool:
    return graph.types.get(name) in types


def _always(graph: Examined, node: onnx.NodeProto) -> bool:
    return True


def _too_many_chosen(graph: Examined, node: onnx.NodeProto) -> bool:
    count = graph.constant(node.input[1]) if len(node.input) > 1 else None
    return count is not None and int(np.ravel(count)[0]) > MOST_CHOSEN


def _attention_without_kernel(graph: Examined, node: onnx.NodeProto) -> bool:
    """Of opset 23: rank 4 is told by the number of heads, which only the rank-3 form has to be given."""
    heads = _attribute(node, "q_num_heads")
    groups = _attribute(node, "kv_num_heads", heads)
    mask = len(node.input) > 3 and bool(node.input[3])
    single = _of_type(graph, node.input[0], TensorProto.FLOAT)
    return mask or groups != heads or (heads is None and single)


_CUTTING = "leave the operator out of the model, or compute it outside of the graph"
_FORMS = (
    Form(_NO_IMPORTER, _always, "parser", "operators that it has no importer or no plugin for", _CUTTING),
    _form("NonMaxSuppression", _always, "builder", "an operator that parses and has no implementation", _CUTTING),
    _form(
        "Range",
        lambda graph, node: any(
            graph.types.get(name) in FLOATS and graph.constant(name) is None for name in node.input[:3]
        ),
        "parser",
        "a Range of a computed floating point number",
        "make its ends constants or integers",
    ),
    _form(
        "ScatterND ScatterElements",
        lambda graph, node: _attribute(node, "reduction", "none") != "none",
        "parser",
        "a scatter with a reduction; one without is taken",
        "add, multiply or compare in a node of its own",
    ),
    _form(
        "Resize",
        lambda graph, node: (
            _attribute(node, "antialias", 0) == 1
            or _attribute(node, "coordinate_transformation_mode") in ("tf_crop_and_resize", "half_pixel_symmetric")
            or _of_type(graph, node.input[0], TensorProto.INT32)
        ),
        "parser",
        "a Resize with antialias, of tf_crop_and_resize or half_pixel_symmetric, or of int32",
        "export with another mode, or cast to float32 before it",
    ),
    _form(
        "LayerNormalization",
        lambda graph, node: _used_outputs(graph, node) > 1,
        "parser",
        "a LayerNormalization that also gives mean or deviation",
        "leave these outputs away",
    ),
    _form(
        "MaxPool",
        lambda graph, node: (
            _used_outputs(graph, node) > 1 or any(step != 1 for step in _attribute(node, "dilations", ()))
        ),
        "parser",
        "a MaxPool that gives indices, or a dilated one",
        "export the model in evaluation mode, without indices and dilation",
    ),
    _form(
        "BatchNormalization Dropout",
        lambda graph, node: (
            _attribute(node, "training_mode", 0) == 1
            or (node.op_type == "Dropout" and len(node.input) > 2 and bool(np.any(graph.constant(node.input[2]))))
        ),
        "parser",
        "a node in training mode",
        "export the model in evaluation mode",
    ),
    _form(
        "TopK",
        _too_many_chosen,
        "builder",
        f"a TopK of more than {MOST_CHOSEN}, which parses",
        f"choose at most {MOST_CHOSEN}, or in two rounds",
    ),
    _form(
        "Attention",
        _attention_without_kernel,
        "builder",
        "an Attention of rank-4 float32, with a mask, or of grouped queries, which parses",
        "give it [B, length, heads x width] with q_num_heads, or decompose it: softmax attention is fused anyway",
    ),
)


def operator_rules(graph: Examined, asked: Circumstances) -> Findings:
    """What TensorRT-RTX has no way for."""
    if asked.library != "tensorrt-rtx":
        return
    for form in _FORMS:
        nodes = [node for node in graph.nodes(*form.operators) if form.applies(graph, node)]
        if nodes:
            text = f"{form.text}: its {form.stage} refuses it ({MEASURED})"
            yield Finding("refuse", "operator", text, names_of(nodes), form.mend)
    for value in graph.model.graph.input:
        if (name := _NARROW.get(value.type.tensor_type.elem_type)) is not None:
            text = f"an input of {name}, a type that it has not ({MEASURED})"
            yield Finding("refuse", "operator", text, f"input '{value.name}'", "give int32 or int64")
    taken = {"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"}
    inputs = {value.name for value in graph.model.graph.input}  # these have a rule of their own
    bytes_ = [
        node
        for node in graph.model.graph.node
        if node.op_type not in taken
        and any(_of_type(graph, name, TensorProto.UINT8) for name in node.input if name not in inputs)
    ]
    if bytes_:
        text = f"uint8 in other nodes than Cast: its parser refuses it ({MEASURED})"
        yield Finding("refuse", "operator", text, names_of(bytes_), "cast to float32 or int32 first")


def quantisation_rules(graph: Examined, asked: Circumstances) -> Findings:
    """Q/DQ pairs as another library likes them. Of TensorRT the same is documented: int8 about zero."""
    pairs = graph.nodes("QuantizeLinear", "DequantizeLinear")
    bytes_ = [node for node in pairs if _quantised_type(graph, node) == TensorProto.UINT8]
    if bytes_:
        text = (
            "Q/DQ pairs of uint8, which it takes for int8 or refuses: everything above 127 steps is cut off, "
            f"without a word where there is no zero point ({MEASURED})"
        )
        yield Finding("refuse", "quantisation", text, names_of(bytes_), _QUANTISE)
    others = [node for node in pairs if _quantised_type(graph, node) != TensorProto.UINT8]
    moved = [node for node in others if len(node.input) > 2 and np.any(graph.constant(node.input[2]))]
    if moved:
        text = f"Q/DQ pairs whose zero point is not zero: its parser refuses them ({MEASURED})"
        yield Finding("refuse", "quantisation", text, names_of(moved), _QUANTISE)
    wide = {TensorProto.INT32: "int32", TensorProto.INT16: "int16", TensorProto.UINT16: "uint16"}
    wide |= {TensorProto.UINT4: "uint4", TensorProto.FLOAT8E5M2: "FP8 E5M2"}
    for kind, name in wide.items():
        found = [node for node in others if _quantised_type(graph, node) == kind]
        if found:
            text = f"Q/DQ of {name} (of int32: biases, as ONNX Runtime likes them): its parser refuses it ({MEASURED})"
            yield Finding("refuse", "quantisation", text, names_of(found), _QUANTISE)
    integer = graph.nodes("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear")
    if integer:
        text = f"operators of integers in the place of Q/DQ pairs: its parser refuses them ({MEASURED})"
        yield Finding("refuse", "quantisation", text, names_of(integer), _QUANTISE)


def capability_rules(graph: Examined, asked: Circumstances) -> Findings:
    """GPUs that an engine of TensorRT-RTX is not for, though it was asked to be, or is not said to be."""
    if asked.library != "tensorrt-rtx" or CURRENT in asked.compute_capabilities:
        return
    wanted = asked.compute_capabilities or RTX_CAPABILITIES
    for kind, (name, least) in LEAST_CAPABILITY.items():
        if kind not in _element_types(graph.model):
            continue
        absent = [text for text in wanted if _pair(text) < least]
        if absent and asked.compute_capabilities:
            text = f"{name} for a GPU that has none: the build is refused ({MEASURED})"
            found = f"compute capability {', '.join(absent)} asked for"
            yield Finding("refuse", "capability", text, found, "leave these away with --compute-capability")
        elif absent:
            text = f"an engine of the portable kind with {name} leaves out some GPUs, at the level VERBOSE only"
            found = f"{name} in the graph; compute capability {', '.join(absent)} is left out ({MEASURED})"
            yield Finding("warn", "capability", text, found, "build another without it for those GPUs")
    if "7.5" in asked.compute_capabilities:
        nodes = graph.nodes(*_NOT_ON_75, "QuantizeLinear", "DequantizeLinear")
        if nodes or TensorProto.BFLOAT16 in _element_types(graph.model):
            text = f"INT8, BF16, INT4, Einsum and LSTM build for 8.0 and later only ({MEASURED})"
            found = names_of(nodes) if nodes else "BF16 in the graph"
            yield Finding("refuse", "capability", text, found, "leave 7.5 away, or build an FP16 graph for it")


def portable_capabilities(model: onnx.ModelProto) -> tuple[str, ...]:
    """What is left of TensorRT-RTX's portable set for this graph."""
    types = _element_types(model)
    least = max((least for kind, (_, least) in LEAST_CAPABILITY.items() if kind in types), default=(0, 0))
    return tuple(text for text in RTX_CAPABILITIES if _pair(text) >= least)


def _quantised_type(graph: Examined, node: onnx.NodeProto) -> int:
    """The element type on the quantised side; of a Q without zero point and `output_dtype` that is uint8."""
    if node.op_type == "DequantizeLinear":
        return graph.types.get(node.input[0], 0)
    return graph.types.get(node.output[0], 0)


def _element_types(model: onnx.ModelProto) -> set[int]:
    """Of constants, and what nodes cast or quantise to."""
    found = {weight.data_type for weight in model.graph.initializer}
    for node in model.graph.node:
        found |= {attribute.i for attribute in node.attribute if attribute.name in ("to", "output_dtype")}
    return found


def _pair(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


RULES: Iterable[Callable[[Examined, Circumstances], Findings]] = (operator_rules, quantisation_rules, capability_rules)
