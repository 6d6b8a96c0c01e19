"""Protocol buffers' text format, as far as a `config.pbtxt` needs it; written without the library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

# By field: a message, a list (the field once for each), or a scalar. A `Word` is an enumeration's.
Message: TypeAlias = Mapping[str, object]


class Word(str):
    """A name of an enumeration, written without quotes."""


def prototext(message: Message) -> str:
    """The message as text, a field a line. A field whose value is None is left out."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message, indent: str = "") -> Iterator[str]:
    for name, value in message.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Mapping):
                inner = list(_lines(each, indent + "  "))
                yield from [f"{indent}{name} {{", *inner, f"{indent}}}"] if inner else [f"{indent}{name} {{}}"]
            elif each is not None:
                yield f"{indent}{name}: {_scalar(each)}"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # Of what a text may hold JSON escapes all that the text format does; what is not ASCII is there as it is.
    return json.dumps(value, ensure_ascii=False)
