"""What a run has measured so far, kept in its working folder, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from l2g.errors import DataError, ExportError
from l2g.files import expect_json, read_json, write_json


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
            self.record(name, measure())
        return self.values[name]

    def record(self, name: str, value: float) -> None:
        """Keep a number that was measured together with others."""
        self.values[name] = float(value)
        self._write()

    def _read(self) -> None:
        try:
            data = read_json(self.path, dict)
            facts = expect_json(data["facts"], dict, "facts")
            values = {name: float(value) for name, value in expect_json(data["values"], dict, "values").items()}
        except (DataError, KeyError, TypeError, ValueError, OverflowError) as error:
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
        write_json(self.path, {"facts": self.facts, "values": self.values}, ExportError)


def name_of(units: Iterable[str]) -> str:
    """A short name of a set of units."""
    return hashlib.sha256("\n".join(sorted(units)).encode()).hexdigest()[:16]
