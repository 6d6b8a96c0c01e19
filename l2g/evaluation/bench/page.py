"""A bench report for people: a table, and one HTML page that needs nothing else."""

from __future__ import annotations

import html

from l2g.evaluation.bench.measure import BenchReport, Measured
from l2g.evaluation.bench.start import Start

_HEADINGS = (
    *("", "precision", "median ms", "p99 ms", "frames/s", "CPU ms"),
    *("cold start s", "kept start s", "cold peak MB", "kept peak MB"),
)
_STARTS = (
    "start, peak: each in a process of its own, to the first results; resident memory that was added, at its peak; "
    "cold: nothing was kept of an earlier start, kept: what the library keeps was there"
)
_BAR = 420
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.best{font-weight:600;color:#1b7a3d}
.note{color:#555;font-size:.9rem}svg text{font:12px system-ui,sans-serif;fill:#444}
"""


def table(report: BenchReport) -> str:
    """Aligned columns, the fastest first, and what is recommended."""
    heads = _heads(report)
    rows = [heads, *(_cells(item) for item in _ordered(report))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"not run: {name}: {reason}" for name, reason in report.left]
    return "\n".join([*lines, conditions(report), _STARTS, verdict(report)])


def _heads(report: BenchReport) -> tuple[str, ...]:
    return (*_HEADINGS, *([report.metric] if report.dataset else []))


def conditions(report: BenchReport) -> str:
    height, width = report.canvas
    threads = "the libraries' own number of threads" if report.threads is None else f"{report.threads} threads"
    return (
        f"{height}x{width}, one stream, {report.frames} interleaved frames, {threads}, {report.cores} cores; "
        f"load of the machine {report.load[0]:.1f} before, {report.load[1]:.1f} after"
    )


def verdict(report: BenchReport) -> str:
    within = f"within {report.ap_budget:g} {report.metric} of {report.reference}"
    if report.recommended is None:
        return f"recommended: none is {within}"
    if report.dataset is None:
        return f"fastest: {report.recommended}; give --dataset to know what it costs"
    return f"recommended: {report.recommended}, the fastest {within} on {report.dataset}"


def render_page(report: BenchReport) -> str:
    """The page's text."""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in _heads(report))
    rows = "".join(
        f"<tr{' class=best' if item.name == report.recommended else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(item))
        + "</tr>"
        for item in _ordered(report)
    )
    left = "".join(f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in report.left)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bench</title><style>{_STYLE}</style></head>'
        f"<body><h1>Bench</h1><p>{html.escape(verdict(report))}</p>"
        f'<p class="note">{html.escape(conditions(report))}</p><table><tr>{heads}</tr>{rows}</table>'
        f"<h2>Milliseconds a frame</h2>{_bars(report)}"
        '<p class="note">Bars: median; the line to their right ends at the 99th percentile. CPU: all threads together. '
        f"{html.escape(_STARTS[0].upper() + _STARTS[1:])}.</p>"
        + (f"<h2>Not run here</h2><ul>{left}</ul>" if left else "")
        + "</body></html>\n"
    )


def _bars(report: BenchReport) -> str:
    rows = _ordered(report)
    longest = max(item.p99 for item in rows)
    parts = []
    for number, item in enumerate(rows):
        top, end, far = 26 * number, _BAR * item.median / longest, _BAR * item.p99 / longest
        color = "#1b7a3d" if item.name == report.recommended else "#1f6fb2"
        parts.append(
            f'<rect x="400" y="{top + 4}" width="{end:.1f}" height="16" fill="{color}"/>'
            f'<line x1="{400 + end:.1f}" x2="{400 + far:.1f}" y1="{top + 12}" y2="{top + 12}" stroke="#444"/>'
            f'<text x="392" y="{top + 17}" text-anchor="end">{html.escape(item.name)}</text>'
            f'<text x="{406 + far:.1f}" y="{top + 17}">{item.median:.1f}</text>'
        )
    return f'<svg width="{_BAR + 500}" height="{26 * len(rows) + 4}" role="img">{"".join(parts)}</svg>'


def _ordered(report: BenchReport) -> list[Measured]:
    return sorted(report.measured, key=lambda item: item.median)


def _cells(item: Measured) -> tuple[str, ...]:
    return (
        item.name,
        item.precision,
        f"{item.median:.1f}",
        f"{item.p99:.1f}",
        f"{item.rate:.2f}",
        f"{item.cpu:.1f}",
        *(f"{start.seconds:.1f}" if start else "" for start in (item.cold, item.kept)),
        *(_megabytes(start) for start in (item.cold, item.kept)),
        *([] if item.ap is None else [f"{item.ap:.2f}"]),
    )


def _megabytes(start: Start | None) -> str:
    return "" if start is None else "unknown" if start.peak is None else f"{start.peak / 1e6:.0f}"
