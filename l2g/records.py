"""Frozen dataclasses to JSON and back: what l2g writes down is read as the type that wrote it."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

_T = TypeVar("_T", bound="Record")


class Record:
    """Base of a frozen dataclass that lies in a JSON file.

    Fields are numbers, strings, tuples, dicts by name, other records, and what may be None. `from_json` is the inverse
    of `to_json` and believes nothing: TypeError or ValueError, which names the field, for anything of another type,
    for a field that is missing and has no default, and for one that is not known.
    """

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # its subclasses are dataclasses
        return {field.name: plain(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_json(cls: type[_T], data: object, where: str = "") -> _T:
        where = where or cls.__name__
        if not isinstance(data, dict):
            raise TypeError(f"{where}: found {type(data).__name__}, expected an object")
        known = _types_of(cls)
        if unknown := sorted(map(str, data.keys() - known.keys())):
            raise ValueError(f"{where}: '{unknown[0]}' is not known")
        return cls(**{name: as_type(known[name], value, f"{where}.{name}") for name, value in data.items()})


def _types_of(cls: type) -> dict[str, Any]:
    """Of the fields of a dataclass, by name. Those that a module writes as text are worked out, which is slow."""
    found = {field.name: field.type for field in dataclasses.fields(cls)}
    return typing.get_type_hints(cls) if any(isinstance(kind, str) for kind in found.values()) else found


def plain(value: object) -> Any:
    """As JSON has it: records are objects, tuples are lists."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def as_type(hint: Any, value: Any, where: str) -> Any:
    """`value`, checked and brought into the type `hint`."""
    if hint in (Any, object):
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_any(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, (list, tuple)), "a list", value, where)
        if arguments[1:] != (...,):
            _expect(len(value) == len(arguments), f"{len(arguments)} items", value, where)
            return tuple(as_type(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(arguments, value, strict=True)))
        return tuple(as_type(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, where)
        return {name: as_type(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if issubclass(hint, Record):
        return hint.from_json(value, where)
    number = hint is float and type(value) is int
    _expect(number or type(value) is hint, hint.__name__, value, where)
    return value


def _read_any(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    reasons: list[Exception] = []
    for hint in hints:
        if hint is not type(None):
            try:
                return as_type(hint, value, where)
            except (TypeError, ValueError) as error:
                reasons.append(error)
    raise reasons[0]


def _expect(fits: bool, what: str, value: object, where: str) -> None:
    if not fits:
        raise TypeError(f"{where}: found {value!r:.60}, expected {what}")
