"""JSON in and out for the metrics."""

from __future__ import annotations

import gc
import json
import os
from contextlib import contextmanager
from pathlib import Path

from l2g.errors import DataError


def read_json(source: str | Path | dict | list, what: str, kind: type):
    """`source` itself if it is already parsed, else the JSON file it names; DataError unless it holds a `kind`."""
    if isinstance(source, (str, Path)):
        what = f"{what} {source}"
        try:
            source = json.loads(Path(source).read_bytes())
        except OSError as error:
            raise DataError(f"{what}: cannot be read ({error.strerror}); give the path of a JSON file") from None
        except ValueError as error:
            raise DataError(f"{what}: is not JSON ({error}); write or download the file again") from None
    if not isinstance(source, kind):
        names = {dict: "an object", list: "a list"}
        found = names.get(type(source), type(source).__name__)
        raise DataError(f"{what}: found {found} at the top, expected {names[kind]}")
    return source


@contextmanager
def no_collection():
    """No cyclic garbage collection inside: millions of parsed objects are no garbage, and to visit them takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def field(entry: dict, key: str, where: str):
    """`entry[key]`; DataError that names `where` if there is none or `entry` is no object."""
    try:
        return entry[key]
    except (KeyError, TypeError, IndexError):
        pass
    if not isinstance(entry, dict):
        raise DataError(f"{where}: found {type(entry).__name__}, expected an object with the key '{key}'")
    raise DataError(f"{where}: has no '{key}'; found only {sorted(map(str, entry))}")


def write_json(path: str | Path, data: dict) -> None:
    """Write `data` under a temporary name, then put it in place, so that no reader meets half a file."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another --json path") from None
