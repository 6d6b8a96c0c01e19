"""What becomes of good input: bytes that flip, vanish or come in, and JSON values that nobody expects."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, 2**31, 2**63, 10**30, -(10**30), 10**400, 1e300, float("nan"), float("inf"), "", "x",
    "\0", "\ud800",
    "../../etc/passwd", "/etc/passwd", "x" * 5000, [], {}, [1], [[1]], {"a": 1}, [None], "1", 1e-300,
)  # fmt: skip


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """A file with one kind of damage."""
    kind, found = rng.randrange(6), bytearray(data)
    if not found:
        return b"x"
    start = rng.randrange(len(found))
    if kind == 0:
        return bytes(found[:start])
    if kind == 1:
        for _ in range(rng.randrange(1, 30)):
            found[rng.randrange(len(found))] = rng.randrange(256)
    elif kind == 2:
        for _ in range(rng.randrange(1, 8)):
            found[rng.randrange(min(400, len(found)))] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 3:
        del found[start : start + rng.randrange(1, 2000)]
    elif kind == 4:
        found[start:start] = rng.randbytes(rng.randrange(1, 300))
    else:
        found[start] ^= 1 << rng.randrange(8)
    return bytes(found)


def json_of(data: Any, rng: random.Random) -> str:
    """JSON text with one to three values replaced, removed, doubled or nested too deep."""
    if rng.random() < 0.03:
        return "[" * 100_000
    data = copy.deepcopy(data)
    for _ in range(rng.randrange(1, 4)):
        places = _places(data)
        if not places:
            break
        parent, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return json.dumps(data)


def text_of(text: str, rng: random.Random) -> str:
    """Text whose words are exchanged for odd ones, or whose letters are damaged."""
    if rng.random() < 0.3:
        return bytes_of(text.encode(), rng).decode(errors="replace")
    lines = text.splitlines()
    for _ in range(rng.randrange(1, 3)):
        place = rng.randrange(len(lines))
        name, colon, _ = lines[place].partition(":")
        value = rng.choice(
            ("[", "{", ".nan", "-1", "0", "1e400", "*a", "&a [*a]", "x", "[[[[", "!!int x", "99999999999")
        )
        lines[place] = f"{name}: {value}" if colon else value
    return "\n".join(lines)


def _places(data: Any, most: int = 4000) -> list[tuple[Any, Any]]:
    """(container, key) of every value, at most so many."""
    found: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting and len(found) < most:
        node = waiting.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(pairs):
            found.append((node, key))
            if isinstance(value, (dict, list)):
                waiting.append(value)
    return found
