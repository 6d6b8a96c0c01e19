"""A report for people: a summary for the terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from l2g.gpucheck.report import BROKEN, DONE, RUNNING, SKIPPED, UNAVAILABLE, Figure, Outcome, Report

_BAR = 420
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
.numbers td{white-space:nowrap}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
.pass{color:#1b7a3d;font-weight:600}.fail{color:#b3261e;font-weight:600}.note{color:#555;font-size:.9rem}
pre{background:#f6f6f6;padding:.6rem;overflow:auto;font-size:.85rem}svg text{font:12px system-ui,sans-serif;fill:#444}
"""
# Headings of the page by the steps that they stand over.
_GROUPS = (
    ("parity-", "Is it right?"),
    ("verify-", "Do engines give their graphs' numbers?"),
    ("floors", "What the device does at best"),
    ("latency-", "How fast is it?"),
    ("capture-", "A frame as one CUDA graph"),
    ("video", "Video"),
)


def summary(report: Report) -> str:
    """What counts, in lines: medians, what is beyond its limits, what broke, what was not run and why."""
    lines = [_verdict(report), *_medians(report)]
    lines += [f"beyond its limit: {_told(figure)}" for figure in report.refused]
    lines += [f"{o.status}: {o.title}: {o.reason}" for o in report.broken]
    return "\n".join([*lines, *(f"{status}: {reason}: {what}" for status, reason, what in _absences(report))])


