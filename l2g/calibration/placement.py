"""Explicit Q/DQ nodes in a graph: int8 weights per channel, 8-bit activations, for one of two readers.

ONNX Runtime's own Q/DQ quantiser is not used: a pair that it puts behind a tensor is read by every consumer, also by
those that are to stay in floating point, and it takes two minutes for an R50, which a search does dozens of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from l2g.calibration.ranges import Interval, scale_and_zero
from l2g.errors import ExportError


@dataclass(frozen=True)
class Layout:
    """How the pairs lie.

    symmetric: activations are int8 with zero point 0, else uint8 from low to high. outputs: what a convolution gives
    is quantised too, and the sum at the end of a residual block; ONNX Runtime has no integer convolution without.
    """

    name: str
    symmetric: bool
    outputs: bool


# TensorRT asks for symmetric pairs in front of a layer, and keeps what comes out in the precision around it.
TENSORRT = Layout("tensorrt", symmetric=True, outputs=False)
ONNXRUNTIME = Layout("onnxruntime", symmetric=False, outputs=True)
# OpenVINO is quicker with that of TensorRT than with that of ONNX Runtime, and runs both.
OPENVINO = Layout("openvino", symmetric=True, outputs=False)
LAYOUTS = {layout.name: layout for layout in (TENSORRT, ONNXRUNTIME, OPENVINO)}

# FP16's steps are 6 % of it here; a channel whose largest weight is 0.0001 loses nothing that counts.
LEAST_HALF_SCALE = np.float16(2**-20)

Ranges = Callable[[str], Interval]


@dataclass(frozen=True)
class Places:
    """Where the pairs of some nodes go. inputs: node name -> activations it reads, two of a product of such. outputs:
    tensors that are quantised."""

    inputs: dict[str, tuple[str, ...]]
    outputs: frozenset[str]

    @property
    def tensors(self) -> frozenset[str]:
        return self.outputs.union(*self.inputs.values())


def find_places(model: onnx.ModelProto, nodes: Iterable[str], layout: Layout) -> Places:
    """The tensors that quantising `nodes` of `model` in `layout` needs ranges of; ExportError for an unknown node."""
    graph = _Graph(model)
    wanted = set(nodes)
    chosen = [node for node in model.graph.node if node.name in wanted]
    if len(chosen) != len(wanted):
        absent = min(wanted - {node.name for node in chosen})
        raise ExportError(f"the graph has no node '{absent}'; quantise the graph that was calibrated")
    ends = {graph.end_of(node) for node in chosen if node.op_type == "Conv"} if layout.outputs else set()
    sums: set[str] = set()
    for node in model.graph.node if layout.outputs else ():
        # The sum of a residual block: both sides are 8 bits already, or one is and the other is a sum before it.
        if node.op_type == "Add" and ends & set(node.input) and set(node.input) <= ends | sums:
            sums.add(graph.end_of(node))
    constants = {weight.name for weight in model.graph.initializer}
    inputs = {node.name: tuple(name for name in node.input[:2] if name not in constants) for node in chosen}
    return Places(inputs, frozenset(ends | sums))


def quantise(
    model: onnx.ModelProto, nodes: Iterable[str], ranges: Ranges, layout: Layout, half_scales: bool = False
) -> onnx.ModelProto:
    """A copy of a float32 `model` in which the convolutions, linear layers and products `nodes` compute on 8 bits.

    ranges: of a tensor, by name. half_scales: scales are numbers that FP16 holds, never below what the range asks for,
    so that a later conversion of the graph to FP16 leaves them, and with them the integers, as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    places = find_places(result, nodes, layout)
    writer = _Writer(result, ranges, layout, half_scales)
    # Outputs first: what reads them then reads the pair, whether it is quantised itself or not.
    for tensor in [name for node in result.graph.node for name in node.output if name in places.outputs]:
        writer.quantise_output(tensor)
    for node in list(result.graph.node):
        if node.name in places.inputs:
            writer.quantise_node(node)
    writer.finish()
    return result


class _Graph:
    """Who reads what."""

    def __init__(self, model: onnx.ModelProto):
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}

    def end_of(self, node: onnx.NodeProto) -> str:
        """The node's output, or that of the rectification behind it, which 8 bits do for nothing."""
        output = node.output[0]
        readers = self.readers.get(output, [])
        if len(readers) == 1 and readers[0].op_type == "Relu" and output not in self.outputs:
            return readers[0].output[0]
        return output


