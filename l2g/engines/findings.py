"""What the doctor says of a graph, and what its rules are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from l2g.artifacts.records import MIN_SHARE
from l2g.artifacts.sidecar import Gpu
from l2g.contract import GraphContract
from l2g.errors import ContractError
from l2g.runtime.backends.tensorrt.library import version_tuple

_SEVERITIES = ("refuse", "warn", "note")
FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


def by_gravity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first."""
    return tuple(sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity)))


@dataclass(frozen=True)
class Finding:
    """severity: "refuse" (nothing is built), "warn" or "note". evidence: names, counts, versions. mend: what to do."""

    severity: str
    rule: str
    text: str
    evidence: str
    mend: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}\n    found: {self.evidence}\n    mend:  {self.mend}"


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Circumstances:
    """What an engine is to be built with. version: of the library, None where it is not known. precision: what is asked
    for, None for what the contract says. memory: bytes free on the host, None where that is not known. plugins: (name,
    version) of those that are registered. compute_capabilities: asked for, empty for TensorRT-RTX's portable set.
    version_compatible: for the lean runtime too."""

    library: str
    version: str | None = None
    precision: str | None = None
    min_share: float = MIN_SHARE
    gpu: Gpu | None = None
    memory: int | None = None
    workspace: int | None = None
    plugins: frozenset[tuple[str, str]] | None = None
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False

    @property
    def release(self) -> tuple[int, ...] | None:
        return version_tuple(self.version) if self.version else None


@dataclass(frozen=True)
class Examined:
    """A graph as the rules see it. types: element type by tensor, as far as it is stored or can be inferred."""

    path: Path
    model: onnx.ModelProto
    contract: GraphContract | ContractError
    opset: int
    types: dict[str, int]

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initializer or a Constant; None for what is computed."""
        for weight in self.model.graph.initializer:
            if weight.name == name:
                return numpy_helper.to_array(weight)
        for node in self.nodes("Constant"):
            if node.output[0] == name and node.attribute[0].name == "value":
                return numpy_helper.to_array(node.attribute[0].t)
        return None

    def nodes(self, *operators: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type in operators]


def named(asked: Circumstances) -> str:
    return f"{asked.library} {asked.version}" if asked.version else asked.library


def names_of(nodes: list[onnx.NodeProto]) -> str:
    shown = ", ".join(f"{node.op_type} '{node.name}'" for node in nodes[:3])
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}: {shown}{', ...' * (len(nodes) > 3)}"
