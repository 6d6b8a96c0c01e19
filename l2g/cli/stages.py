"""Stages of a long command on stderr: a bar where that is a terminal, and a line for every stage that is over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from l2g.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

_TICK = 1.0  # seconds between two looks at the clock, in a stage that tells nothing of itself


class Stages(Progress):
    """A context manager. Lines such as "[2/5] lower (1.3 s)"; with `quiet` nothing at all."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._planned: dict[str, int] = {}
        self._current: str | None = None
        self._began = 0.0
        self._done = 0
        self._bar: tqdm[NoReturn] | None = None
        self._ticker: threading.Thread | None = None
        self._over = threading.Event()

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(completed=kind is None)
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._bar is not None:
            self._bar.close()

    def plan(self, stages: Mapping[str, int]) -> None:
        self._planned |= stages
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.total = sum(self._planned.values())
            return
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        form = "{desc} |{bar}| {n_fmt}/{total_fmt} steps, {elapsed}"
        self._bar = tqdm(total=sum(stages.values()), leave=False, disable=None, bar_format=form)
        if not self._bar.disable:
            self._ticker = threading.Thread(target=self._tick, daemon=True, name="stages")
            self._ticker.start()

    def stage(self, name: str) -> None:
        self._finish()
        self._current, self._began, self._done = name, time.perf_counter(), 0
        if self._bar is not None:
            self._bar.set_description_str(self._title())

    def step(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def _finish(self, completed: bool = True) -> None:
        if self._current is None or self.quiet:
            return
        seconds = f"{time.perf_counter() - self._began:.1f} s"
        text = f"{self._title()} ({seconds})" if completed else f"{self._title()} (not finished, {seconds})"
        if self._bar is not None:
            self._bar.update(self._planned.get(self._current, 0) - self._done if completed else 0)
            self._bar.clear()
        print(text, file=sys.stderr, flush=True)
        self._current = None

    def _title(self) -> str:
        names = list(self._planned)
        place = names.index(self._current) + 1 if self._current in names else "?"
        return f"[{place}/{len(names)}] {self._current}"

    def _tick(self) -> None:
        while self._bar is not None and not self._over.wait(_TICK):
            self._bar.refresh()
