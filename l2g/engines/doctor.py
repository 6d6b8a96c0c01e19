"""Reasons not to build an engine from a graph, found before a builder spends minutes on it, or hides them for good."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.contract import GraphContract
from l2g.engines.audit import quantised
from l2g.engines.findings import FLOATS, Circumstances, Examined, Finding, Findings, by_gravity, named, names_of
from l2g.engines.operator_rules import MEASURED, RULES
from l2g.errors import ContractError, EngineError
from l2g.export.graph.flops import contractions, shapes_for_one_stream
from l2g.runtime.backends.contract_check import PLUGINS, check_drivable, describe
from l2g.runtime.backends.tensorrt.library import LIBRARIES

# Opsets that the libraries' ONNX parsers are documented for ("ONNX Opset Guide" of TensorRT 10.x and 11.x).
OPSETS = {10: (9, 20), 11: (9, 25)}
# The first whose operators all have BF16; `l2g export` writes BF16 in it.
BF16_OPSET = 22
# TensorRT#4813 was reported with 10.14 and later ones up to 11.1, and not closed by a later release.
GRIDSAMPLE_WRONG_SINCE = (10, 14)
# Operators whose floating point inputs must be of one type in a strongly typed network, and which inputs these are.
_ONE_TYPE = {
    "Conv": 3,
    "Gemm": 3,
    "MatMul": 2,
    "Add": 2,
    "Sub": 2,
    "Mul": 2,
    "Div": 2,
    "Max": None,
    "Min": None,
    "Concat": None,
}
# Peak memory of a build on the host, measured with TensorRT-RTX 1.7.1 (R50, 480x864): 0.4 GB and 4 times the graph.
_BASE_MEMORY, _MEMORY_PER_BYTE = 400 << 20, 4


def examine(path: str | os.PathLike[str], circumstances: Circumstances) -> tuple[Finding, ...]:
    """Judge an ONNX file, the gravest findings first. EngineError: an unknown library; ExportError: a bad file."""
    if circumstances.library not in LIBRARIES:
        raise EngineError(f"library '{circumstances.library}' found, one of {', '.join(LIBRARIES)} expected")
    graph = _examined(Path(path))
    findings = [found for rule in _RULES for found in rule(graph, circumstances)]
    return by_gravity(findings)


def refuse(path: str | os.PathLike[str], findings: tuple[Finding, ...]) -> None:
    """EngineError that names every refusing finding; nothing where there is none."""
    found = [finding for finding in findings if finding.severity == "refuse"]
    if found:
        raise EngineError(
            f"{path}: no engine is built from this graph\n" + "\n".join(str(finding) for finding in found)
        )


def available_memory() -> int | None:
    """Bytes that a program may still take on this host (Linux), None where that cannot be told."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    if (line := re.search(r"MemAvailable:\s+(\d+) kB", text)) is None:
        return None
    free = int(line[1]) << 10
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return free


