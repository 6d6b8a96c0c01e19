"""A model in, one verified ONNX file out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx
import onnx_ir as ir
import torch

import l2g
from l2g.artifacts.onnx_file import expect_onnx_name, read_contract, read_model, with_contract, with_sum
from l2g.config import ModelConfig
from l2g.contract import GraphContract
from l2g.errors import ConfigError, ExportError
from l2g.export.deformable.gather import MAX_ROWS
from l2g.export.deformable.lowering import LOWERINGS, PLUGIN_VERSIONS, TARGETS, has_deformable_attention, lower, unplug
from l2g.export.deformable.plugin import check_plugins
from l2g.export.graph.attention import fuse_attention
from l2g.export.graph.feedforward import part_sums_from_norms, split_feed_forward
from l2g.export.graph.tracing import STREAMS, trace
from l2g.export.graph.upscaling import products_for_upscaling
from l2g.export.precision.convert import REDUCED, check_blocks, reduce_precision
from l2g.export.precision.verify import verify_reduced
from l2g.export.verification.rollouts import ROLLOUTS, Step, rollouts
from l2g.export.verification.verify import verify
from l2g.files import refuse_overwriting, sha256_of_file, write_atomically
from l2g.modeling.family.protocol import VideoModel
from l2g.progress import SILENT, Progress
from l2g.provenance import BuildFacts, ReducedVerification, Verification
from l2g.public.hub import name_of, weights_of
from l2g.runtime.memory import return_memory

# LayerNormalization is one operator from 17 on; PyTorch's TorchScript exporter knows nothing after 20.
OPSETS = range(17, 21)
PRECISIONS = ("fp32", *REDUCED)
# That from which a graph can be in BF16.
BF16_OPSET = REDUCED["bf16"].since
# Row numbers of all streams together are int32.
MAX_STREAMS = (1 << 31) // MAX_ROWS - 1
# The stages of an export, as a `Progress` is told of them.
TRACING, LOWERING, CHECKING = "trace and fold", "lower", "check the ONNX"
COMPUTING, VERIFYING = "frames in PyTorch", "verify beside PyTorch"
CHOOSING, CONVERTING, VERIFYING_REDUCED = "search for what stays float32", "convert to 16 bits", "verify that graph"
WRITING = "write and read back"


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a model.

    height, width: the network canvas, such as the model can take; None is the model's own.
    max_streams: the most streams at once that the graph is meant for (an engine's profile ends there).
    top_k: choose so many slots in the graph ("detections", at most the model's slots); None gives raw outputs.
    lowering: "gather", "gridsample" or "plugin". target: "onnxruntime" or "tensorrt", which decides the gather's form.
    plugin_version: "1" for TensorRT 10, "2" for TensorRT 11.
    simplify: run onnxslim over the graph.
    precision: "fp32", or "fp16" or "bf16" for a mixed graph (`l2g.export.precision.convert`). fp32_blocks: blocks of
    the model (`l2g.export.graph.blocks`) that stay float32 in it, besides the islands.

    Raises ExportError for a combination that is known not to work.
    """

    height: int | None = None
    width: int | None = None
    max_streams: int = 8
    top_k: int | None = None
    lowering: str = "gather"
    target: str = "onnxruntime"
    opset: int = 17
    plugin_version: str = "1"
    simplify: bool = False
    precision: str = "fp32"
    fp32_blocks: tuple[str, ...] = ()

    def __post_init__(self):
        _expect_one_of("lowering", self.lowering, LOWERINGS)
        _expect_one_of("target", self.target, TARGETS)
        _expect_one_of("plugin version", self.plugin_version, PLUGIN_VERSIONS)
        _expect_one_of("precision", self.precision, PRECISIONS)
        if self.fp32_blocks and self.precision == "fp32":
            raise ExportError(
                f"block {self.fp32_blocks[0]} is to stay float32, and so is all else; add --precision fp16 or bf16"
            )
        if self.precision == "bf16" and self.opset < BF16_OPSET:
            raise ExportError(f"opset {self.opset} found, {BF16_OPSET} expected for BF16; add --opset {BF16_OPSET}")
        if not 1 <= self.max_streams <= MAX_STREAMS:
            raise ExportError(f"max-streams {self.max_streams} found, 1 to {MAX_STREAMS} expected")
        if self.top_k is not None and self.top_k < 1:
            raise ExportError(f"top-k {self.top_k} found, at least 1 expected")
        if self.opset not in OPSETS:
            raise ExportError(f"opset {self.opset} found, {OPSETS[0]} to {OPSETS[-1]} expected; 17 serves every target")
        if self.lowering == "plugin" and self.target != "tensorrt":
            raise ExportError("the plugin is TensorRT's and nothing else runs it; add --target tensorrt")
        if self.lowering == "gridsample" and self.target == "tensorrt" and self.opset >= 20:
            raise ExportError(
                f"GridSample at opset {self.opset}: TensorRT reads its 'linear' as 'nearest' without a word "
                "(TensorRT#4646); use --opset 17 to 19, or better --lowering gather"
            )


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the path, the contract in it, and the verification that it passed."""

    path: Path
    contract: GraphContract
    verification: Verification | ReducedVerification


def export(
    model: VideoModel,
    output: str | os.PathLike[str],
    options: ExportOptions | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    choose: Callable[[bytes, GraphContract], tuple[str, ...]] | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Write the ONNX file of `model` (in evaluation mode, on the CPU, float32) to `output`.

    The file gets its name only after ONNX Runtime has given the model's numbers with it (`verification.verify`).
    `checkpoint` is named in the contract, with its sum. `choose` gets the verified float32 graph of an FP16 or BF16
    export (with the gather in the place of plugins) and its contract; it says which blocks stay float32 besides the
    options'.
    `progress` is told of the stages.
    Raises ExportError, with nothing written, for options that do not fit the model and for a graph that is not the
    model.
    """
    options, output = options or ExportOptions(), Path(output)
    expect_onnx_name(output)
    refuse_overwriting([output], [checkpoint], ExportError)
    contract = contract_of(model, options)
    progress.plan(_stages(options, choose is not None))
    with write_atomically(output, ExportError) as temporary:
        float32, steps, passed = _verified(model, contract, options, progress)
        graph = float32
        verification: Verification | ReducedVerification = passed
        if options.precision in REDUCED:
            if choose:
                progress.stage(CHOOSING)
            chosen = choose(runnable(float32, options), contract) if choose else ()
            options = dataclasses.replace(options, fp32_blocks=tuple(dict.fromkeys((*options.fp32_blocks, *chosen))))
            progress.stage(CONVERTING)
            graph = reduced_graph(float32, options.precision, options.fp32_blocks)
            _check(graph)
            progress.stage(VERIFYING_REDUCED)
            runnables = runnable(float32, options), runnable(graph, options)
            target = REDUCED[options.precision]
            verification = verify_reduced(target, *runnables, contract, steps, passed, progress)
        progress.stage(WRITING)
        build = with_sum(dataclasses.replace(build_facts(options, checkpoint), verification=verification), graph)
        contract = dataclasses.replace(contract, build=build)
        temporary.write_bytes(with_contract(graph, contract))
        if read_contract(read_model(temporary), output).to_json() != contract.to_json():
            raise ExportError(f"{output}: the contract does not come back as it was written; is the disk full?")
    return Exported(output, contract, verification)


