"""Files that are changed at random: a result or one clear error, whatever comes out."""

import random
from pathlib import Path

import pytest

from l2g.errors import L2GError
from l2g.runtime.video.source import open_source

CASES = Path(__file__).parents[2] / "assets" / "cases"
WHOLE = sorted(path for path in CASES.rglob("*") if path.is_file() and not path.name.startswith("."))
MUTATIONS = 300


def _cut(data, rng):
    return data[: rng.randrange(1, len(data))]


def _bytes(data, rng):
    for _ in range(rng.randrange(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def _header(data, rng):
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(min(600, len(data)))] = rng.choice((0, 128, 255))
    return data


def _hole(data, rng):
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 2000)]
    return data


def _noise(data, rng):
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.randrange(1, 300))
    return data


@pytest.mark.parametrize("change", [_cut, _bytes, _header, _hole, _noise])
def test_changed_files_are_read_or_refused(tmp_path, change):
    rng = random.Random(change.__name__)
    causes: list = []
    outcomes = {"read": 0, "damaged": 0, "refused": 0}
    for _ in range(MUTATIONS // 5):
        whole = rng.choice(WHOLE)
        path = tmp_path / f"x{whole.suffix}"
        path.write_bytes(change(bytearray(whole.read_bytes()), rng) or b"x")
        try:
            with open_source(path) as source:
                last = 0.0
                for frame in source:
                    assert frame.image.shape == (source.height, source.width, 3)
                    assert frame.time >= last
                    last = frame.time
            outcomes["damaged" if source.damage else "read"] += 1
        except L2GError as error:
            outcomes["refused"] += 1
            causes.append(error.__cause__)
    # No library's own exception behind them: everything that went wrong was foreseen.
    assert set(causes) <= {None}
    assert sum(outcomes.values()) == MUTATIONS // 5
    assert outcomes["damaged"] + outcomes["refused"] > 0
