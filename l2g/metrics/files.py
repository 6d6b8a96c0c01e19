"""JSON in and out for the metrics."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from l2g import files
from l2g.errors import DataError

_JSON = TypeVar("_JSON")
# A parsed JSON object that nobody has checked yet.
Json = dict[str, Any]


class Report(Protocol):
    """What a metric ends with: numbers for programs, a table for people, and remarks."""

    @property
    def notes(self) -> tuple[str, ...]: ...

    def to_json(self) -> Json: ...

    def table(self) -> str: ...


def read_json(source: str | Path | Json | list[Any], what: str, kind: type[_JSON]) -> _JSON:
    """`source` itself if it is already parsed, else the JSON file it names; DataError unless it holds a `kind`."""
    if isinstance(source, (str, Path)):
        return files.read_json(source, kind, f"{what} {source}")
    return files.expect_json(source, kind, what)


@contextmanager
def no_collection() -> Iterator[None]:
    """No cyclic garbage collection inside: millions of parsed objects are no garbage, and to visit them takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def field(entry: Json, key: str, where: str) -> Any:
    """`entry[key]`; DataError that names `where` if there is none or `entry` is no object."""
    try:
        return entry[key]
    except (KeyError, TypeError, IndexError):
        pass
    if not isinstance(entry, dict):
        raise DataError(f"{where}: found {type(entry).__name__}, expected an object with the key '{key}'")
    raise DataError(f"{where}: has no '{key}'; found only {sorted(map(str, entry))}")
