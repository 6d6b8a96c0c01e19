"""The ONNX file: a graph, then the contract that describes it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import onnx

from l2g.contract import METADATA_KEY, GraphContract
from l2g.errors import ContractError, ExportError
from l2g.provenance import BuildFacts


def expect_onnx_name(path: str | os.PathLike[str]) -> None:
    """ExportError for a graph's name by which nothing would open it as a graph."""
    suffix = Path(path).suffix
    if suffix.lower() != ".onnx":
        raise ExportError(
            f"{os.fspath(path)}: '{suffix}' found at its end, .onnx expected, by which a graph is opened; name it so"
        )


def with_sum(build: BuildFacts, graph: bytes) -> BuildFacts:
    """`build` with what a contract says of the graph before it: its length and its sum.

    A file cannot hold its own sum. The contract is the last thing in it, so the first `graph_bytes` bytes are the graph
    alone, and `graph_sha256` is the sum of these.
    """
    return replace(build, graph_bytes=len(graph), graph_sha256=hashlib.sha256(graph).hexdigest())


def with_contract(graph: bytes, contract: GraphContract) -> bytes:
    """The whole file: in protobuf's encoding, appending a message adds to its repeated fields."""
    tail = onnx.ModelProto()
    tail.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    ending: bytes = tail.SerializeToString()
    return graph + ending


def read_contract(model: onnx.ModelProto, path: str | os.PathLike[str]) -> GraphContract:
    """The contract in an ONNX file; ContractError where there is none."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return GraphContract.from_json(entry.value)
    raise ContractError(f"{path}: an ONNX file without '{METADATA_KEY}'; expected one that l2g export wrote")


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse an ONNX file; ExportError where it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file; give the path of an ONNX file")
    try:
        model = onnx.load(path)
    except Exception as error:
        if path.suffix.lower() in (".onnx", ""):
            reason, mend = f"not a whole ONNX file ({error})", "export or copy it again"
        else:
            reason = f"'{path.suffix}' found, an ONNX file expected"
            mend = "l2g export makes one of a checkpoint; give that from which an engine was built"
        raise ExportError(f"{path}: {reason}; {mend}") from None
    if not model.graph.node:
        raise ExportError(f"{path}: not an ONNX file, or an empty one; export or copy it again")
    # Protobuf hands names that are no text over as bytes.
    names = ((node.op_type, node.domain, node.name, *node.input, *node.output) for node in model.graph.node)
    if not all(isinstance(name, str) for each in names for name in each):
        raise ExportError(f"{path}: damaged, a name in it is no text; export or copy it again")
    return model