def _stages(options: ExportOptions, choosing: bool) -> dict[str, int]:
    """The stages of an export and their steps, in order."""
    compared = sum(frames for _, frames in ROLLOUTS)
    stages = {TRACING: len(STREAMS), LOWERING: 1, CHECKING: 1, COMPUTING: compared, VERIFYING: compared}
    if options.precision in REDUCED:
        stages |= {CHOOSING: 1} if choosing else {}
        stages |= {CONVERTING: 1, VERIFYING_REDUCED: 2 * compared}
    return {**stages, WRITING: 1}


def _verified(
    model: VideoModel, contract: GraphContract, options: ExportOptions, progress: Progress
) -> tuple[bytes, list[Step], Verification]:
    """The float32 graph, held to the model's steps; that of an FP16 graph too, which is made from it."""
    float32 = build_graph(model, contract, dataclasses.replace(options, precision="fp32", fp32_blocks=()), progress)
    progress.stage(CHECKING)
    if options.fp32_blocks:  # a wrong name costs no verification
        check_blocks(onnx.load_from_string(float32).graph.node, options.fp32_blocks)
    _check(float32)
    progress.stage(COMPUTING)
    return_memory()  # what tracing left
    steps = []
    for step in rollouts(model, contract):
        steps.append(step)
        progress.step()
    progress.stage(VERIFYING)
    return float32, steps, verify(runnable(float32, options), contract, steps, progress)


