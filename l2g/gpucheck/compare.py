"""Two checks side by side: two machines, or one before and after a change."""

from __future__ import annotations

from dataclasses import dataclass

from l2g.gpucheck.report import Figure, Report

# Of all that is measured, what two checks are compared by; less is better for those in the first set.
LESS, MORE = {"median", "p99", "energy of a frame"}, {"AP", "rate, all streams"}


@dataclass(frozen=True)
class Pair:
    """One quantity in both checks."""

    one: Figure
    other: Figure

    @property
    def ratio(self) -> float | None:
        """How many times `one` the `other` is."""
        if not self.one.value or self.other.value is None:
            return None
        return self.other.value / self.one.value


@dataclass(frozen=True)
class Comparison:
    """pairs: what both measured. worse: what held in the first and is beyond its limit, or broken, in the second.
    only: names of steps with numbers in one of them."""

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    worse: tuple[str, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]

    def text(self) -> str:
        lines = [f"{'':<62}{'A':>12}{'B':>12}{'B / A':>9}", f"A: {self.names[0]}", f"B: {self.names[1]}"]
        for pair in self.pairs:
            one = pair.one
            where = ", ".join(filter(None, (one.subject, one.runs_on)))
            streams = "" if one.streams is None else f", {one.streams} streams"
            name = f"{where}{streams}: {one.quantity} {one.unit}"
            ratio = "" if pair.ratio is None else f"{pair.ratio:9.2f}"
            lines.append(f"{name:<62}{_short(one.value):>12}{_short(pair.other.value):>12}{ratio}")
        for letter, names in zip("AB", self.only, strict=True):
            lines += [f"only in {letter}: {name}" for name in names]
        lines += [f"worse in B: {line}" for line in self.worse]
        return "\n".join(lines)


def compare(one: Report, other: Report) -> Comparison:
    """`other` against `one`."""
    figures = [{f.key: f for outcome in report.outcomes for f in outcome.figures} for report in (one, other)]
    shared = [key for key in figures[0] if key in figures[1] and key[3] in LESS | MORE]
    measured = [[outcome.step for outcome in report.outcomes if outcome.figures] for report in (one, other)]
    held = {figure.key for outcome in one.outcomes for figure in outcome.figures if figure.passed}
    worse = [
        f"{figure.subject}, {figure.runs_on}: {figure.quantity} {_short(figure.value)} (limit {figure.limit})"
        for figure in other.refused
        if figure.key in held
    ]
    sound = {outcome.step for outcome in one.outcomes} - {outcome.step for outcome in one.broken}
    worse += [f"{o.title} {o.status}: {o.reason}" for o in other.broken if o.step in sound]
    return Comparison(
        names=(_named(one), _named(other)),
        pairs=tuple(Pair(figures[0][key], figures[1][key]) for key in shared),
        worse=tuple(worse),
        only=(_missing(*measured), _missing(*reversed(measured))),
    )


def _missing(these: list[str], those: list[str]) -> tuple[str, ...]:
    return tuple(name for name in these if name not in those)


def _named(report: Report) -> str:
    return f"{report.facts.name if report.facts else 'unknown'}, l2g {report.l2g}"


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
