"""What a run writes down as it goes: a table of losses and scores, their curves, TensorBoard's events, pictures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2g.errors import L2GError
from l2g.files import write_atomically
from l2g.runtime.arrays import ByteArray

TABLE, CURVES, PICTURES = "history.csv", "curves.png", "predictions.png"
# In this order first; the terms of the loss follow as they come.
_FIRST = ("step", "phase", "iteration", "total", "gradient norm", "rate", "AP", "AP50", "AR10")
_PANEL = (560, 240)  # width and height of a diagram, pixels
_INK, _LINE, _GRID = (60, 60, 60), (178, 111, 31), (225, 225, 225)


class Journal:
    """Writes into a run's folder. A run that goes on keeps the rows up to where it goes on from.

    folder: the run's. step: iterations of the run that are done.
    """

    def __init__(self, folder: Path, step: int = 0):
        self._folder = folder
        self._rows = [row for row in _read(folder / TABLE) if row.get("step", np.inf) <= step]
        self._events = _events(folder / "events")

    def losses(self, step: int, row: dict[str, float]) -> None:
        """Means of the losses of the iterations since the last call, and what belongs to them."""
        self._add(step, row)
        for name, value in row.items():
            if name not in ("phase", "iteration"):
                kind = name if name in ("gradient norm", "rate") else f"loss/{name}"
                self._event("add_scalar", kind, value, step)

    def scores(self, step: int, row: dict[str, float], pictures: list[ByteArray]) -> None:
        """What an evaluation gave, in percent, and pictures uint8 [H, W, 3] of what was found."""
        self._add(step, row)
        for name, value in row.items():
            if name not in ("phase", "iteration"):
                self._event("add_scalar", f"evaluation/{name}", value, step)
        if pictures:
            shown = stacked(pictures)
            self._event("add_image", "predictions", shown, step, dataformats="HWC")
            write_png(self._folder / PICTURES, shown)
        self.write()

    def write(self) -> None:
        """The table and the curves as files."""
        names = [*_FIRST, *sorted({name for row in self._rows for name in row} - {*_FIRST})]
        with (
            write_atomically(self._folder / TABLE, L2GError) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, names, lineterminator="\n")
            table.writeheader()
            for row in self._rows:
                table.writerow({name: f"{value:.6g}" for name, value in row.items()})
        diagrams = [self._diagram(name) for name in ("total", "AP")]
        write_png(self._folder / CURVES, np.concatenate([d for d in diagrams if d is not None] or [_blank()]))

    def close(self) -> None:
        self.write()
        if self._events is not None:
            self._events.close()

    def _add(self, step: int, row: dict[str, float]) -> None:
        self._rows.append({"step": step, **row})

    def _event(self, kind: str, *what: Any, **how: Any) -> None:
        if self._events is not None:
            getattr(self._events, kind)(*what, **how)

    def _diagram(self, name: str) -> ByteArray | None:
        points = [(row["step"], row[name]) for row in self._rows if np.isfinite(row.get(name, np.nan))]
        title = {"total": "loss", "AP": "AP, percent"}[name]
        return diagram(title, points) if points else None


def diagram(title: str, points: list[tuple[float, float]]) -> ByteArray:
    """A line through (step, value) points, uint8 [H, W, 3]: the value axis begins at 0, the last value stands at the
    end."""
    picture = _blank()
    left, top, right, bottom = 52, 28, _PANEL[0] - 64, _PANEL[1] - 28
    steps, values = np.array(points, float).T
    most = max(float(values.max()), 1e-9)
    x = left + (steps - steps.min()) / max(float(np.ptp(steps)), 1.0) * (right - left)
    y = bottom - values / most * (bottom - top)
    for share in (0.0, 0.5, 1.0):
        level = round(bottom - share * (bottom - top))
        cv2.line(picture, (left, level), (right, level), _GRID, 1, cv2.LINE_AA)
        _write(picture, f"{share * most:.3g}", (6, level + 4))
    line = np.rint(np.stack([x, y], 1)).astype(np.int32)
    cv2.polylines(picture, [line[:, None]], False, _LINE, 2, cv2.LINE_AA)
    cv2.circle(picture, tuple(map(int, line[-1])), 3, _LINE, -1, cv2.LINE_AA)
    _write(picture, f"{values[-1]:.3g}", (int(line[-1, 0]) + 8, int(line[-1, 1]) + 4))
    _write(picture, title, (left, 18))
    _write(picture, f"{steps.min():.0f}", (left, _PANEL[1] - 10))
    _write(picture, f"iteration {steps.max():.0f}", (right - 60, _PANEL[1] - 10))
    return picture[..., ::-1]


def stacked(pictures: list[ByteArray]) -> ByteArray:
    """Pictures below each other, those that are narrower filled up with white."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(p, ((0, 4), (0, width - p.shape[1]), (0, 0)), constant_values=255)  # a white line between two
        for p in pictures
    ]
    return np.concatenate(padded)


def png(picture: ByteArray) -> bytes:
    """A picture uint8 [H, W, 3] RGB as the bytes of a PNG file."""
    done, data = cv2.imencode(".png", picture[..., ::-1])
    assert done
    return data.tobytes()


def write_png(path: Path, picture: ByteArray) -> None:
    with write_atomically(path, L2GError) as temporary:
        Path(temporary).write_bytes(png(picture))


def _blank() -> ByteArray:
    return np.full((_PANEL[1], _PANEL[0], 3), 255, np.uint8)


def _write(picture: ByteArray, text: str, at: tuple[int, int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)


def _read(path: Path) -> list[dict[str, float]]:
    """The rows of an earlier table; none where there is none, or where it is no table of ours."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _events(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder))
