"""Power, memory and clock of the first GPU while something runs, as nvidia-smi tells; nothing where there is none."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO

_QUERY = ("power.draw", "memory.used", "utilization.gpu", "clocks.sm")
_EVERY = 100  # milliseconds between two readings


@dataclass(frozen=True)
class Reading:
    """time: of `time.perf_counter`. power: watts. memory: bytes in use. busy: percent. clock: MHz. None: not told."""

    time: float
    power: float | None
    memory: float | None
    busy: float | None
    clock: float | None


class Sensors:
    """A context manager; readings go on beside what is measured, in a process of nvidia-smi."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sensors:
        command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
        try:
            self._process = subprocess.Popen(
                [*command, f"--loop-ms={_EVERY}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return self
        assert self._process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True, name="sensors")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._thread.join(timeout=5)

    @property
    def running(self) -> bool:
        return self._process is not None

    def since(self, start: float) -> list[Reading]:
        """What was read from that moment on."""
        return [reading for reading in list(self.readings) if reading.time >= start]

    def mean(self, name: str, start: float) -> float | None:
        values = self._values(name, start)
        return sum(values) / len(values) if values else None

    def most(self, name: str, start: float) -> float | None:
        return max(self._values(name, start), default=None)

    def _values(self, name: str, start: float) -> list[float]:
        return [value for reading in self.since(start) if (value := getattr(reading, name)) is not None]

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            cells = [_number(cell) for cell in line.split(",")]
            if len(cells) == len(_QUERY):
                power, memory, busy, clock = cells
                used = None if memory is None else memory * (1 << 20)
                self.readings.append(Reading(time.perf_counter(), power, used, busy, clock))


def _number(cell: str) -> float | None:
    """None for "[N/A]" and the like."""
    try:
        return float(cell)
    except ValueError:
        return None