def _examined(path: Path) -> Examined:
    model = read_model(path)
    try:
        contract: GraphContract | ContractError = read_contract(model, path)
    except ContractError as error:
        contract = error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    return Examined(path, model, contract, opset, _types(model))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types: those of the boundary and the constants, carried through the nodes. What the file records of the
    tensors between them is not believed, since a tool that took casts out may have left it as it was."""
    types = {weight.name: weight.data_type for weight in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    recorded = {
        value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)
    }
    for node in model.graph.node:
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        for index, output in enumerate(node.output):
            if node.op_type in ("Cast", "CastLike") and to:
                types[output] = to
            elif node.op_type == "DequantizeLinear":
                types[output] = types.get(node.input[1], TensorProto.FLOAT)
            elif node.op_type == "QuantizeLinear":
                asked = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), TensorProto.UINT8)
                types[output] = types.get(node.input[2], asked) if len(node.input) > 2 else asked
            elif node.op_type == "Constant":
                types[output] = node.attribute[0].t.data_type or recorded.get(output, TensorProto.FLOAT)
            elif node.op_type in _SAME_TYPE and (index == 0 or node.op_type == "Split") and node.input:
                source = 1 if node.op_type == "Where" else 0
                types[output] = types.get(node.input[source], recorded.get(output, 0))
            else:
                types[output] = recorded.get(output, 0)
    return types


# Operators whose (first) output has the type of their first input (Where: of its second; Split: every output).
_SAME_TYPE = frozenset(
    """
    Conv Gemm MatMul Einsum Add Sub Mul Div Pow Max Min Sqrt Exp Log Neg Abs Floor Ceil Round Reciprocal Clip Where
    Relu LeakyRelu Gelu Sigmoid Softmax Tanh Erf Sin Cos Concat Reshape Transpose Squeeze Unsqueeze Flatten Slice Split
    Gather GatherElements Expand Tile Pad Resize GridSample ReduceSum ReduceMean ReduceMax ReduceMin TopK Identity
    MaxPool AveragePool GlobalAveragePool BatchNormalization InstanceNormalization GroupNormalization LayerNormalization
    """.split()  # noqa: SIM905
)


def _contract_rules(graph: Examined, asked: Circumstances) -> Findings:
    export = f"export the model again: l2g export --ckpt CKPT --target tensorrt --output {graph.path}"
    if isinstance(graph.contract, ContractError):
        text = "the graph carries no readable contract, so no runtime could drive its engine"
        yield Finding("refuse", "contract", text, f"no usable 'l2g.contract': {graph.contract}", export)
        return
    try:
        check_drivable(graph.path, graph.contract, "l2g export")
    except ContractError as error:
        text = "no runtime of l2g could drive an engine of what the contract describes"
        yield Finding("refuse", "contract", text, str(error), export)
    sides = (("input", graph.contract.inputs, graph.model.graph.input),)
    for kind, specs, values in (*sides, ("output", graph.contract.outputs, graph.model.graph.output)):
        expected = {spec.name: describe(spec.dtype, spec.shape) for spec in specs}
        has = {value.name: _described(value) for value in values}
        for name in sorted({*expected, *has}):
            if expected.get(name) != has.get(name):
                text = f"the contract and the graph differ in {kind} '{name}'"
                evidence = f"the contract has {expected.get(name, 'none')}, the graph {has.get(name, 'none')}"
                yield Finding("refuse", "boundary", text, evidence, export)
    build = graph.contract.build
    if build.graph_sha256 is None:
        text = "the contract has no sum of the graph, so nothing shows that it is the one that was exported"
        yield Finding("warn", "sum", text, "no 'graph_sha256' in the contract's build", export)
    elif not intact(graph.path, graph.contract):
        text = "the graph was changed after it was exported, so its verification no longer holds"
        found = f"the first {build.graph_bytes} bytes have not the sum {build.graph_sha256[:12]}..."
        yield Finding("refuse", "sum", text, found, export)
    if build.target == "onnxruntime" and build.lowering == "gather":
        text = "the gather is laid out for ONNX Runtime; a GPU holds all its samples in memory for that"
        yield Finding("warn", "target", text, "contract: target onnxruntime", export)


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    try:
        return describe(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, dims)
    except (KeyError, ValueError):
        return f"tensor type {tensor.elem_type}"


def _opset_rules(graph: Examined, asked: Circumstances) -> Findings:
    major = 11 if asked.library == "tensorrt-rtx" else (asked.release[0] if asked.release else 10)
    fewest, most = OPSETS.get(major, OPSETS[max(OPSETS)])
    if not fewest <= graph.opset <= most:
        text = f"the parser of {named(asked)} is documented for opset {fewest} to {most}"
        mend = "export it with --opset 17 (FP32, FP16) or 19 (INT8 with FP16 scales)"
        if TensorProto.BFLOAT16 in graph.types.values() and graph.opset > most:
            text += f", and BF16 takes opset {BF16_OPSET}"
            newer = min(known for known, (_, last) in OPSETS.items() if last >= BF16_OPSET)
            mend = (
                f"take TensorRT {newer} or newer, or FP16 in its place: l2g export --precision fp16, of INT8 "
                "l2g quantize --layout tensorrt --scales fp16"
            )
        yield Finding("refuse", "opset", text, f"opset {graph.opset}", mend)
    norms = graph.nodes("GroupNormalization")
    if norms and graph.opset >= 21 and asked.library == "tensorrt" and (asked.release or (0,)) < (10, 8):
        text = "GroupNormalization of opset 21 fails in TensorRT 10.7 and before"
        yield Finding("refuse", "groupnorm", text, names_of(norms), "export it with --opset 17 to 20")


def _gridsample_rules(graph: Examined, asked: Circumstances) -> Findings:
    grids = graph.nodes("GridSample")
    if not grids:
        return
    found, mend = f"{named(asked)}, opset {graph.opset}, {names_of(grids)}", "export it with --lowering gather"
    severity = "refuse"
    mixed = [n for n in grids if {FLOATS.get(graph.types.get(name, 0)) for name in n.input[:2]} == {"fp16", "fp32"}]
    if graph.opset >= 20 and asked.library == "tensorrt":
        text = "GridSample of opset 20 and later: 'linear' is read as 'nearest', in silence (TensorRT#4646)"
    elif asked.library == "tensorrt-rtx" and mixed:
        text = "TensorRT-RTX rejects GridSample of FP16 data and an FP32 grid"
    elif asked.library == "tensorrt" and asked.release and asked.release >= GRIDSAMPLE_WRONG_SINCE:
        text = "GridSample in a detector is reported to be computed wrongly, in silence, from 10.14 on (TensorRT#4813)"
    else:
        severity = "warn"
        text = "GridSample is reported to be computed wrongly by some versions (TensorRT#4813)"
    yield Finding(severity, "gridsample", text, found, mend)


def _type_rules(graph: Examined, asked: Circumstances) -> Findings:
    for value in graph.model.graph.input:
        users = [node for node in graph.model.graph.node if value.name in node.input and node.op_type != "Cast"]
        if value.type.tensor_type.elem_type == TensorProto.UINT8 and users:
            text = f"input '{value.name}' is uint8, which TensorRT lets into a Cast only"
            mend = "export the model again with this version of l2g, which casts first"
            yield Finding("refuse", "uint8", text, names_of(users), mend)
    mixed = []
    for node in graph.nodes(*_ONE_TYPE):
        names = [name for name in node.input[: _ONE_TYPE[node.op_type]] if name]
        found = {FLOATS[graph.types[name]] for name in names if graph.types.get(name) in FLOATS}
        if len(found) > 1:
            mixed.append((node, sorted(found)))
    if mixed:
        node, types = mixed[0]
        text = "nodes take operands of two precisions, which a strongly typed network refuses: casts are missing"
        evidence = f"{len(mixed)} nodes, the first {node.op_type} '{node.name}' with {' and '.join(types)}"
        mend = "make the graph again: l2g export --precision fp16"
        yield Finding("refuse", "mixed", text, evidence, mend)
    doubles = [weight.name for weight in graph.model.graph.initializer if weight.data_type == TensorProto.DOUBLE]
    if doubles:
        which = f"{len(doubles)}, the first {doubles[0]}"
        if asked.library == "tensorrt-rtx":
            text = f"float64 constants, which it takes as float32 ({MEASURED})"
            yield Finding("warn", "double", text, which, "export the model again")
        else:
            yield Finding(
                "refuse", "double", "float64 constants, which TensorRT does not take", which, "export the model again"
            )


def _precision_rules(graph: Examined, asked: Circumstances) -> Findings:
    says = graph.contract.build.precision if isinstance(graph.contract, GraphContract) else None
    precision = asked.precision or says
    if precision is None:
        return
    share, count, of, what = precision_share(graph, precision)
    command = "quantize" if precision == "int8" else f"export --precision {precision}"
    mend = f"make the {precision.upper()} graph: l2g {command}"
    source = "asked for" if asked.precision else "what the contract says"
    if count == 0 and precision != "fp32":
        text = f"{precision} is {source}, and the graph has none of it; its engine would not have it either"
        yield Finding("refuse", "precision", text, f"0 of {of} {what}", mend)
    elif precision != "int8" and count < of and share < asked.min_share:
        why = "the rest is narrower" if precision == "fp32" else "casts were lost, or islands are too large"
        text = f"{precision} is {source}, and too little of the graph has it: {why}"
        percent = f"{100 * share:.1f} % of their FLOPs, {100 * asked.min_share:.0f} % asked for"
        mend += ", or accept less with --min-share"
        yield Finding("refuse", "precision", text, f"{count} of {of} {what}, {percent}", mend)
    elif asked.precision and says and asked.precision != says:
        text = f"{asked.precision} is asked for, the contract says {says}"
        yield Finding("warn", "precision", text, f"{count} of {of} {what}", "leave --precision away")


def _scale_rules(graph: Examined, asked: Circumstances) -> Findings:
    """Both sides of a quantised product have scales of one type, or the builder fails with a message of its inside."""
    scales: dict[str, str | None] = {}
    for node in graph.model.graph.node:
        if node.op_type == "DequantizeLinear":
            scales[node.output[0]] = FLOATS.get(graph.types.get(node.input[1], 0))
        elif node.op_type in ("Cast", "Transpose", "Reshape") and node.input[0] in scales:
            scales[node.output[0]] = scales[node.input[0]]
    mixed = [
        node
        for node in graph.nodes("Conv", "Gemm", "MatMul")
        if {*node.input[:2]} <= scales.keys() and scales[node.input[0]] != scales[node.input[1]]
    ]
    if mixed:
        text = "quantised nodes have scales of two types, on which TensorRT's builder fails"
        found = f"{names_of(mixed)}; {' and '.join(str(scales[name]) for name in mixed[0].input[:2])}"
        mend = "quantise again with scales of one type: cast to FP16 before the pair, not behind it"
        yield Finding("refuse", "scales", text, found, mend)


def precision_share(graph: Examined, precision: str) -> tuple[float, int, int, str]:
    """(share of FLOPs, nodes, of how many, what they are) that the graph itself types or quantises so. What is of no
    known type counts as FP32."""
    found, _ = contractions(graph.model, shapes_for_one_stream(graph.model))
    integers = quantised(graph.model)
    if precision == "int8":
        inside, what = integers, "convolutions and products between Q/DQ pairs"
    else:
        types = {
            node.name: FLOATS.get(graph.types.get(node.input[0], 0), "fp32")
            for node in graph.model.graph.node
            if node.input
        }
        inside = {name for name, dtype in types.items() if dtype == precision}
        inside = inside - integers if precision == "fp32" else inside | integers
        what = f"convolutions and products in {precision.upper()}"
    total = sum(c.flops for c in found)
    share = sum(c.flops for c in found if c.name in inside) / total if total else 0.0
    return share, sum(c.name in inside for c in found), len(found), what


def _plugin_rules(graph: Examined, asked: Circumstances) -> Findings:
    nodes = [node for node in graph.model.graph.node if PLUGINS.search(node.op_type)]
    if not nodes:
        return
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(node.op_type for node in nodes).items())
    if asked.version_compatible:
        text = "the lean runtime has none of the plugins"
        yield Finding(
            "refuse", "plugin", text, kinds, "export it with --lowering gather, or leave --version-compatible"
        )
        return
    if asked.library == "tensorrt-rtx":
        text = "TensorRT-RTX ships no plugins"
        yield Finding("refuse", "plugin", text, kinds, "export it with --lowering gather")
        return
    absent = sorted({node.op_type for node in nodes} - {name for name, _ in asked.plugins or ()})
    if asked.plugins is not None and absent:
        text = f"the plugin library of {named(asked)} does not offer {absent[0]}"
        mend = "install TensorRT with its plugins, or export it with --lowering gather"
        yield Finding("refuse", "plugin", text, f"{kinds}; {len(asked.plugins)} plugins are registered", mend)
        return
    version = graph.contract.build.plugin_version if isinstance(graph.contract, GraphContract) else None
    expected = None if not asked.release else ("1" if asked.release[0] <= 10 else "2")
    if version and expected and version != expected:
        text = f"{named(asked)} wants version {expected} of the plugin"
        yield Finding(
            "refuse", "plugin", text, f"{kinds}, version {version}", f"export it with --plugin-version {expected}"
        )


def _memory_rules(graph: Examined, asked: Circumstances) -> Findings:
    size = graph.path.stat().st_size
    needed = _BASE_MEMORY + _MEMORY_PER_BYTE * size
    if asked.memory is not None and asked.memory < needed:
        found = f"{asked.memory / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB needed for {size / 1e6:.0f} MB of graph"
        mend = "end other programs, add swap, or build on another machine"
        yield Finding("refuse", "memory", "too little memory on this host to build", found, mend)
    wanted = 2 * size + (asked.workspace or 0)
    if asked.gpu is not None and asked.gpu.memory and asked.gpu.free_memory < wanted:
        found = f"{asked.gpu.name}: {asked.gpu.free_memory / 1e9:.2f} GB free, {wanted / 1e9:.2f} GB needed"
        mend = "end other programs on the GPU, or lower --workspace"
        yield Finding("refuse", "memory", "too little free memory on the GPU to build", found, mend)


def _place_rules(graph: Examined, asked: Circumstances) -> Findings:
    if asked.version is None:
        text = f"{asked.library} is not installed here: rules that depend on its version were not tried"
        yield Finding(
            "note", "library", text, "no version", "give --library-version, or run this where it is installed"
        )
        return
    if asked.library == "tensorrt" and asked.release is not None and asked.release < (10, 12):
        text = "strong typing is called fully available from TensorRT 10.12 on; earlier ones are untested here"
        yield Finding("warn", "library", text, asked.version, "upgrade TensorRT, or compare AP after the build")


_RULES = (
    *RULES,
    _contract_rules,
    _opset_rules,
    _gridsample_rules,
    _type_rules,
    _precision_rules,
    _scale_rules,
    _plugin_rules,
    _memory_rules,
    _place_rules,
)
