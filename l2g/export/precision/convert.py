"""A float32 graph becomes one mixed with FP16 or BF16: strongly typed, with islands that stay float32.

Every tensor's type is explicit, as TensorRT 11 wants it (precision lives in the graph, nothing is left to a builder).
Graph inputs and outputs, and with them the state, stay as the contract has them. Operators that only move or select
values take the type of what they move, so that no cast stands where nothing is computed; a value is cast at most once.
Q/DQ nodes are converted like any other (their scales become FP16, which takes opset 19). BF16 takes opset 22, whose
convolution is the first that has it; nothing that these graphs hold but the types changed after 20.

onnxconverter-common fails on this graph and ModelOpt's AutoCast finds no islands by what a tensor means; since the
graph is our own, a node's place in the model says what it computes (`ISLANDS`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from l2g.errors import ExportError
from l2g.export.graph.blocks import GRANULARITIES, Named, block_of
from l2g.export.graph.folding import tidy
from l2g.export.graph.values import constant, input_of, producer_of
from l2g.export.precision.islands import Islands

FP16, BF16, FP32 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


@dataclass(frozen=True)
class Reduced:
    """A type that a graph can be mixed with. name: what people call it. largest: its end. bits: of its fraction, the
    leading one included. suffix: of what is converted to it. opset: the first that has it for all operators; since: the
    first from which a graph can be declared to be of that opset as it is."""

    name: str
    dtype: ir.DataType
    largest: float
    bits: int
    suffix: str
    opset: int
    since: int


HALF = Reduced("FP16", FP16, 65504.0, 11, "half", 17, 17)
BFLOAT = Reduced("BF16", BF16, 3.3895e38, 8, "bfloat", 22, 20)
REDUCED = {"fp16": HALF, "bf16": BFLOAT}

# Operators that compute nothing, with the inputs that they move (None: all).
MOVING = {
    "Concat": None,
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "Identity": (0,),
    "MaxPool": (0,),
    "Pad": (0, 2),
    "ReduceMax": (0,),
    "ReduceMin": (0,),
    "Relu": (0,),
    "Reshape": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
# What stands around eight bits, and the products that are computed on them.
PAIRS, PRODUCTS = ("QuantizeLinear", "DequantizeLinear"), ("Conv", "Gemm", "MatMul")
# Inputs that are float32 whatever a node computes in: a Resize's region and scales.
ALWAYS_FLOAT = {"Resize": (1, 2)}


@dataclass(frozen=True)
class Conversion:
    """What `reduce_precision` did.

    reduced: nodes that compute in the reduced type. islands: nodes that stayed float32, by the name of the island.
    kept: the same by block, for blocks that were to be kept. casts: Cast nodes that were added.
    """

    reduced: int
    islands: dict[str, int]
    kept: dict[str, int]
    casts: int


def reduce_precision(model: ir.Model, target: Reduced, keep: Collection[str] = ()) -> Conversion:
    """Convert `model`, in place.

    keep: blocks (`graph.blocks`) that stay float32 besides the islands: "encoder.layers.0", or "layer:encoder"
    where the name alone would be that of a larger block too. Raises ExportError for a block that is not in the graph,
    and for a graph of an opset that cannot hold the type.
    """
    _raise_opset(model, target)
    _infer_types(model)
    check_blocks(model.graph, keep)
    conversion = _Converter(model.graph, target, keep).run()
    tidy(model)
    _infer_types(model)
    return conversion


def all_blocks(model: ir.Model, granularity: str = "layer") -> list[str]:
    """The blocks of a graph that compute something in a reduced type when nothing is kept, in the graph's order."""
    islands = Islands(model.graph)
    found: dict[str, None] = {}
    for node in model.graph:
        if node.op_type not in MOVING and node.op_type != "Cast" and islands.of(node) is None and _floats(node):
            found[block_of(node, granularity)] = None
    return list(found)


