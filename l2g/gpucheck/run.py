"""The check itself: step after step in a process and a time of its own, and a report that is always on the disk.

This process loads no inference library, so nothing that a step does ends it; and what ends it, SIGKILL included, leaves
the report of a moment ago. The next call with the same folder goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import l2g
from l2g.config import PRESETS
from l2g.errors import DataError, L2GError
from l2g.files import locked, read_json, sha256_of_file, write_bytes, write_json, write_text
from l2g.gpucheck.child import RANDOM
from l2g.gpucheck.notebook import FACTS_FILE, OPTIONS_FILE, figures_file
from l2g.gpucheck.page import render_page
from l2g.gpucheck.plan import Options, Step, plan
from l2g.gpucheck.report import (
    BROKEN,
    CRASHED,
    DONE,
    ENDED,
    FAILED,
    RUNNING,
    SCHEMA_VERSION,
    SKIPPED,
    TIMED_OUT,
    UNAVAILABLE,
    Facts,
    Figure,
    Outcome,
    Report,
)

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
# What runs a step: its name, the folder and the device follow.
CHILD = (sys.executable, "-m", "l2g.gpucheck.child")
_TICK = 0.2  # seconds between two looks at a running step
_GRACE = 5.0  # seconds between asking a process to end and ending it
_LAST_LINES = 12
Tell = Callable[[str], None]


@dataclass(frozen=True)
class How:
    """How a check is run, which changes nothing of what its numbers mean.

    device: "cuda" or "cpu". prepare: only what needs no device. retry: also what failed before. only: steps whose names
    hold one of these words, and what they need. minutes: no step begins after that. L2GError for none of them.
    """

    device: str = "cuda"
    prepare: bool = False
    retry: bool = False
    only: tuple[str, ...] = ()
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise L2GError(f"{self.minutes:g} minutes found, more than 0 expected")


class NoGpuError(L2GError):
    """There is none on this machine."""


def check(folder: Path, options: Options, how: How, tell: Tell = lambda line: None) -> Report:
    """Run or go on with the check in `folder`.

    Raises L2GError for a folder of another check or of another machine's numbers, NoGpuError where there is no GPU to
    be checked; KeyboardInterrupt after Ctrl-C, the report complete up to there.
    """
    with locked(folder):
        _keep_options(folder, options)
        run = _Check(folder, options, how, tell)
        return run.run()


def carry(folder: Path, models: Sequence[str]) -> tuple[str, ...]:
    """Copy checkpoint files into the folder of a check, so that it can go to another machine as a whole; the names of
    all models. L2GError for what is no preset, for a file neither there nor in the folder, and for one that is not the
    one in the folder, whose numbers may be there."""
    names = []
    for model in models:
        if model in PRESETS:
            names.append(model)
            continue
        path = Path(model)
        target = folder / "models" / path.name
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, path.read_bytes())
        elif path.is_file() and sha256_of_file(path) != sha256_of_file(target):
            raise L2GError(
                f"{path}: another file than {target}, which this check measures; give another --output, or the file "
                "another name"
            )
        if not path.suffix or not target.exists():
            raise L2GError(f"{model}: no such file; give a checkpoint, or one of {', '.join(PRESETS)}")
        names.append(path.name)
    return tuple(names)


def read_report(path: Path) -> Report:
    """A report.json; DataError for anything else."""
    try:
        data = read_json(path, dict)
        if data.get("schema_version") != SCHEMA_VERSION:
            raise DataError(f"{path}: schema {data.get('schema_version')} found, {SCHEMA_VERSION} expected")
        return Report.from_json(data)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a report of l2g gpu-check ({error}); give its report.json") from None


def _keep_options(folder: Path, options: Options) -> None:
    """Write them down for the steps; L2GError where the folder has something of a check with others."""
    path = folder / OPTIONS_FILE
    started = any(file.name != "machine.json" for file in (folder / "steps").glob("*.json"))
    if path.exists() and started:
        before, new = read_json(path, dict), json.loads(json.dumps(options.to_json()))
        if changed := sorted(name for name in new if before.get(name) != new[name]):
            name = changed[0]
            raise L2GError(
                f"{folder}: holds a check with {name} {before.get(name)}, {new[name]} asked for; give the same options "
                "to go on with it, or another --output"
            )
    write_json(path, options.to_json())


class _Check:
    def __init__(self, folder: Path, options: Options, how: How, tell: Tell):
        self.folder, self.options, self.how, self.tell = folder, options, how, tell
        self.steps = plan(options, RANDOM)
        self.began = time.monotonic()
        self.facts: Facts | None = None
        self.measured_on: Facts | None = None  # another machine's, whose numbers are in the folder
        self.outcomes: dict[str, Outcome] = {}
        (folder / "steps").mkdir(exist_ok=True)
        for step in self.steps:
            if (outcome := self._kept(step)) is not None:
                self.outcomes[step.name] = outcome

    def run(self) -> Report:
        machine, *rest = self.steps
        self._look_at(machine)
        wanted = self._wanted(rest)
        for number, step in enumerate(wanted, 1):
            kept = self.outcomes.get(step.name)
            if kept is not None and kept.status in ENDED and not (self.how.retry and kept.status in BROKEN):
                continue
            if step.output is not None and (self.folder / step.output).exists():
                # What a command makes appears whole or not at all, so what is there is done.
                self._keep(Outcome(step.name, step.title, DONE))
                continue
            if (reason := self._why_not(step)) is not None:
                self._keep(Outcome(step.name, step.title, *reason))
                continue
            self.tell(f"[{number}/{len(wanted)}] {step.title}")
            self._keep(self._run(step))
            self._tell_end(self.outcomes[step.name])
        return self._write(complete=True)

    def _kept(self, step: Step) -> Outcome | None:
        """What an earlier call found; None for what it did not finish."""
        path = self._outcome_file(step.name)
        if (made := step.output) is not None and not (self.folder / made).exists():
            return None
        try:
            return Outcome.from_json(read_json(path, dict)) if path.exists() else None
        except (DataError, TypeError, ValueError):
            return None  # of an older version, or damaged: it is measured again

    def _outcome_file(self, name: str) -> Path:
        return self.folder / "steps" / f"{name}.json"

    def _look_at(self, machine: Step) -> None:
        """Every call looks anew: the folder may have come from another machine."""
        before = self._facts()
        self.tell(machine.title)
        outcome = self._run(machine)
        self._keep(outcome)
        self.facts = self._facts()
        if outcome.status != DONE or self.facts is None:
            raise L2GError(f"the machine cannot be looked at: {outcome.reason}")
        measured = any(step.name in self.outcomes for step in self.steps if step.device and not step.makes)
        other = before if measured and before is not None and before.name != self.facts.name else None
        if other is not None:
            write_json(self.folder / FACTS_FILE, other.to_json())
            self.measured_on = other
        if self.how.prepare:
            return
        if self.how.device == "cuda" and not self.facts.gpus:
            raise NoGpuError(
                "no GPU was found (nvidia-smi, CUDA bindings); run this where there is one, with --prepare make here "
                "what needs none, or give --device cpu to run the same on the processor"
            )
        if other is not None:
            raise L2GError(
                f"{self.folder}: holds the numbers of {other.name}, this is {self.facts.name}; give another --output"
            )

    def _facts(self) -> Facts | None:
        try:
            return Facts.from_json(read_json(self.folder / FACTS_FILE, dict))
        except (DataError, TypeError, ValueError):
            return None

    def _wanted(self, steps: Sequence[Step]) -> list[Step]:
        """The steps of this call: what is asked for, and what that needs; what nothing here needs is not made."""
        by_name = {step.name: step for step in steps}
        asked = [step for step in steps if not step.makes and self._matches(step)]
        names: set[str] = set()

        def want(step: Step) -> None:
            names.add(step.name)
            for need in step.needs:
                want(by_name[need])

        for step in asked:
            if self.how.prepare or self._unavailable(step) is None:
                want(step)
            names.add(step.name)
        if not asked:
            raise L2GError(f"no step is named so: {', '.join(self.how.only)}; see the names in {REPORT_FILE}")
        chosen = [step for step in steps if step.name in names]
        return [step for step in chosen if not step.device] if self.how.prepare else chosen

    def _matches(self, step: Step) -> bool:
        return not self.how.only or any(word in step.name for word in self.how.only)

    def _unavailable(self, step: Step) -> str | None:
        """Why this machine cannot do it."""
        assert self.facts is not None
        if step.kind == "capture" and self.how.device == "cpu":
            return "CUDA graphs need a GPU"
        if step.makes and not step.device:
            absent = step.builds and self.facts.libraries.get(step.builds) is None
            return f"{step.builds} is not installed" if absent else None
        if step.way is None:
            return None
        if self.how.device == "cpu" and not step.way.everywhere:
            return f"{step.way.name} is for a GPU"
        return self.facts.why_not.get(step.way.library) or None

    def _why_not(self, step: Step) -> tuple[str, str] | None:
        """(status, reason) where a step is not run."""
        if (reason := self._unavailable(step)) is not None:
            return UNAVAILABLE, reason
        for need in step.needs:
            done = self.outcomes.get(need)
            if done is None or done.status != DONE:
                why = f"{done.status}: {done.reason}" if done else "was not made"
                return SKIPPED, f"it needs {need}, which {why}"
        return (SKIPPED, self._time_is_up) if self._seconds_left() <= 0 else None

    def _seconds_left(self) -> float:
        """Of the minutes that were given; endless where none were."""
        return math.inf if self.how.minutes is None else 60 * self.how.minutes - (time.monotonic() - self.began)

    @property
    def _time_is_up(self) -> str:
        return f"{self.how.minutes or 0:g} minutes were over; the same command goes on"

    def _run(self, step: Step) -> Outcome:
        """Run a step until it ends, or its time is over; the report is written whenever it has found something."""
        figures = figures_file(self.folder, step.name)
        figures.unlink(missing_ok=True)
        left = max(self._seconds_left(), 1.0) if step.kind != "machine" else step.limit
        limit = min(step.limit, left)
        log = self.folder / "steps" / f"{step.name}.log"
        began = time.monotonic()
        seen: float | None = None
        log.unlink(missing_ok=True)  # a link would lead to somebody's file
        with log.open("x+b") as output:
            process = subprocess.Popen(
                [*CHILD, step.name, str(self.folder.resolve()), self.how.device],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=_environment(),
            )  # fmt: skip
            try:
                while process.poll() is None and time.monotonic() - began < limit:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_TICK)
                    if (changed := _changed(figures)) != seen:
                        seen = changed
                        self._show(self._outcome(step, RUNNING, "", began))
                timed_out = process.poll() is None
            finally:
                _end(process)
        if timed_out and limit < step.limit:
            return self._outcome(step, SKIPPED, f"not finished, {self._time_is_up}", began)
        if timed_out:
            return self._outcome(step, TIMED_OUT, f"took more than {limit:g} s", began)
        status, reason = _verdict(process.returncode, _tail(log))
        return self._outcome(step, status, reason, began)

    def _outcome(self, step: Step, status: str, reason: str, began: float) -> Outcome:
        path = figures_file(self.folder, step.name)
        figures: tuple[Figure, ...] = ()
        with contextlib.suppress(DataError, TypeError, ValueError):
            if path.exists():
                figures = tuple(Figure.from_json(item) for item in read_json(path, list))
        output = "" if status in (DONE, RUNNING) else _tail(self.folder / "steps" / f"{step.name}.log")
        seconds = round(time.monotonic() - began, 1)
        return Outcome(step.name, step.title, status, reason, seconds, figures, output)

    def _keep(self, outcome: Outcome) -> None:
        if outcome.status in ENDED:
            write_json(self._outcome_file(outcome.step), outcome.to_json())
            figures_file(self.folder, outcome.step).unlink(missing_ok=True)
        self._show(outcome)

    def _show(self, outcome: Outcome) -> None:
        self.outcomes[outcome.step] = outcome
        self._write()

    def _write(self, complete: bool = False) -> Report:
        report = Report(
            schema_version=SCHEMA_VERSION,
            l2g=l2g.__version__,
            complete=complete,
            options=self.options.to_json(),
            facts=self.measured_on or self.facts,
            outcomes=tuple(self.outcomes[step.name] for step in self.steps if step.name in self.outcomes),
        )
        write_json(self.folder / REPORT_FILE, report.to_json())
        write_text(self.folder / PAGE_FILE, render_page(report))
        return report

    def _tell_end(self, outcome: Outcome) -> None:
        if outcome.status != DONE:
            self.tell(f"    {outcome.status}: {outcome.reason}")
        for figure in outcome.figures:
            if figure.passed is False:
                self.tell(f"    beyond its limit: {figure.subject}: {figure.quantity} {figure.value}")


def _environment() -> dict[str, str]:
    """Of a step, which runs in another folder: it imports the same l2g as this process."""
    here = Path(l2g.__file__).resolve().parents[1]
    paths = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if here.name not in ("site-packages", "dist-packages"):
        paths.insert(0, str(here))
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it started; one that the system cannot end (a driver that hangs) is left to itself."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
    _signal(process, signal.SIGKILL)  # what did not listen, and what it started and left


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the step and whatever it started; then wait for the step, a little while."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)


def _verdict(code: int, output: str) -> tuple[str, str]:
    if code == 0:
        return DONE, ""
    lines = [line for line in output.splitlines() if line.strip()]
    told = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return CRASHED, f"ended by {name}" + (f" after: {lines[-1]}" if lines else "")
    return FAILED, told or (lines[-1] if lines else f"exit code {code}, without a word")


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
    return ""
