"""The table that ends a command which measured something: quantity, unit, found, limit, ok."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Units of what graphs and engines are held to, by the name in a verification's record.
UNITS = {
    "queries": ("state: queries", "embedding"),
    "boxes": ("state: boxes", "share of the canvas"),
    "logits": ("class logits", "logit"),
    "mask_logits": ("mask logits", "logit"),
    "scores": ("scores", "probability"),
    "labels": ("labels", "class"),
    "slots": ("slots", "slot"),
    "masks": ("masks", "of 255"),
    "weights": ("weights", "probability"),
}


@dataclass(frozen=True)
class Row:
    """One quantity. limit: the most that is allowed, or with `least` the least; None where there is no limit."""

    quantity: str
    unit: str
    found: float
    limit: float | None = None
    least: bool = False

    @property
    def ok(self) -> bool:
        """NaN is never."""
        if self.limit is None:
            return True
        return self.found >= self.limit if self.least else self.found <= self.limit

    def cells(self) -> tuple[str, ...]:
        limit = "" if self.limit is None else f"{'>=' if self.least else '<='} {_short(self.limit)}"
        verdict = "" if self.limit is None else "ok" if self.ok else "FAILS"
        return self.quantity, self.unit, _short(self.found), limit, verdict


def _short(value: float) -> str:
    """Three digits, and never the 1e+03 of a format."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def table(rows: Iterable[Row]) -> str:
    """Aligned columns under a heading."""
    cells = [("quantity", "unit", "found", "limit", "ok"), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if 2 <= column <= 3 else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def verification_rows(found: dict[str, float], limits: dict[str, float], what: str) -> list[Row]:
    """A row for every output in a verification's record. what: is measured, such as "largest difference"."""
    named = {name: UNITS.get(name, (name, "")) for name in found}
    return [Row(f"{named[name][0]}, {what}", named[name][1], value, limits[name]) for name, value in found.items()]