class _Converter:
    def __init__(self, graph: ir.Graph, target: Reduced, keep: Collection[str]):
        self.graph, self.target, self.keep = graph, target, frozenset(keep)
        self.islands = Islands(graph)
        self.quantised = any(node.op_type in PAIRS for node in graph)
        self.casts: dict[tuple[int, ir.DataType], ir.Value] = {}
        self.counts = {"reduced": 0, "casts": 0}
        self.in_islands: dict[str, int] = {}
        self.in_kept: dict[str, int] = {}

    def run(self) -> Conversion:
        outputs = {id(value): value for value in self.graph.outputs}
        for node in list(self.graph):
            if _floats(node):
                self._convert(node)
        for index, value in enumerate(list(self.graph.outputs)):
            if id(value) in outputs and value.dtype == self.target.dtype:
                self._restore_output(index, value)
        return Conversion(self.counts["reduced"], self.in_islands, self.in_kept, self.counts["casts"])

    def _convert(self, node: ir.Node) -> None:
        reduced = self.target.dtype
        wanted = reduced if self._is_reduced(node) else FP32
        always = ALWAYS_FLOAT.get(node.op_type, ())
        if node.op_type == "Cast":
            return  # to float32 from another type: what needs it reduced casts it so from there
        for index, value in enumerate(node.inputs):
            if value is None or index in always or value.dtype not in (reduced, FP32) or value.dtype == wanted:
                continue
            node.replace_input_with(index, self._cast(value, wanted, node))
        if wanted == reduced:
            self.counts["reduced"] += 1
            for value in node.outputs:
                if value.dtype == FP32:
                    value.dtype = reduced

    def _is_reduced(self, node: ir.Node) -> bool:
        if node.op_type in MOVING:
            moved = MOVING[node.op_type]
            values = [value for index, value in enumerate(node.inputs) if moved is None or index in moved]
            return any(value is not None and value.dtype == self.target.dtype for value in values)
        island = self.islands.of(node) or self._out_of_range(node) or self._on_integers(node)
        if island is not None:
            self.in_islands[island] = self.in_islands.get(island, 0) + 1
            return False
        block = next((name for name in _names(node) if name in self.keep), None)
        if block is not None:
            self.in_kept[block] = self.in_kept.get(block, 0) + 1
            return False
        return True

    def _out_of_range(self, node: ir.Node) -> str | None:
        """A constant that the type cannot hold keeps its node in float32."""
        arrays = [constant(value) for value in node.inputs if value is not None and value.dtype == FP32]
        finite = (array[np.isfinite(array)] for array in arrays if array is not None)
        beyond = any(array.size and np.abs(array).max() > self.target.largest for array in finite)
        return f"constants beyond {self.target.name}" if beyond else None

    def _on_integers(self, node: ir.Node) -> str | None:
        """Beside BF16 the scales of eight bits stay float32, and the products between them, which integers compute:
        OpenVINO takes no BF16 scale. It also moves scales behind a normalisation, which has to be of their type."""
        if self.target is not BFLOAT or not self.quantised:
            return None
        if node.op_type == "InstanceNormalization":
            return "eight bits"
        producers = [value.producer() for value in node.inputs[:2] if value is not None]
        product = node.op_type in PRODUCTS and all(p is not None and p.op_type == PAIRS[1] for p in producers)
        return "eight bits" if product or node.op_type in PAIRS else None

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in another type: one cast for all readers, a converted copy of a constant."""
        key = (id(value), dtype)
        if key not in self.casts:
            array = constant(value)
            self.casts[key] = self._add_cast(value, dtype) if array is None else self._constant(value, array, dtype)
        return self.casts[key]

    def _add_cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        producer, source = value.producer(), value
        if producer is not None and producer.op_type == "Cast":
            source = input_of(producer, 0)  # two casts after each other are one
            if source.dtype == dtype:
                return source
        node = ir.node("Cast", [source], {"to": dtype}, name=_beside(value, f"Cast_{_suffix(dtype)}"))
        result = node.outputs[0]
        result.name, result.dtype, result.shape = f"{value.name}_{_suffix(dtype)}", dtype, value.shape
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.counts["casts"] += 1
        return result

    def _constant(self, value: ir.Value, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}_{_suffix(dtype)}"
        result = ir.Value(name=name, const_value=ir.tensor(array.astype(dtype.numpy()), name=name))
        result.shape, result.dtype = ir.Shape(array.shape), dtype
        self.graph.register_initializer(result)
        return result

    def _restore_output(self, index: int, value: ir.Value) -> None:
        """A graph output that was reduced gets its cast back to float32, and keeps its name."""
        name = value.name
        value.name = f"{name}_{self.target.suffix}"
        node = ir.node("Cast", [value], {"to": FP32}, name=_beside(value, "Cast_output"))
        result = node.outputs[0]
        result.name, result.dtype, result.shape = name, FP32, value.shape
        self.graph.insert_after(producer_of(value), node)
        self.graph.outputs[index] = result
        # What reads the value in float32 inside the graph reads the output.
        inner = self.casts.get((id(value), FP32))
        if inner is not None:
            inner.replace_all_uses_with(result)
        self.counts["casts"] += 1


def _beside(value: ir.Value, name: str) -> str:
    """The name of a node after `value`, which counts to the same block as what the value comes from."""
    producer = value.producer()
    if producer is None:
        return f"/{name}_{value.name}"
    number = f"_{value.index()}" if value.index() else ""
    return f"{producer.name}/{name}{number}"


def _suffix(dtype: ir.DataType) -> str:
    return next((reduced.suffix for reduced in REDUCED.values() if reduced.dtype == dtype), "float")


def _floats(node: ir.Node) -> bool:
    return any(value is not None and value.dtype in (FP16, BF16, FP32) for value in (*node.inputs, *node.outputs))


def _names(node: Named) -> list[str]:
    """How the blocks of a node may be called: "encoder", "stage:encoder", "layer:encoder.layers.0" and so on."""
    named = [(granularity, block_of(node, granularity)) for granularity in GRANULARITIES]
    return [name for granularity, block in named for name in (block, f"{granularity}:{block}")]


def _raise_opset(model: ir.Model, target: Reduced) -> None:
    """Declare the graph to be of an opset whose operators have the type."""
    found = model.opset_imports.get("", 0)
    if found < target.since:
        raise ExportError(
            f"opset {found} found, {target.since} expected for {target.name}; export with --opset {target.since}"
        )
    if found < target.opset:
        model.opset_imports[""] = target.opset


def check_blocks(nodes: Iterable[Named], keep: Collection[str]) -> None:
    """ExportError for a block that none of a graph's nodes belongs to."""
    unknown = sorted(set(keep) - {name for node in nodes for name in _names(node)})
    if unknown:
        layers = dict.fromkeys(block_of(node) for node in nodes)
        raise ExportError(f"the graph has no block '{unknown[0]}'; it has {', '.join(layers)}")


def _infer_types(model: ir.Model) -> None:
    """Types of all tensors; a graph whose types contradict each other is refused."""
    try:
        passes.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
    except Exception as error:
        raise ExportError(f"the types of the graph contradict each other: {error}") from error
    unknown = [value.name for node in model.graph for value in node.outputs if value.dtype is None]
    if unknown:
        raise ExportError(f"the type of tensor '{unknown[0]}' is not known")
