"""How a graph was made and what it was held to: the typed content of a contract's `build`. Imports neither torch nor a
library of graphs.

Every start of a runtime reads these records: their types are no text that has to be worked out.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from l2g.records import Record, plain


@dataclass(frozen=True)
class Verification(Record):
    """A float32 graph against the model: the largest absolute difference of each output over all steps.

    library: what ran the graph. rollouts: (streams, frames) of each. ties: steps at which the graph decided a tie
    otherwise than the model; those were compared with the model's decisions put into the graph.
    """

    library: str
    rollouts: tuple[tuple[int, int], ...]
    differences: dict[str, float]
    tolerances: dict[str, float]
    ties: int


@dataclass(frozen=True)
class ReducedVerification(Record):
    """An FP16 or BF16 graph against the model, over all steps, each from the model's own state.

    library: what ran the graph. differences: the largest absolute difference of each output. errors: the root mean
    square of all differences; limits: what was allowed, a multiple of what rounding the weights alone costs.
    largest_activation: the reduced tensor that comes nearest to its type's end, and its largest magnitude in float32.
    float32: the verification of the float32 graph that this one was made from.
    """

    library: str
    rollouts: tuple[tuple[int, int], ...]
    differences: dict[str, float]
    errors: dict[str, float]
    limits: dict[str, float]
    largest_activation: tuple[str, float]
    float32: Verification = field(repr=False)


@dataclass(frozen=True)
class DatasetLoss(Record):
    """What an INT8 graph lost on a whole data set.

    ap_reference, ap: percent, of the float32 graph and of this one; loss: percent points. identity: percent of the
    objects seen that both hold in the same slot. drift: per quarter of the videos, mean mask IoU of the free run.
    """

    dataset: str
    frames: int
    ap_reference: float
    ap: float
    identity: float | None
    drift: tuple[float | None, ...]
    loss: float


@dataclass(frozen=True)
class INT8Verification(Record):
    """An INT8 graph against its float32 graph. ap_budget, loss: percent points; loss is the largest of all data sets,
    a budget of None was lifted."""

    library: str
    ap_budget: float | None
    loss: float
    datasets: tuple[DatasetLoss, ...]


@dataclass(frozen=True)
class Ranges(Record):
    """method: how the ranges of tensors were found, or "auto". tensors: how many were found by each method."""

    method: str
    tensors: dict[str, int]


@dataclass(frozen=True)
class CalibrationData(Record):
    """What the ranges were observed on. state: what stood in the state's place. percent: of the frames, by kind."""

    dataset: str
    frames: int
    state: str
    percent: dict[str, float]


@dataclass(frozen=True)
class Quantisation(Record):
    """How a graph came by its integers. units: what is quantised; flops_percent: their share of the arithmetic."""

    layout: str
    scales: str
    units: tuple[str, ...]
    flops_percent: float
    ranges: Ranges
    calibration: CalibrationData


# Written even where they are None, since "none" says something of an exported graph.
_NULLABLE = ("plugin_version", "checkpoint", "checkpoint_sha256")


@dataclass(frozen=True)
class BuildFacts(Record):
    """How an artifact was made; None is what is not known of it.

    precision: "fp32", "fp16", "bf16" or "int8"; fp32_blocks: what stays float32 in an FP16 or BF16 graph. lowering,
    target, opset, max_streams, plugin_version, simplified: as the options of an export. checkpoint: its file's name,
    checkpoint_sha256 its sum. versions: of the libraries that took part, by name. graph_bytes: length of the graph
    before the contract, graph_sha256 its sum. verification: what the graph was held to. int8: how it was quantised,
    from the graph of the sum float32_sha256 that was itself held to float32_verification. more: what another version
    of this package says besides.
    """

    precision: str | None = None
    fp32_blocks: tuple[str, ...] | None = None
    lowering: str | None = None
    target: str | None = None
    opset: int | None = None
    max_streams: int | None = None
    plugin_version: str | None = None
    simplified: bool | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    graph_bytes: int | None = None
    graph_sha256: str | None = None
    verification: Verification | ReducedVerification | INT8Verification | None = None
    int8: Quantisation | None = None
    float32_sha256: str | None = None
    float32_verification: Verification | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Only what is known; `more` at the end."""
        exported = self.lowering is not None
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "more"}
        kept = {
            name: plain(value)
            for name, value in known.items()
            if value not in (None, {}) or (exported and name in _NULLABLE)
        }
        return {**kept, **self.more}

    @classmethod
    def from_json(cls, data: object, where: str = "build") -> "BuildFacts":
        if not isinstance(data, dict):
            raise TypeError(f"{where}: found {type(data).__name__}, expected an object")
        known = {item.name for item in fields(cls)} - {"more"}
        ours = {name: value for name, value in data.items() if name in known}
        # A record of another form informs people and steers nothing: no reason to refuse the file.
        for name in ("verification", "int8", "float32_verification"):
            try:
                super().from_json({name: ours.get(name)}, where)
            except (TypeError, ValueError):
                del ours[name]
        more = {name: value for name, value in data.items() if name not in ours}
        return super().from_json({**ours, "more": more}, where)
