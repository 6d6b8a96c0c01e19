"""What an engine really computes in: read from its layers, not from what was asked for.

A builder may run a layer in a wider type than the graph says, or a graph may have lost its casts; both give
a slower engine and no error. The layers come from the library's inspector where there is a GPU, and from the table in
the build log where there is none. Each names the ONNX nodes it was made of, and so its share of the arithmetic.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from l2g.artifacts.records import Audit
from l2g.errors import EngineError
from l2g.export.graph.flops import contractions, shapes_for_one_stream

# So many of a graph's convolutions and products may be of unknown shapes.
MOST_UNCOUNTED = 0.02
PRECISIONS = ("fp32", "bf16", "fp16", "int8")  # wide first
# Layers that hold what surrounds a product (bias, activation, rounding) and name its node as well, never the product.
SURROUNDINGS = {"kgen", "pointwise", "pointwisev2", "reformat", "noop", "shuffle", "signal", "wait", "constant", "cast"}
# How the libraries spell a data type, narrow first: "Half" in a layer's table, "FP16" in a format's description.
_TYPES = (
    ("int8", r"\bint8\b"),
    ("fp16", r"\b(half|fp16)\b"),
    ("bf16", r"\b(bfloat16|bf16)\b"),
    ("fp32", r"\b(float|fp32|tf32)\b"),
)
_NODES = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Tensor:
    """precision: one of `PRECISIONS`, or None for indices and the like. elements: for one stream."""

    precision: str | None
    elements: int


@dataclass(frozen=True)
class Layer:
    """One layer of a built engine. kind: the library's name of its type. nodes: the ONNX nodes that it was made of."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def attention(self) -> bool:
        """Whether the library calls it an attention: TensorRT-RTX's is a generated kernel named "_gemm_mha_v2"."""
        return any(word in text.lower() for word in ("mha", "attention") for text in (self.kind, _own_name(self.name)))

    @property
    def computes(self) -> bool:
        return self.kind.lower() not in SURROUNDINGS or self.attention

    @property
    def precision(self) -> str | None:
        """What its product is computed in: the type of the weights, or for two activations the wider of the two."""
        # Scalars, scales and biases may be wider than the weights: the largest constant is the weights.
        weights = max((t for t in self.weights if t.elements > 1), key=lambda t: t.elements, default=None)
        operands = [weights] if weights is not None and weights.precision else self.inputs
        found = [tensor.precision for tensor in operands if tensor.precision]
        return max(found, key=PRECISIONS[::-1].index, default=None)


def audit(model: onnx.ModelProto, layers: Iterable[Layer], asked: str, log: str = "", source: str = "log") -> Audit:
    """Judge an engine's layers. model: the ONNX graph that it was built from. log: the library's, for its memory."""
    layers = tuple(layers)
    found, uncounted = contractions(model, shapes_for_one_stream(model))
    if not layers or not found:
        raise EngineError(
            f"{len(layers)} layers and {len(found)} products found, so nothing is known of the engine's precision; "
            "this version of the library describes its layers in another way than those that l2g knows"
        )
    if uncounted > MOST_UNCOUNTED * (len(found) + uncounted):
        raise EngineError(
            f"the shapes of {uncounted} of {len(found) + uncounted} convolutions and products are not in the graph, so "
            "nothing can be said of the FLOPs; export it again, or keep its value_info when you change it"
        )
    computed = {contraction.name: _precision_of(contraction.name, layers) for contraction in found}
    due = quantised(model) if asked == "int8" else set(computed)
    total = sum(c.flops for c in found if c.name in due)
    kept = sum(c.flops for c in found if c.name in due and _as_asked(computed[c.name], asked))
    wider = sorted(
        (c for c in found if c.name in due and not _as_asked(computed[c.name], asked)), key=lambda c: -c.flops
    )
    flops = dict.fromkeys((*PRECISIONS, "unknown"), 0)
    for contraction in found:
        flops[computed[contraction.name]] += contraction.flops
    names, operators = set(computed), {node.name: node.op_type for node in model.graph.node}
    computing = [layer for layer in layers if layer.computes and layer.precision and names & set(layer.nodes)]
    return Audit(
        asked=asked,
        share=kept / total if total else 0.0,
        flops=flops,
        layers=dict(Counter(layer.precision or "unknown" for layer in computing)),
        nodes=dict(Counter(computed.values())),
        wider=tuple((c.name, computed[c.name]) for c in wider[:10]),
        fused_attention=sum(_is_attention(layer, operators) for layer in layers),
        activation_bytes=_logged(log, "Total Activation Memory"),
        weight_bytes=_logged(log, "Total Weights Memory"),
        source=source,
    )


