"""How a run went, for people: lines for the terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from l2g.batch.records import DAMAGED, DONE, FAILED, Settings
from l2g.runtime.video.live.address import without_password

if TYPE_CHECKING:
    from l2g.batch.run import Progress

_WIDTH, _HEIGHT = 640, 180
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1000px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td+td{overflow-wrap:anywhere}.note{color:#555;font-size:.9rem}svg text{font:12px system-ui,sans-serif;fill:#444}
"""


def verdict(progress: Progress) -> str:
    """One line: what became of the videos."""
    counts = progress.counts
    parts = [f"{counts[DONE]} done", f"{counts[DAMAGED]} damaged", f"{counts[FAILED]} failed"]
    left = progress.total - progress.videos
    parts += [f"{left} not begun or in flight when it was stopped"] if left > 0 else []
    parts += [f"{progress.before} of them before"] if progress.before else []
    return f"{progress.total} videos: {', '.join(parts)}"


def rate(progress: Progress) -> str:
    """One line: how fast it went."""
    new = progress.videos - progress.before
    seconds = max(progress.seconds, 1e-9)
    return (
        f"{progress.frames} frames of {new} videos in {progress.seconds:.1f} s "
        f"({new / seconds:.2f} videos/s, {progress.frames / seconds:.1f} frames/s)"
    )


def render_page(progress: Progress, settings: Settings, given: str) -> str:
    """The page's text."""
    facts = {
        "input": without_password(given),
        "model": settings.model,
        "retries": str(max(0, progress.attempts - (progress.videos - progress.before))),
        "seconds of work a video": f"{progress.work_seconds / max(1, progress.videos - progress.before):.3f}",
    }
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in facts.items())
    named = "".join(
        f"<tr><td>{html.escape(each.name)}</td><td>{each.status}</td><td>{html.escape(each.error or '')}</td></tr>"
        for each in progress.named
    )
    wrong = progress.counts[DAMAGED] + progress.counts[FAILED]
    more = f"; the first {len(progress.named)}" if wrong > len(progress.named) else ""
    stopped = "<p>It was stopped; the same command goes on from here.</p>" if progress.interrupted else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Batch</title><style>{_STYLE}</style></head>'
        f"<body><h1>Batch</h1><p>{html.escape(verdict(progress))}</p>{stopped}"
        f'<p class="note">{html.escape(rate(progress))}</p><table>{rows}</table>'
        f"<h2>Videos over time</h2>{_curve(progress)}"
        + (f"<h2>What went wrong ({wrong}{more})</h2><table>{named}</table>" if named else "")
        + '<p class="note">A row a video is in manifest.parquet.</p></body></html>\n'
    )


def _curve(progress: Progress) -> str:
    points = [(0.0, 0), *progress.points]
    across, up = max(points[-1][0], 1e-9), max(progress.total, 1)
    line = " ".join(
        f"{50 + _WIDTH * seconds / across:.1f},{10 + _HEIGHT * (1 - videos / up):.1f}" for seconds, videos in points
    )
    return (
        f'<svg width="{_WIDTH + 120}" height="{_HEIGHT + 40}" role="img">'
        f'<rect x="50" y="10" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ddd"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f6fb2" stroke-width="2"/>'
        f'<text x="44" y="20" text-anchor="end">{progress.total}</text>'
        f'<text x="{50 + _WIDTH}" y="{_HEIGHT + 28}" text-anchor="end">{across:.0f} s</text></svg>'
    )