def reduced_graph(graph: bytes, precision: str, fp32_blocks: tuple[str, ...] = ()) -> bytes:
    """A serialised float32 graph in "fp16" or "bf16", but for the islands and `fp32_blocks`."""
    model = ir.from_proto(onnx.load_from_string(graph))
    reduce_precision(model, REDUCED[precision], fp32_blocks)
    return ir.to_proto(model).SerializeToString(deterministic=True)


def contract_of(model: VideoModel, options: ExportOptions) -> GraphContract:
    """The contract of a graph before it is built; its `build` is empty."""
    height, width = model.config.input_size
    canvas = (height if options.height is None else options.height, width if options.width is None else options.width)
    try:
        return model.contract(canvas, options.top_k)
    except ConfigError as error:
        raise ExportError(str(error)) from None


def build_graph(
    model: VideoModel, contract: GraphContract, options: ExportOptions, progress: Progress = SILENT
) -> bytes:
    """The serialised graph, neither verified nor with a contract inside."""
    if options.precision in REDUCED:
        float32 = dataclasses.replace(options, precision="fp32", fp32_blocks=())
        whole = build_graph(model, contract, float32, progress)
        return reduced_graph(whole, options.precision, options.fp32_blocks)
    progress.stage(TRACING)
    graph = trace(model, contract, options.opset, progress)
    progress.stage(LOWERING)
    if options.lowering == "plugin" and not has_deformable_attention(graph):
        raise ExportError("the model has no deformable attention, so there is nothing for the plugin; leave it away")
    lower(graph, options.lowering, options.target, options.plugin_version)
    if options.target == "onnxruntime":
        split_feed_forward(graph)
        part_sums_from_norms(graph)
        fuse_attention(graph)
        products_for_upscaling(graph)
    graph.producer_name, graph.producer_version = "l2g", l2g.__version__
    if options.lowering == "plugin":
        check_plugins(graph, cast(ModelConfig, model.config))
    proto = ir.to_proto(graph)
    if options.simplify:
        proto = simplified(proto)
    return proto.SerializeToString(deterministic=True)


def simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph after onnxslim: fewer nodes, equal numbers (the verification that follows sees to it)."""
    try:
        import onnxslim
    except ModuleNotFoundError:
        raise ExportError("--simplify needs onnxslim, which is not installed; pip install 'l2g[export]'") from None
    known = {value.name: value for value in proto.graph.value_info}
    slim = onnxslim.slim(proto)
    # It cannot infer the types behind a plugin and forgets them; tensors that kept their names kept their types.
    names = [name for node in slim.graph.node for name in node.output if name in known]
    del slim.graph.value_info[:]
    slim.graph.value_info.extend(known[name] for name in names)
    return slim


def runnable(graph: bytes, options: ExportOptions) -> bytes:
    """The graph itself, or with plugin nodes one in which the gather lowering stands in for them."""
    if options.lowering != "plugin":
        return graph
    return ir.to_proto(unplug(ir.from_proto(onnx.load_from_string(graph)))).SerializeToString()


def build_facts(options: ExportOptions, checkpoint: str | os.PathLike[str] | None) -> BuildFacts:
    """The contract's `build`: how the file was made."""
    packages = ["onnx", "onnx-ir", "onnxruntime", *(["onnxslim"] if options.simplify else [])]
    return BuildFacts(
        precision=options.precision,
        fp32_blocks=options.fp32_blocks,
        lowering=options.lowering,
        target=options.target,
        opset=options.opset,
        max_streams=options.max_streams,
        plugin_version=options.plugin_version if options.lowering == "plugin" else None,
        simplified=options.simplify,
        checkpoint=name_of(Path(checkpoint)) if checkpoint else None,
        checkpoint_sha256=sha256_of_file(weights_of(Path(checkpoint)), ExportError) if checkpoint else None,
        versions={
            "l2g": l2g.__version__,
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
    )


def _check(graph: bytes) -> None:
    """The ONNX checker with shape inference, on what will be in the file."""
    try:
        onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error


def _expect_one_of(name: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ExportError(f"{name} '{found}' found, one of {', '.join(known)} expected")