def quantised(model: onnx.ModelProto) -> set[str]:
    """The convolutions and products whose two operands both come from a DequantizeLinear."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    reshaping = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast")
    for node in model.graph.node:  # nodes are in the order of their evaluation
        if node.op_type in reshaping and node.input[0] in dequantised:
            dequantised.add(node.output[0])
    return {
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and dequantised.issuperset(node.input[:2])
    }


def layers_from_log(text: str) -> tuple[Layer, ...]:
    """The layers in the table that a DETAILED build prints at the level VERBOSE."""
    lines = (line.removeprefix("[VERBOSE] ").strip() for line in text.splitlines())
    return tuple(_layer_from_line(line) for line in lines if line.startswith("Name: ") and ", LayerType: " in line)


def layers_from_inspector(text: str) -> tuple[Layer, ...]:
    """The layers in the JSON of IEngineInspector, of 10.x ("Format/Datatype") or 11.x ("DataType")."""
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the engine's inspector gave no list of layers ({error}); build it again") from None
    return tuple(_layer_from_json(entry) for entry in entries if isinstance(entry, dict))


def _layer_from_line(line: str) -> Layer:
    head, _, metadata = line.partition(", Metadata: ")
    name, _, kind = head.removeprefix("Name: ").partition(", LayerType: ")
    groups = {key: _section(head, key) for key in ("Inputs", "Constants", "Outputs")}
    return Layer(
        name=name,
        kind=kind.partition(",")[0],
        inputs=groups["Inputs"],
        weights=groups["Constants"],
        outputs=groups["Outputs"],
        nodes=tuple(_NODES.findall(metadata)),
    )


def _section(line: str, key: str) -> tuple[Tensor, ...]:
    match = re.search(rf"\b{key}: \[(|.*?\}})\](?=, |$)", line)
    entries = re.findall(r"Dimensions: \[([^\]]*)\].*?Data[Tt]ype: (\w+)", match[1]) if match else ()
    return tuple(Tensor(_precision(dtype), _elements(dims.split(","))) for dims, dtype in entries)


def _layer_from_json(entry: dict[str, Any]) -> Layer:
    weights = [_tensor(tensor) for tensor in entry.get("Constants", ())]
    if isinstance(kernel := entry.get("Weights"), dict):  # a convolution that is not part of a fused graph
        weights.append(Tensor(_precision(kernel.get("Type", "")), int(kernel.get("Count", 0))))
    return Layer(
        name=entry.get("Name", ""),
        kind=entry.get("LayerType", ""),
        inputs=tuple(_tensor(tensor) for tensor in entry.get("Inputs", ())),
        weights=tuple(weights),
        outputs=tuple(_tensor(tensor) for tensor in entry.get("Outputs", ())),
        nodes=tuple(_NODES.findall(entry.get("Metadata", ""))),
    )


def _tensor(entry: dict[str, Any]) -> Tensor:
    keys = ("DataType", "Datatype", "Format/Datatype", "Format")
    described = next((str(entry[key]) for key in keys if entry.get(key)), "")
    return Tensor(_precision(described), _elements(entry.get("Dimensions", ())))


def _precision(described: str) -> str | None:
    return next((name for name, pattern in _TYPES if re.search(pattern, described, re.IGNORECASE)), None)


def _elements(dims: Iterable[object]) -> int:
    # A free dimension is one stream's.
    return prod(max(int(str(dim)), 1) for dim in dims if str(dim).strip().lstrip("-").isdigit())


def _precision_of(node: str, layers: tuple[Layer, ...]) -> str:
    """The widest precision of the layers that compute this node."""
    naming = [layer for layer in layers if node in layer.nodes]
    computing = [layer.precision for layer in naming if layer.computes and layer.precision]
    found = computing or [layer.precision for layer in naming if layer.precision]
    return max(found, key=PRECISIONS[::-1].index, default="unknown")


def _as_asked(precision: str, asked: str) -> bool:
    """Whether a product is computed in what was asked for. Where that is 16 bits, what the graph quantises may be."""
    return precision == asked or (precision == "int8" and asked in ("fp16", "bf16"))


def _is_attention(layer: Layer, operators: dict[str, str]) -> bool:
    """One kernel for scores, softmax and values, whatever the library calls it."""
    kinds = Counter(operators.get(node) for node in layer.nodes)
    return kinds["Softmax"] > 0 and kinds["MatMul"] >= 2


def _own_name(name: str) -> str:
    """A layer's name without the paths of the nodes that some are named after."""
    return "" if "/" in name else name


def _logged(log: str, name: str) -> int | None:
    found = re.findall(rf"{name}: (\d+) bytes", log)
    return int(found[-1]) if found else None