def render_page(report: Report) -> str:
    """The page's text."""
    name = html.escape(report.facts.name if report.facts else "not yet known")
    mark = "pass" if report.passed else "fail"
    parts = [
        f"<h1>GPU check: {name}</h1>",
        f'<p class="{mark}">{html.escape(_verdict(report))}</p>',
        f'<p class="note">{html.escape(_conditions(report))}</p>',
        *(_group(heading, [o for o in report.outcomes if o.step.startswith(prefix)]) for prefix, heading in _GROUPS),
        _broken(report),
        _absent(report),
        _machine(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>GPU check: {name}</title><style>{_STYLE}</style></head><body>" + "\n".join(parts) + "</body></html>\n"
    )


def _verdict(report: Report) -> str:
    done = sum(outcome.status == DONE for outcome in report.outcomes)
    judged = sum(figure.passed is not None for outcome in report.outcomes for figure in outcome.figures)
    text = (
        f"{done} of {len(report.outcomes)} steps done; {judged - len(report.refused)} of {judged} judged numbers hold"
    )
    if report.broken:
        text += f"; broken: {len(report.broken)}"
    return text if report.complete else f"{text}; the check is not over, the same command goes on"


def _conditions(report: Report) -> str:
    height, width = report.options["size"]
    return (
        f"l2g {report.l2g}; {', '.join(report.options['models'])}; latency at {height}x{width} with "
        f"{', '.join(map(str, report.options['streams']))} streams, {report.options['frames']} frames each; a frame "
        "goes in from the host's memory and its results come back to it"
    )


def _medians(report: Report) -> list[str]:
    return [
        f"{figure.subject:<24}{figure.runs_on:<26}{_streams(figure):<10}{figure.value:10.2f} ms"
        for figure in _figures(report.outcomes)
        if figure.quantity == "median" and figure.value is not None
    ]


def _figures(outcomes: Iterable[Outcome]) -> list[Figure]:
    return [figure for outcome in outcomes for figure in outcome.figures]


def _streams(figure: Figure) -> str:
    return "" if figure.streams is None else f"{figure.streams} stream{'s' * (figure.streams > 1)}"


def _told(figure: Figure) -> str:
    where = ", ".join(filter(None, (figure.subject, figure.runs_on)))
    return f"{where}: {figure.quantity} {_value(figure)} (limit {figure.limit:g}) {figure.note}".rstrip()


def _value(figure: Figure) -> str:
    return "n/a" if figure.value is None else f"{figure.value:.4g}" if figure.value < 1e4 else f"{figure.value:.0f}"


def _group(heading: str, outcomes: Sequence[Outcome]) -> str:
    figures = _figures(outcomes)
    if not figures:
        return ""
    bars = _bars([figure for figure in figures if figure.quantity == "median" and figure.value is not None])
    return f"<h2>{html.escape(heading)}</h2>{bars}{_table(figures)}"


def _table(figures: Sequence[Figure]) -> str:
    """A row for what was run, a column for each quantity."""
    columns = list(dict.fromkeys((figure.quantity, figure.unit) for figure in figures))
    rows: dict[tuple[str, str, int | None], dict[tuple[str, str], Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.key[:3], {})[figure.quantity, figure.unit] = figure
    heads = "".join(f"<th>{html.escape(', '.join(filter(None, column)))}</th>" for column in columns)
    body = ""
    for (subject, runs_on, streams), found in rows.items():
        cells = "".join(f"<td>{_cell(found.get(column))}</td>" for column in columns)
        shown = "" if streams is None else str(streams)
        body += f"<tr><td>{html.escape(subject)}</td><td>{html.escape(runs_on)}</td><td>{shown}</td>{cells}</tr>"
    return f'<table class="numbers"><tr><th></th><th></th><th>streams</th>{heads}</tr>{body}</table>'


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = html.escape(_value(figure))
    if figure.passed is not None:
        limit = "" if figure.limit is None else f" (limit {figure.limit:g})"
        text = f'<span class="{"pass" if figure.passed else "fail"}">{text}</span>{limit}'
    return f'<span title="{html.escape(figure.note, quote=True)}">{text}</span>' if figure.note else text


def _bars(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    longest = max(figure.value or 0 for figure in figures) or 1
    parts = []
    for number, figure in enumerate(figures):
        top, end = 22 * number, _BAR * (figure.value or 0) / longest
        name = html.escape(f"{figure.subject}, {figure.runs_on}, {_streams(figure)}")
        parts.append(
            f'<rect x="400" y="{top + 3}" width="{end:.1f}" height="14" fill="#1f6fb2"/>'
            f'<text x="392" y="{top + 15}" text-anchor="end">{name}</text>'
            f'<text x="{406 + end:.1f}" y="{top + 15}">{figure.value or 0:.2f} ms</text>'
        )
    return f'<svg width="{_BAR + 500}" height="{22 * len(figures) + 4}" role="img">{"".join(parts)}</svg>'


def _broken(report: Report) -> str:
    parts = [
        f"<h3>{html.escape(outcome.title)}</h3><p>{html.escape(f'{outcome.status}: {outcome.reason}')}</p>"
        f"<pre>{html.escape(outcome.output)}</pre>"
        for outcome in report.outcomes
        if outcome.status in BROKEN
    ]
    return "<h2>What broke</h2>" + "".join(parts) if parts else ""


def _absent(report: Report) -> str:
    items = "".join(
        f"<li>{html.escape(reason or status)}<br><span class=note>{html.escape(what)}</span></li>"
        for status, reason, what in _absences(report)
    )
    return f"<h2>Not measured</h2><ul>{items}</ul>" if items else ""


def _absences(report: Report) -> list[tuple[str, str, str]]:
    """(status, reason, what was not measured for it), a reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for outcome in report.outcomes:
        if outcome.status in (UNAVAILABLE, SKIPPED, RUNNING):
            found.setdefault((outcome.status, outcome.reason), []).append(outcome.step)
        for figure in outcome.figures:
            if figure.value is None and figure.passed is None:
                where = ", ".join(filter(None, (figure.subject, figure.runs_on, _streams(figure))))
                what = f"{where}: {figure.quantity}"
                found.setdefault((UNAVAILABLE, figure.note.removeprefix("not available: ")), []).append(what)
    return [(status, reason, ", ".join(what)) for (status, reason), what in found.items()]


def _machine(report: Report) -> str:
    if report.facts is None:
        return ""
    rows = [("GPU", gpu) for gpu in report.facts.gpus]
    rows += [(name, version or "not installed") for name, version in report.facts.libraries.items()]
    body = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>The machine</h2><table>{body}</table>"
