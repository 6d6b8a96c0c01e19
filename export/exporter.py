"""A checkpoint or a model in, one verified ONNX file out."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

import l2g
from l2g.contract import METADATA_KEY, GraphContract, make_contract
from l2g.errors import ExportError
from l2g.export.lowering import LOWERINGS, TARGETS, lower
from l2g.export.tracing import trace
from l2g.modeling.local2global import Local2Global

# LayerNormalization is one operator from 17 on; PyTorch's TorchScript exporter knows nothing after 20.
OPSETS = range(17, 21)


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a model.

    height, width: the network canvas, multiples of 32; None is the model's own.
    max_streams: the most streams at once that the graph is meant for (an engine's profile ends there).
    top_k: choose so many slots in the graph ("detections", at most the model's slots); None gives raw outputs.
    lowering: "gather", "gridsample" or "plugin". target: "onnxruntime" or "tensorrt".
    simplify: run onnxslim over the graph.
    """

    height: int | None = None
    width: int | None = None
    max_streams: int = 8
    top_k: int | None = None
    lowering: str = "gather"
    target: str = "onnxruntime"
    opset: int = 17
    simplify: bool = False

    def __post_init__(self):
        for side in (self.height, self.width):
            if side is not None and (side < 32 or side % 32):
                raise ExportError(f"canvas {self.height}x{self.width} found, multiples of 32 expected, such as 480x864")
        _expect_one_of("lowering", self.lowering, LOWERINGS)
        _expect_one_of("target", self.target, TARGETS)
        if self.opset not in OPSETS:
            raise ExportError(f"opset {self.opset} found, {OPSETS[0]} to {OPSETS[-1]} expected; 17 serves every target")
        if self.max_streams < 1:
            raise ExportError(f"max_streams {self.max_streams} found, at least 1 expected")
        if self.top_k is not None and self.top_k < 1:
            raise ExportError(f"top_k {self.top_k} found, at least 1 expected")


def export(
    model: Local2Global, output: str | os.PathLike, options: ExportOptions, checkpoint: Path | None = None
) -> GraphContract:
    """Write the ONNX file of `model` (in evaluation mode, on the CPU) to `output` and return its contract."""
    output = Path(output)
    contract = contract_of(model, options)
    graph = lower(trace(model, contract, options.opset), options.lowering, options.target)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    contract = dataclasses.replace(contract, build=build_facts(options, checkpoint))
    _write(proto, contract, output)
    return contract


def contract_of(model: Local2Global, options: ExportOptions) -> GraphContract:
    config = model.config
    return make_contract(
        height=options.height or config.input_size[0],
        width=options.width or config.input_size[1],
        num_queries=config.num_queries,
        hidden_dim=config.hidden_dim,
        class_names=config.class_names,
        association=config.association,
        top_k=None if options.top_k is None else min(options.top_k, config.num_queries),
        model=config.to_dict(),
    )


def build_facts(options: ExportOptions, checkpoint: Path | None) -> dict:
    """The contract's `build`: how the file was made."""
    return {
        "precision": "fp32",
        "lowering": options.lowering,
        "target": options.target,
        "opset": options.opset,
        "max_streams": options.max_streams,
        "simplified": options.simplify,
        "checkpoint": checkpoint.name if checkpoint else None,
        "checkpoint_sha256": _sha256(checkpoint) if checkpoint else None,
        "versions": {
            "l2g": l2g.__version__,
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in ("onnx", "onnx-ir", "onnxruntime")},
        },
    }


def _write(proto: onnx.ModelProto, contract: GraphContract, output: Path) -> None:
    onnx.helper.set_model_props(proto, {METADATA_KEY: contract.to_json()})
    handle, temporary = tempfile.mkstemp(prefix=output.name, suffix=".part", dir=output.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(proto.SerializeToString())
        os.chmod(temporary, 0o644)
        os.replace(temporary, output)
    except BaseException:
        os.unlink(temporary)
        raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _expect_one_of(name: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ExportError(f"{name} '{found}' found, one of {', '.join(known)} expected")
