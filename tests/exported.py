"""The small model of the tests as ONNX files, exported once, and ways to spoil them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from l2g.artifacts.onnx_file import read_contract, with_contract, with_sum
from l2g.checkpoint import save_checkpoint
from l2g.contract import METADATA_KEY
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.errors import ContractError
from l2g.export.exporter import ExportOptions, export
from l2g.modeling.local2global import Local2Global
from tests.made_once import made_once
from tests.modeling.small import small_model


@functools.cache
def exported_model() -> Local2Global:
    """The model behind the files: the small one with the classes of synthetic video."""
    return small_model(num_classes=len(CLASS_NAMES), class_names=CLASS_NAMES)


@functools.cache
def small_checkpoint() -> Path:
    """`exported_model()` as a native checkpoint."""
    return made_once("small.safetensors", lambda path: save_checkpoint(exported_model(), path))


@functools.cache
def small_graph(top_k: int | None = None) -> Path:
    """`exported_model()` as a graph: raw outputs, or detections of `top_k` slots."""
    return made_once(f"small-{top_k}.onnx", lambda path: export(exported_model(), path, ExportOptions(top_k=top_k)))


def edited(path: Path, change: Callable[[onnx.ModelProto], None], output: Path, summed: bool = True) -> Path:
    """A copy of the graph at `output` with `change` done to it. summed: its contract, where it has one that can be
    read, carries the sum of the new graph, as that of a graph that was exported so."""
    model = onnx.load(path)
    change(model)
    try:
        contract = read_contract(model, path)
    except ContractError:
        contract = None
    if not summed or contract is None or contract.build.graph_sha256 is None:
        onnx.save(model, output)
        return output
    del model.metadata_props[:]
    graph = model.SerializeToString()
    output.write_bytes(with_contract(graph, replace(contract, build=with_sum(contract.build, graph))))
    return output


def set_contract(text: str | None) -> Callable[[onnx.ModelProto], None]:
    """A change that replaces the contract by `text`, or takes it away."""

    def change(model: onnx.ModelProto) -> None:
        kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != METADATA_KEY}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept if text is None else kept | {METADATA_KEY: text})

    return change


def scale_one_weight(model: onnx.ModelProto, factor: float = 1.1) -> None:
    """Multiply one number of the graph by `factor`: the largest of the first convolution's weight."""
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[abs(array).argmax()] *= factor
    weight.CopyFrom(onnx.numpy_helper.from_array(array, name))


def swap_streams(model: onnx.ModelProto) -> None:
    """Each stream gets the priors of another: the rows of the state enter in reverse."""
    bounds = [("l2g_start", -1), ("l2g_end", -(2**31)), ("l2g_axis", 0), ("l2g_step", -1)]
    for name, value in bounds:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    for prior in ("prior_queries", "prior_boxes"):
        _rewire(model, prior, "swapped")
        node = onnx.helper.make_node("Slice", [prior, *(name for name, _ in bounds)], [f"{prior}_swapped"])
        model.graph.node.insert(0, node)


def ignore_prior_valid(model: onnx.ModelProto) -> None:
    """Every stream counts as running, whatever the validity input says."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "l2g_zero"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "l2g_one"))
    _rewire(model, "prior_valid", "ignored")
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["prior_valid", "l2g_zero"], ["l2g_nothing"]))
    model.graph.node.insert(1, onnx.helper.make_node("Add", ["l2g_nothing", "l2g_one"], ["prior_valid_ignored"]))


def _rewire(model: onnx.ModelProto, name: str, suffix: str) -> None:
    readers = 0
    for node in model.graph.node:
        for index, source in enumerate(node.input):
            if source == name:
                node.input[index] = f"{name}_{suffix}"
                readers += 1
    assert readers, f"nothing reads {name}"
