"""A parity report as one HTML page that needs nothing else: plots as inline SVG, pictures as data URIs."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from l2g.evaluation.parity.frame import FrameDifference
from l2g.evaluation.parity.pictures import WorstFrame
from l2g.evaluation.parity.report import ParityReport, by_frame
from l2g.runtime.arrays import DoubleArray

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 26, 34
_COLORS = ("#1f6fb2", "#d1495b", "#2e8b57", "#8a5fbf")
# Below this a difference counts as none: a logarithm needs a floor, and float32 has no finer step around 1.
_FLOOR = 1e-8
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}
.pass{color:#1b7a3d;font-weight:600}.fail{color:#b3261e;font-weight:600}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0 0 1.2rem}img{max-width:100%;border:1px solid #ddd}
figcaption,.note{color:#555;font-size:.9rem}svg text{font:11px system-ui,sans-serif;fill:#444}
"""


@dataclass(frozen=True)
class Line:
    """One curve of a plot: a value per frame, NaN where there is none."""

    name: str
    values: Sequence[float]


def render_page(report: ParityReport) -> str:
    """The page's text."""
    verdict = '<span class="pass">PASS</span>' if report.passed else '<span class="fail">FAIL</span>'
    names = " against ".join(html.escape(name) for name in (report.candidate, report.reference))
    frames = sum(len(video.free) for video in report.videos)
    sections = [
        f"<h1>Parity: {verdict}</h1>",
        f"<p>{names}<br>{len(report.videos)} videos, {frames} frames of {html.escape(report.dataset)}; slots that "
        f"reach a score of {report.confidence:g} count as objects.</p>",
        _checks(report),
        _divergences(report),
        "<h2>Frame by frame</h2>",
        '<p class="note">Teacher-forced: both get the reference\'s state before each frame, which shows the error of '
        "the kernels alone. Free-running: each feeds back its own, which shows drift. Each curve runs over all videos; "
        "first frames are compared after their slots were brought in line.</p>",
        f'<div class="plots">{"".join(_plots(report))}</div>',
        _drift(report),
        _average_precision(report),
        _videos(report),
        _pictures(report.worst),
    ]
    title = html.escape(f"Parity of {report.candidate}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def line_plot(title: str, lines: Sequence[Line], *, log: bool, limit: float | None = None) -> str:
    """An SVG of the lines over the frame number. `log`: powers of ten, else shares of 1; `limit`: a dashed line."""
    values = np.array([line.values for line in lines], dtype=np.float64)
    shown = np.log10(np.maximum(values, _FLOOR)) if log else values
    finite = shown[np.isfinite(shown)]
    limit = None if limit is None or math.isinf(limit) else limit
    extra = [] if limit is None else [math.log10(max(limit, _FLOOR)) if log else limit]
    low, high = _range(np.concatenate([finite, extra]), log)
    count = values.shape[1]

    def x(frame: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * frame / max(1, count - 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - min(value, high)) / (high - low)

    parts = [f'<text x="{_LEFT}" y="15" font-weight="600">{html.escape(title)}</text>']
    for tick in _ticks(low, high, log):
        label = f"1e{tick:.0f}" if log else f"{tick:.4g}"
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#eee"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for frame in sorted({0, (count - 1) // 2, count - 1}):
        parts.append(f'<text x="{x(frame):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{frame}</text>')
    if limit is not None:
        height = y(extra[0])
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#888" '
            'stroke-dasharray="5 4"/>'
        )
    for line, row, color in zip(lines, shown, _COLORS, strict=False):
        parts += _path(row, x, y, color)
        # The legend stands below the frame numbers, one name after the other.
        at = _LEFT + 150 * list(lines).index(line)
        parts.append(
            f'<rect x="{at}" y="{_HEIGHT - 10}" width="10" height="4" fill="{color}"/>'
            f'<text x="{at + 14}" y="{_HEIGHT - 4}">{html.escape(line.name)}</text>'
        )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'


def _path(row: DoubleArray, x: Callable, y: Callable, color: str) -> list[str]:
    """Polylines through the points that are numbers; infinity is drawn at the upper edge."""
    parts: list[str] = []
    points: list[str] = []
    for frame, value in enumerate([*row, float("nan")]):
        if not math.isnan(value):
            points.append(f"{x(frame):.1f},{y(value):.1f}")
        elif points:
            dot = points[0].split(",")
            parts.append(
                f'<circle cx="{dot[0]}" cy="{dot[1]}" r="2.5" fill="{color}"/>'
                if len(points) == 1
                else f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="1.5"/>'
            )
            points = []
    return parts


def _range(values: DoubleArray, log: bool) -> tuple[float, float]:
    if not values.size:
        return (-1.0, 0.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        return math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    return max(0.0, low - max(0.1 * (1 - low), 1e-3)), 1.0


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        step = max(1, round((high - low) / 6))
        return list(np.arange(low, high + 0.5, step))
    return list(np.linspace(low, high, 5))


def _plots(report: ParityReport) -> list[str]:
    def over(measure: Callable[[FrameDifference], float], reduce: Callable) -> list[Line]:
        return [
            Line("teacher-forced", by_frame(report.videos, "forced", measure, reduce)),
            Line("free-running", by_frame(report.videos, "free", measure, reduce)),
        ]

    limit = report.limits.mask_logits
    plots = [
        line_plot("mask logits, largest difference", over(lambda d: d.mask_logits.max, max), log=True, limit=limit),
        line_plot("mask logits, mean difference", over(lambda d: d.mask_logits.mean, np.mean), log=True),
        line_plot("class logits, largest difference", over(lambda d: d.logits.max, max), log=True),
        line_plot("queries, largest difference", over(lambda d: d.queries.max, max), log=True),
        *([line_plot("boxes, largest difference", over(_boxes, max), log=True)] if _has_boxes(report) else []),
        line_plot("mask IoU of the slots that count, mean", over(lambda d: d.mask_iou, np.mean), log=False),
        line_plot("mask IoU of the slots that count, least", over(lambda d: d.worst_iou, min), log=False),
        line_plot("identity agreement, share", over(_agreement, np.mean), log=False),
    ]
    return [f"<figure>{plot}</figure>" for plot in plots]


def _has_boxes(report: ParityReport) -> bool:
    return all(difference.boxes is not None for video in report.videos for difference in video.free)


def _boxes(difference: FrameDifference) -> float:
    return float("nan") if difference.boxes is None else difference.boxes.max


def _agreement(difference: FrameDifference) -> float:
    return difference.agreeing / difference.counting if difference.counting else float("nan")


def _checks(report: ParityReport) -> str:
    rows = []
    for check in report.checks:
        style = {"ok": "pass", "FAIL": "fail", "info": "note"}[check.mark]
        mark = f'<span class="{style}">{check.mark}</span>'
        limit = "none" if check.limit is None else f"{check.limit:g}"
        rows.append([html.escape(check.name), _text(check.value), limit, mark, html.escape(check.detail)])
    limits = f'<p class="note">{html.escape(report.limits_line())}</p>'
    findings = "".join(f"<p>{html.escape(finding)}</p>" for finding in report.findings)
    return _table(("check", "found", "limit", "", ""), rows) + limits + findings


def _divergences(report: ParityReport) -> str:
    lines = []
    for mode, words in (("forced", "teacher-forced"), ("free", "free-running")):
        lines.append(f"First frame beyond tolerance, {words}: {html.escape(report.divergence_text(mode))}.")
    return f"<p>{'<br>'.join(lines)}</p>"


def _drift(report: ParityReport) -> str:
    quarters = report.drift()
    rows = [
        [words, *(_text(quarter[key]) for quarter in quarters)]
        for key, words in (
            ("mask_logits_mean", "mask logits, mean difference"),
            ("mask_iou", "mask IoU of the slots that count"),
            ("identity", "identity agreement, percent"),
        )
    ]
    return "<h2>Drift of the free run, by quarter of the videos</h2>" + _table(
        ("", "first", "second", "third", "last"), rows
    )


def _average_precision(report: ParityReport) -> str:
    if report.ap_reference is None or report.ap_candidate is None:
        return ""
    rows = []
    for name, one in report.ap_reference.items():
        other = report.ap_candidate[name]
        gap = None if one is None or other is None else other - one
        rows.append([html.escape(name), *(("n/a" if v is None else f"{v:.2f}") for v in (one, other)), _text(gap)])
    title = "Average precision" if report.metric == "AP" else "Things and stuff"
    return f"<h2>{title}, percent</h2>" + _table(("", "reference", "candidate", "difference"), rows)


def _videos(report: ParityReport) -> str:
    rows = []
    for video in report.videos:
        forced, free = (report.diverged(video, mode) for mode in ("forced", "free"))
        rows.append(
            [
                html.escape(video.name),
                str(len(video.free)),
                _text(max(d.mask_logits.max for d in video.forced)),
                _text(max(d.mask_logits.max for d in video.free)),
                _text(min((d.worst_iou for d in video.free if d.counting), default=None)),
                *("none" if frame is None else str(frame) for frame in (forced, free)),
            ]
        )
    head = ("video", "frames", "mask logits, forced", "free", "least IoU, free", "diverges, forced", "free")
    return "<h2>Videos</h2>" + _table(head, rows)


def _pictures(worst: Sequence[WorstFrame]) -> str:
    if not worst:
        return ""
    figures = [
        f'<figure><img alt="frame {frame.frame}" src="data:image/png;base64,'
        f'{base64.b64encode(frame.png).decode("ascii")}">'
        f"<figcaption>{html.escape(frame.video)}, frame {frame.frame}: {frame.free.agreeing} of "
        f"{frame.free.counting} objects agree, least IoU {_text(frame.free.worst_iou)}, mask logits "
        f"{_text(frame.forced.mask_logits.max)} teacher-forced, {_text(frame.free.mask_logits.max)} free"
        "</figcaption></figure>"
        for frame in worst
    ]
    note = "Free run. Left the reference, middle the candidate, right in red where a slot's masks differ."
    return f'<h2>Worst frames</h2><p class="note">{note}</p>' + "".join(figures)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + f"</tr>{body}</table>"


def _text(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.4g}"
