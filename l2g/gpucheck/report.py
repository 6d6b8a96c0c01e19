"""What a check found, as types: numbers, the step that each is of, and the machine that it was."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from l2g.records import Record

SCHEMA_VERSION = 1
# How a step ended. What was cut short is run again by the next call; what failed by itself is not, unless asked for.
DONE, FAILED, CRASHED, TIMED_OUT = "done", "failed", "crashed", "timed out"
UNAVAILABLE, SKIPPED, RUNNING = "not available", "not run", "running"
ENDED = (DONE, FAILED, CRASHED, TIMED_OUT)
BROKEN = (FAILED, CRASHED, TIMED_OUT)


@dataclass(frozen=True)
class Figure(Record):
    """One number.

    subject: what was run, such as "l2g_r50 480x864". runs_on: what ran it, "" where that is the machine itself.
    streams: in a batch, None where there is none. value: None where nothing could be measured. limit, passed: what it
    was held to; None where it is shown and not judged. note: in words, what the number does not say.
    """

    subject: str
    runs_on: str
    quantity: str
    unit: str
    value: float | None
    streams: int | None = None
    limit: float | None = None
    passed: bool | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # JSON has no NaN; what was judged stays judged.
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "value", None)

    @property
    def key(self) -> tuple[str, str, int | None, str]:
        """What two checks are joined by."""
        return self.subject, self.runs_on, self.streams, self.quantity


@dataclass(frozen=True)
class Facts(Record):
    """The machine. device: "cuda" or "cpu", what was checked. gpus: name, compute capability and driver of each.
    libraries: version by name, None where not installed. why_not: by what could run a model here ("PyTorch",
    "TensorRT", ...), the reason why it cannot; "" where it can. details: all that `l2g doctor --json` says.
    """

    device: str
    gpus: tuple[str, ...]
    libraries: dict[str, str | None]
    why_not: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of what was measured: the first GPU, or the processor."""
        if self.device == "cuda" and self.gpus:
            return self.gpus[0]
        return str(self.details.get("cpu", {}).get("model", "a processor"))


@dataclass(frozen=True)
class Outcome(Record):
    """How a step went. reason: why it did not end well, or was not run. seconds: that it took. output: the last lines
    that it printed, where it did not end well."""

    step: str
    title: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    figures: tuple[Figure, ...] = ()
    output: str = ""


@dataclass(frozen=True)
class Report(Record):
    """All of a check so far. complete: whether every step has been tried. facts: None before the machine was looked at.
    options: what was asked for, by name."""

    schema_version: int
    l2g: str
    complete: bool
    options: dict[str, Any]
    facts: Facts | None
    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status in BROKEN)

    @property
    def refused(self) -> tuple[Figure, ...]:
        """Figures beyond their limit."""
        return tuple(figure for outcome in self.outcomes for figure in outcome.figures if figure.passed is False)

    @property
    def passed(self) -> bool:
        return not self.broken and not self.refused
