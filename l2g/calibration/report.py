"""What a quantisation found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from l2g.calibration.scoring import Verdict
from l2g.calibration.unit_search import UnitSearch
from l2g.calibration.units import Unit
from l2g.provenance import CalibrationData, DatasetLoss, INT8Verification, Quantisation, Ranges

if TYPE_CHECKING:
    from l2g.calibration.job import QuantizeOptions


@dataclass(frozen=True)
class MethodError:
    """How far the default set changes the outputs when all its ranges are found by one method."""

    method: str
    error: float


@dataclass(frozen=True)
class Report:
    """All of a run. Shares are percent of the arithmetic, AP is in percent, and VPQ stands in its place where that is
    the data set's `metric`; speed is median seconds of a frame.

    judged: (number of units, verdict on each data set) of every set that was run over whole data sets; the last counts.
    library: what judged. lacking: what that could not compute in on this CPU, so that FP32 took its place, "bf16"; None
    where it could. notes: how the classes of model and data sets were matched, where there is something to say.
    """

    model: str
    dataset: str
    calibration: str
    options: QuantizeOptions
    samples: int
    shares: dict[str, float]
    methods: tuple[MethodError, ...]
    method: str
    tensors_by_method: dict[str, int]
    sensitivity: dict[str, float]
    units: tuple[Unit, ...]
    total_flops: int
    search: UnitSearch
    chosen: tuple[str, ...]
    share: float
    default_share: float
    judged: tuple[tuple[int, tuple[Verdict, ...]], ...]
    accepted: bool
    speed: dict[str, float]
    library: str = "onnxruntime"
    lacking: str | None = None
    notes: tuple[str, ...] = ()
    metric: str = "AP"

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.judged[-1][1]

    @property
    def loss(self) -> float:
        """The largest on any data set."""
        return max(verdict.loss for verdict in self.verdicts)

    def facts(self) -> Quantisation:
        """What goes into the contract: how the integers came about."""
        return Quantisation(
            layout=self.options.layout,
            scales=self.options.scales,
            units=self.chosen,
            flops_percent=round(self.share, 2),
            ranges=Ranges(self.method, self.tensors_by_method),
            calibration=CalibrationData(
                dataset=self.calibration,
                frames=self.samples,
                state=self.options.state,
                percent={kind: round(share, 1) for kind, share in self.shares.items()},
            ),
        )

    def verification(self) -> INT8Verification:
        """What goes into the contract: what the graph was held to."""
        losses = tuple(_loss(verdict) for verdict in self.verdicts)
        return INT8Verification(f"{self.library} CPU{self._in_place(', ')}", self.options.ap_budget, self.loss, losses)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["judged"] = [
            {"units": count, "datasets": [_loss(v).to_json() for v in found]} for count, found in self.judged
        ]
        return {**data, "loss": self.loss}

    def table(self) -> str:
        """Markdown."""
        lines = [
            f"# INT8 of {self.model}: {'accepted' if self.accepted else 'REFUSED'}",
            "",
            f"Budget: {_budget(self.options.ap_budget)} {self.metric}. Whole data sets, the state fed back:",
            "",
            f"| | frames | {self.metric} FP32 | {self.metric} INT8 | lost | same objects, % | mask IoU with FP32 by "
            "quarter of the videos |",
            "|---|---|---|---|---|---|---|",
            *(_row(verdict) for verdict in self.verdicts),
            "",
            f"Quantised: {self.share:.1f} % of the arithmetic, {len(self.chosen)} of {len(self.units)} units "
            f"(the default set: {self.default_share:.1f} %).",
            f"One frame on this CPU: {1000 * self.speed['fp32']:.1f} ms FP32, {1000 * self.speed['int8']:.1f} ms INT8, "
            f"{self.speed['fp32'] / self.speed['int8']:.2f} times as fast (median, taking turns).",
            f"Layout {self.options.layout}, scales {self.options.scales}{self._in_place('; measured with ')}.",
            "",
            f"Calibrated on {self.samples} frames of {self.calibration}, state: {self.options.state}; "
            + ", ".join(f"{kind} {share:.0f} %" for kind, share in self.shares.items())
            + ".",
            f"Ranges: {self.method} ({', '.join(f'{k} {n}' for k, n in self.tensors_by_method.items())} tensors).",
        ]
        if self.methods:
            errors = ", ".join(f"{item.method} {item.error:.4f}" for item in self.methods)
            lines.append(f"Output error of the default set by method: {errors}.")
        lines += self._why_not_all()
        lines += ["", f"| tried | percent of arithmetic | {self.metric} lost | |", "|---|---|---|---|"]
        for trial in self.search.trials:
            mark = "within" if trial.within else "beyond"
            lines.append(f"| {len(trial.units)} units | {trial.share:.1f} | {trial.loss:+.2f} | {mark} |")
        for count, found in self.judged:
            lines += [f"| {count} units, all of {verdict.dataset} | | {verdict.loss:+.2f} | |" for verdict in found]
        lines += ["", "| unit | percent of arithmetic | output error alone | |", "|---|---|---|---|"]
        for unit in sorted(self.units, key=lambda unit: -self.sensitivity[unit.name]):
            share = 100 * unit.flops / self.total_flops
            mark = "INT8" if unit.name in self.chosen else "excluded" if unit.name in self.search.excluded else ""
            lines.append(f"| {unit.name} | {share:.2f} | {self.sensitivity[unit.name]:.5f} | {mark} |")
        return "\n".join(lines) + "\n"

    def _in_place(self, before: str) -> str:
        """What was measured, where that is not what the graph holds."""
        return f"{before}FP32 in place of {self.lacking.upper()}" if self.lacking else ""

    def _why_not_all(self) -> list[str]:
        candidates = 100 * sum(unit.flops for unit in self.units) / self.total_flops
        lines = [
            f"{100 - candidates:.1f} % of the arithmetic is never quantised: attention products, heads, sampling "
            "offsets and the first convolution."
        ]
        if self.search.excluded:
            lines.append(f"Left out because the budget broke with them: {', '.join(self.search.excluded)}.")
        return lines


def _row(verdict: Verdict) -> str:
    drift = ", ".join(_number(value, ".3f") for value in verdict.drift)
    cells = [
        verdict.dataset,
        verdict.frames,
        f"{verdict.ap_reference:.2f}",
        f"{verdict.ap:.2f}",
        f"{verdict.loss:+.2f}",
    ]
    return "| " + " | ".join(map(str, [*cells, _number(verdict.identity, ".1f"), drift])) + " |"


def _loss(verdict: Verdict) -> DatasetLoss:
    return DatasetLoss(**asdict(verdict), loss=verdict.loss)


def _budget(value: float | None) -> str:
    return "lifted" if value is None else f"{value:g}"


def _number(value: float | None, how: str) -> str:
    return "n/a" if value is None else format(value, how)