class _Writer:
    def __init__(self, model: onnx.ModelProto, ranges: Ranges, layout: Layout, half_scales: bool):
        self.model, self.ranges, self.layout, self.half_scales = model, ranges, layout, half_scales
        self.constants = {weight.name: weight for weight in model.graph.initializer}
        self.pairs: dict[str, str] = {}  # tensor -> its dequantised twin
        self.scales: dict[str, np.ndarray] = {}  # tensor -> scale of its pair
        self.weights: dict[tuple, str] = {}
        self.added: dict[str, list[onnx.NodeProto]] = {}  # by the tensor behind which they go; "" for constants
        self.readers = _Graph(model).readers

    def quantise_output(self, tensor: str) -> None:
        """Everything that reads `tensor` reads its pair."""
        twin = self._pair(tensor, tensor)
        for reader in self.readers.get(tensor, ()):
            _replace(reader, tensor, twin)

    def quantise_node(self, node: onnx.NodeProto) -> None:
        """This node's input and weights, or its two inputs; its bias too where the layout quantises the output."""
        scale = self._activation(node, 0)
        if node.input[1] not in self.constants:
            self._activation(node, 1)
            return
        bias = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        if not self.layout.outputs or node.op_type != "Conv":
            bias = None  # it stays as it is
        floor = 0.0 if bias is None else np.abs(numpy_helper.to_array(bias)) / 2.0**30 / scale
        weight_scale, node.input[1] = self._weight(node, floor)
        if bias is not None:
            node.input[2] = self._bias(node.input[2], (scale * weight_scale).astype(np.float32))

    def _activation(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """An input of the node through its pair; the pair's scale."""
        tensor = node.input[index]
        # An input that is quantised as some other node's output has its pair in front already.
        scale = next((self.scales[name] for name, twin in self.pairs.items() if twin == tensor), None)
        if scale is None:
            # Named after its reader: what the pair belongs to is the layer, and not the island of FP32 that it may
            # come from. TensorRT takes no matrix product whose two scales are of two types.
            node.input[index] = self._pair(tensor, f"{node.name}/{index}" if index else node.name)
            scale = self.scales[tensor]
        return scale

    def finish(self) -> None:
        """Put the new nodes behind what they read and drop the weights that nobody reads any more."""
        nodes = list(self.added.pop("", []))
        for value in self.model.graph.input:
            nodes += self.added.pop(value.name, [])
        for node in self.model.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.added.pop(name, [])
        if self.added:
            raise ExportError(f"tensor '{min(self.added)}' is computed by no node; export the graph with this package")
        used = {name for node in nodes for name in node.input} | {value.name for value in self.model.graph.output}
        kept = [weight for weight in self.constants.values() if weight.name in used]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:], self.model.graph.initializer[:]
        self.model.graph.node.extend(copies)
        self.model.graph.initializer.extend(kept)

    def _pair(self, tensor: str, near: str) -> str:
        """Q and DQ behind `tensor`, once, with names that begin with `near`; the name of what comes out."""
        if tensor in self.pairs:
            return self.pairs[tensor]
        exact, zero = scale_and_zero(self.ranges(tensor), self.layout.symmetric)
        scale = self._rounded(np.array(exact))
        names = [self._constant(f"{tensor}_scale", scale)]
        names.append(self._constant(f"{tensor}_zero", np.array(zero, np.int8 if self.layout.symmetric else np.uint8)))
        twin, bits = f"{tensor}_dequantised", f"{tensor}_quantised"
        self.added[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *names], [bits], f"{near}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [bits, *names], [twin], f"{near}/DequantizeLinear"),
        ]
        self.pairs[tensor], self.scales[tensor] = twin, scale.astype(np.float64)
        return twin

    def _weight(self, node: onnx.NodeProto, floor: np.ndarray | float) -> tuple[np.ndarray, str]:
        """Int8 weights with one scale for each output channel, at least `floor`, and DQ: (scales, what comes out)."""
        name, axis = node.input[1], _channel_axis(node)
        weight = numpy_helper.to_array(self.constants[name])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.maximum(np.abs(weight.astype(np.float64)).max(axis=others), 1e-7) / 127
        scale = self._rounded(np.maximum(scale, floor))
        key = (name, axis, scale.tobytes())
        if key not in self.weights:
            shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
            bits = np.rint(weight / scale.astype(np.float64).reshape(shape))
            suffix = f"_{len(self.weights)}" if any(known[0] == name for known in self.weights) else ""
            stem = f"{name}{suffix}"
            inputs = [self._constant(f"{stem}_quantised", np.clip(bits, -127, 127).astype(np.int8))]
            inputs.append(self._constant(f"{stem}_scale", scale))
            inputs.append(self._constant(f"{stem}_zero", np.zeros(scale.shape, np.int8)))
            self.weights[key] = self._dequantise(stem, inputs, axis)
        return scale.astype(np.float64), self.weights[key]

    def _bias(self, name: str, scale: np.ndarray) -> str:
        """The bias in int32, in units of what the products are in."""
        key = (name, 0, scale.tobytes())
        if key not in self.weights:
            bits = np.rint(numpy_helper.to_array(self.constants[name]).astype(np.float64) / scale.astype(np.float64))
            stem = f"{name}_{len(self.weights)}"
            inputs = [self._constant(f"{stem}_quantised", bits.astype(np.int32))]
            inputs.append(self._constant(f"{stem}_scale", scale))
            inputs.append(self._constant(f"{stem}_zero", np.zeros(scale.shape, np.int32)))
            self.weights[key] = self._dequantise(stem, inputs, 0)
        return self.weights[key]

    def _dequantise(self, stem: str, inputs: list[str], axis: int) -> str:
        output = f"{stem}_dequantised"
        node = helper.make_node("DequantizeLinear", inputs, [output], f"{stem}_DequantizeLinear", axis=axis)
        self.added.setdefault("", []).append(node)
        return output

    def _rounded(self, scale: np.ndarray) -> np.ndarray:
        """float32; nothing may be clipped by rounding a scale to FP16."""
        if not self.half_scales:
            return np.asarray(scale, np.float32)
        half = np.maximum(np.asarray(scale).astype(np.float16), LEAST_HALF_SCALE)
        above = np.nextafter(half, np.float16(np.inf))
        return np.where(half.astype(np.float64) < scale, above, half).astype(np.float32)

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(array, name)
        return name


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight along which the output channels lie."""
    if node.op_type == "Conv":
        return 0
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def _replace(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
