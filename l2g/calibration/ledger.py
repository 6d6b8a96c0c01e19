"""What a run has measured so far, kept in its working folder, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from l2g.errors import ExportError


class Ledger:
    """Numbers by name, in one JSON file that is replaced after every measurement.

    facts: what the numbers depend on. Raises ExportError where the file was written by a run of other facts.
    """

    def __init__(self, path: Path, facts: dict):
        self.path = path
        self.facts = json.loads(json.dumps(facts))
        self.values: dict[str, float] = {}
        if path.is_file():
            self._read()
        else:
            self._write()

    def measured(self, name: str, measure: Callable[[], float]) -> float:
        """The number of this name; `measure` is called where there is none yet."""
        if name not in self.values:
            self.values[name] = float(measure())
            self._write()
        return self.values[name]

    def _read(self) -> None:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            facts, values = data["facts"], data["values"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ExportError(
                f"{self.path}: damaged ({error!r}); delete '{self.path.parent}' and start again"
            ) from None
        changed = sorted(key for key in {*facts, *self.facts} if facts.get(key) != self.facts.get(key))
        if changed:
            key = changed[0]
            raise ExportError(
                f"'{self.path.parent}' holds a run with {key} {facts.get(key)!r}, this one has {self.facts.get(key)!r}"
                "; give another --work folder, or delete that one"
            )
        self.values = values

    def _write(self) -> None:
        partial = self.path.with_name(f".{self.path.name}.part")
        partial.write_text(json.dumps({"facts": self.facts, "values": self.values}, indent=1), encoding="utf-8")
        os.replace(partial, self.path)


def name_of(units: Iterable[str]) -> str:
    """A short name of a set of units."""
    return hashlib.sha256("\n".join(sorted(units)).encode()).hexdigest()[:16]
