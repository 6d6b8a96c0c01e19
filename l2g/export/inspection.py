"""What is in an ONNX file: tensors, contract, operators, weights, arithmetic, and what looks wrong. Needs no torch."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from math import prod

import onnx

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.contract import GraphContract, TensorSpec
from l2g.errors import ContractError
from l2g.export.graph.flops import Shapes, count_flops, shapes_for_one_stream
from l2g.provenance import INT8Verification
from l2g.runtime.backends.contract_check import PLUGINS, check_drivable

# What makes a graph's sizes depend on its data: an engine cannot plan memory for that.
DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression", "If", "Loop", "Scan", "SequenceAt")


@dataclass(frozen=True)
class Finding:
    """level: "error" (the file should not be used), "warning" (some library will fail or be wrong) or "note"."""

    level: str
    text: str


@dataclass(frozen=True)
class GraphReport:
    """One ONNX file.

    operators: how many nodes of each type. parameters: floating point values stored as weights; parameter_bytes: their
    size. flops: floating point operations of a frame of one stream, a multiply-add counted as two, by kind
    ("convolution", "linear" = product with weights, "product" = of two activations). contract: None where the file has
    none.
    """

    path: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    contract: GraphContract | None
    operators: dict[str, int]
    parameters: int
    parameter_bytes: int
    flops: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict:
        return {**asdict(self), "contract": None if self.contract is None else self.contract.to_dict()}


def inspect_graph(path: str | os.PathLike[str]) -> GraphReport:
    """Read and judge an ONNX file; ExportError where it is missing or damaged."""
    model = read_model(path)
    findings: list[Finding] = []
    contract = _contract(model, path, findings)
    inputs = tuple(_spec(value) for value in model.graph.input)
    outputs = tuple(_spec(value) for value in model.graph.output)
    if contract is not None:
        _check_contract(contract, inputs, outputs, path, findings)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    shapes = shapes_for_one_stream(model)
    flops, uncounted = count_flops(model, shapes)
    if uncounted:
        findings.append(Finding("note", f"{uncounted} nodes of unknown shapes are missing from the FLOPs"))
    findings += _judge_operators(model, opset, contract)
    parameters, size = _parameters(model, shapes)
    return GraphReport(
        path=str(path),
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        contract=contract,
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        parameters=parameters,
        parameter_bytes=size,
        flops=flops,
        findings=tuple(findings),
    )


def format_report(report: GraphReport) -> str:
    """The report for people, a few dozen lines."""
    lines = [f"{report.path}: ONNX, opset {report.opset}"]
    for title, specs in (("inputs", report.inputs), ("outputs", report.outputs)):
        lines.append(f"\n{title}")
        lines += [f"  {spec.name:<16}{spec.dtype:<9}[{', '.join(map(str, spec.shape))}]" for spec in specs]
    lines += ["", *_contract_lines(report.contract)]
    lines.append(f"\nparameters  {report.parameters / 1e6:.2f} M, {report.parameter_bytes / 1e6:.1f} MB")
    total = sum(report.flops.values())
    parts = ", ".join(f"{kind} {value / 1e9:.2f}" for kind, value in report.flops.items())
    lines.append(f"arithmetic  {total / 1e9:.2f} GFLOP a frame and stream ({parts})")
    lines.append(f"operators   {sum(report.operators.values())} nodes")
    names = [f"{name} {count}" for name, count in report.operators.items()]
    lines += [f"  {', '.join(names[start : start + 8])}" for start in range(0, len(names), 8)]
    lines.append("\nfindings" if report.findings else "\nfindings    none")
    lines += [f"  {finding.level}: {finding.text}" for finding in report.findings]
    return "\n".join(lines)


def _contract_lines(contract: GraphContract | None) -> list[str]:
    if contract is None:
        return ["contract    none"]
    build = contract.build
    named = {
        "precision": build.precision,
        "lowering": build.lowering,
        "target": build.target,
        "max_streams": build.max_streams,
    }
    facts = [f"{name} {value}" for name, value in named.items() if value]
    lines = [
        f"contract    schema {contract.schema_version}, canvas {contract.height}x{contract.width}, "
        f"{contract.output_kind}, {len(contract.class_names)} classes, association {contract.association}",
        f"  state       {', '.join(f'{pair.output} -> {pair.input}' for pair in contract.states)}",
        f"  build       {', '.join(facts)}",
    ]
    if isinstance(build.verification, INT8Verification):
        found = ", ".join(f"{one.loss:+.2f} points on {one.dataset}" for one in build.verification.datasets)
        lines.append(f"  verified    {build.verification.library}: lost {found}")
    elif build.verification is not None:
        found = ", ".join(f"{name} {value:.2g}" for name, value in build.verification.differences.items())
        lines.append(f"  verified    {build.verification.library}: {found}")
    return lines


def _contract(model: onnx.ModelProto, path, findings: list[Finding]) -> GraphContract | None:
    try:
        return read_contract(model, path)
    except ContractError as error:
        findings.append(Finding("error", f"no contract, so no runtime of l2g drives this file: {error}"))
        return None


def _check_contract(contract: GraphContract, inputs, outputs, path, findings: list[Finding]) -> None:
    for kind, wanted, found in (("input", contract.inputs, inputs), ("output", contract.outputs, outputs)):
        for want in wanted:
            have = next((spec for spec in found if spec.name == want.name), None)
            if have != want:
                text = f"{kind} '{want.name}': the contract says {_show(want)}, the graph {_show(have)}"
                findings.append(Finding("error", text))
        for extra in sorted({spec.name for spec in found} - {spec.name for spec in wanted}):
            findings.append(Finding("error", f"{kind} '{extra}' is not in the contract"))
    if contract.build.graph_sha256 is not None and not intact(path, contract):
        text = "the graph was changed after its export, so its verification no longer holds"
        findings.append(Finding("error", text))
    try:
        check_drivable(path, contract, "l2g export")
    except ContractError as error:
        findings.append(Finding("error", f"no runtime of l2g drives this file: {error}"))


def _judge_operators(model: onnx.ModelProto, opset: int, contract: GraphContract | None) -> list[Finding]:
    counts = Counter(node.op_type for node in model.graph.node)
    target = contract.build.target if contract else None
    findings = []
    if counts["Shape"] > 1:
        text = f"{counts['Shape']} Shape nodes: sizes are computed at run time that the canvas fixes"
        findings.append(Finding("warning", text))
    for name in DATA_DEPENDENT:
        if counts[name]:
            findings.append(Finding("warning", f"{counts[name]} {name} nodes: sizes depend on the data"))
    if counts["BatchNormalization"]:
        text = f"{counts['BatchNormalization']} BatchNormalization nodes are not folded into their convolutions"
        findings.append(Finding("warning", text))
    if counts["GridSample"]:
        severe = opset >= 20 or target == "tensorrt"
        text = f"{counts['GridSample']} GridSample nodes: TensorRT is reported to compute them wrongly without a word"
        findings.append(Finding("warning" if severe else "note", f"{text}; --lowering gather avoids them"))
    plugins = [node for node in model.graph.node if PLUGINS.search(node.op_type)]
    if plugins:
        names = sorted({node.op_type for node in plugins})
        findings.append(
            Finding("note", f"{len(plugins)} plugin nodes ({', '.join(names)}): only TensorRT runs this file")
        )
    doubles = [weight.name for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.DOUBLE]
    if doubles:
        findings.append(
            Finding("warning", f"{len(doubles)} float64 constants, which TensorRT does not take: {doubles[0]}")
        )
    used = {name for node in model.graph.node for name in node.input}
    idle = [weight.name for weight in model.graph.initializer if weight.name not in used]
    if idle:
        findings.append(Finding("note", f"{len(idle)} constants are never read, the first is {idle[0]}"))
    return findings


def _parameters(model: onnx.ModelProto, shapes: Shapes) -> tuple[int, int]:
    floating = {
        onnx.TensorProto.FLOAT: 4,
        onnx.TensorProto.FLOAT16: 2,
        onnx.TensorProto.BFLOAT16: 2,
        onnx.TensorProto.DOUBLE: 8,
    }
    floating[onnx.TensorProto.INT8] = 1
    weights = [(prod(weight.dims), floating.get(weight.data_type, 0)) for weight in model.graph.initializer]
    return sum(count for count, size in weights if size), sum(count * size for count, size in weights)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_param or "?" if not dim.HasField("dim_value") else dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, dims)


def _show(spec: TensorSpec | None) -> str:
    return "has none" if spec is None else f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
