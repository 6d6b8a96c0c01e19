"""What it takes to start a model: its seconds and its memory, in a process of its own, as `l2g run` is one.

    python -m l2g.evaluation.bench.start '{"model": "tiny.onnx", "how": {"library": "openvino"}, "frames": 4}'

Called by `start_of`. Imports no more than the model's library does, so that nothing else is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2g.errors import L2GError
from l2g.records import Record
from l2g.runtime.backends.open import open_backend

# The growth of memory falls on the first frames.
FRAMES = 4


@dataclass(frozen=True)
class Start(Record):
    """seconds: from before the library is loaded until the first frame's results are there. Bytes of resident memory,
    None where the system does not tell: before: of the process, its libraries not loaded. opening: the most until the
    model is open. running: the most from then on, while frames go through. anonymous: of what is held at the end the
    part that no file backs."""

    seconds: float
    before: int | None
    opening: int | None
    running: int | None
    anonymous: int | None

    @property
    def peak(self) -> int | None:
        """The most that the model added to the process."""
        if self.before is None or self.opening is None or self.running is None:
            return None
        return max(self.opening, self.running) - self.before


def start_of(model: str, how: Mapping[str, Any], *, kept: bool, frames: int = FRAMES) -> Start:
    """Of a model, as `open_backend` opens it with the options `how`. kept: whether from what an earlier opening has
    left in the cache, where one has; else as if there were nothing, and nothing is left. L2GError for what the model's
    process says is wrong, and where it crashes."""
    asked = json.dumps({"model": str(model), "how": dict(how), "frames": frames})
    environment = os.environ | ({} if kept else {"L2G_KEEP_GRAPHS": "0"})
    command = [sys.executable, "-m", __name__, asked]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return Start.from_json(json.loads(done.stdout.splitlines()[-1]))
    lines = done.stderr.strip().splitlines() or [""]
    if lines[-1].startswith("error: "):
        raise L2GError(lines[-1].removeprefix("error: "))
    raise L2GError(f"{model}: the process that opens it ended with {done.returncode} ({lines[-1] or 'without a word'})")


def started(model: str, how: Mapping[str, Any], frames: int) -> Start:
    """In this process, which should have done nothing before."""
    before, _ = _memory(begin=True)
    began = time.perf_counter()
    # A canvas comes as JSON's list.
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in how.items()}
    with closing(open_backend(model, top_k=None, **given)) as backend:
        opened = time.perf_counter() - began
        _, opening = _memory(begin=True)
        shape = backend.contract.input("frames").sized(1)
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 256, shape, np.uint8) for _ in range(frames)]
        began = time.perf_counter()
        for number, picture in enumerate(pictures):
            backend.step(picture, np.array([number == 0]))
            if number == 0:
                seconds = opened + time.perf_counter() - began
        anonymous, running = _memory("RssAnon")
    return Start(seconds, before, opening, running, anonymous)


def _memory(field: str = "VmRSS", begin: bool = False) -> tuple[int | None, int | None]:
    """Bytes of a field of Linux's status of this process, and the most that were resident since the last `begin`."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        found = [1024 * int(lines[name].split()[0]) for name in (field, "VmHWM")]
        if begin:
            Path("/proc/self/clear_refs").write_text("5")
    except (OSError, KeyError, ValueError):  # another system
        return None, None
    return found[0], found[1]


def main(argv: Sequence[str] | None = None) -> int:
    (asked,) = sys.argv[1:] if argv is None else argv
    try:
        print(json.dumps(started(**json.loads(asked)).to_json()))
        return 0
    except L2GError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the terminal's, which the caller gets as well
        return 130


if __name__ == "__main__":
    sys.exit(main())
