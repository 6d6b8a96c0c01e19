"""Graphs for tests of engines: the small model's in three precisions, each with a contract and sums that fit it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import onnx

from l2g.artifacts.onnx_file import read_contract, with_contract, with_sum
from l2g.export.exporter import ExportOptions, build_facts, build_graph, contract_of
from l2g.provenance import BuildFacts
from tests.export.precision.half import halve, quantise
from tests.exported import exported_model
from tests.made_once import made_once

CHANGES = {"fp32": lambda model: model, "fp16": halve, "int8": quantise}


@functools.cache
def engine_graph(precision: str = "fp32", top_k: int | None = None) -> Path:
    """The small model's graph as TensorRT likes it, for two streams; not verified, which its tests do not need."""
    options = ExportOptions(target="tensorrt", max_streams=2, top_k=top_k)
    contract = contract_of(exported_model(), options)
    facts = dataclasses.replace(build_facts(options, None), precision=precision)

    def plain(path: Path) -> None:
        path.write_bytes(build_graph(exported_model(), contract, options))

    def make(path: Path) -> None:
        graph = CHANGES[precision](onnx.load(made_once(f"for-engines-{top_k}.plain.onnx", plain)))
        path.write_bytes(_signed(graph, contract, facts))

    return made_once(f"for-engines-{precision}-{top_k}.onnx", make)


def rewritten(path: Path, change: Callable[[onnx.ModelProto], onnx.ModelProto], output: Path, **facts) -> Path:
    """A changed copy whose sums fit again, as a tool would write it that knows contracts but not what it does."""
    model = onnx.load(path)
    contract = read_contract(model, path)
    del model.metadata_props[:]
    output.write_bytes(_signed(change(model), contract, dataclasses.replace(contract.build, **facts)))
    return output


def _signed(model: onnx.ModelProto, contract, facts: BuildFacts) -> bytes:
    graph = model.SerializeToString()
    return with_contract(graph, dataclasses.replace(contract, build=with_sum(facts, graph)))
