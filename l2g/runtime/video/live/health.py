"""Steps that fail and states that are not finite cost one stream one frame; stalls are told apart by where they are."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from l2g.errors import L2GError
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.session import VideoSession
from l2g.runtime.video.lane import Decoded, Inferred, Lane
from l2g.runtime.video.live.watcher import Watcher

# Seconds between two frames of a live stream beyond which it begins anew, unless so many times the last spacing is
# more; docs/guides/live.md says why.
LONGEST_GAP, USUAL_GAPS = 1.0, 3.0
# A stream that fails so often in a row, each time from a fresh start, will not recover: it ends.
MOST_FAILURES = 3


def finite(outputs: FrameOutputs) -> bool:
    """Whether what a stream carries on, and by what its slots are chosen, is finite; masks are too many to look at."""
    looked_at = (getattr(outputs, name, None) for name in ("queries", "boxes", "logits", "scores"))
    return all(bool(np.isfinite(array).all()) for array in looked_at if array is not None)


def _break_between(last: Decoded, item: Decoded, spacing: float) -> str | None:
    if item.frame.connection != last.frame.connection:
        return "reconnected"
    if item.scene != last.scene:
        return "cut"
    if item.lane.source.is_live and item.frame.time - last.frame.time > max(LONGEST_GAP, USUAL_GAPS * spacing):
        return "gap"
    return None


class Stepper:
    """Takes the streams of a session from frame to frame: who joins, leaves, begins anew, and what becomes of failures.

    A stream begins anew, with new track ids, after a cut, where its source was lost, and of a live source after a gap
    (`LONGEST_GAP`). Where a step of several fails it is tried with each stream alone, from its own state; one that
    fails alone, or whose numbers are not finite, is said, shows nothing in that frame, and begins anew with the next.
    After `MOST_FAILURES` of these in a row it ends, with the last one's reason as its lane's `failure`. Where the model
    fails for all that it is asked, those that are not live end at once, without that frame: they can be gone on with.
    """

    def __init__(self, session: VideoSession, watcher: Watcher, watchdog: Watchdog):
        self._session, self._watcher, self._watchdog = session, watcher, watchdog
        self._last: dict[Lane, Decoded] = {}
        self._failed: dict[Lane, int] = {}
        self._spacing: dict[Lane, float] = {}

    def step(self, items: Sequence[Decoded], finished: Sequence[Lane]) -> list[Inferred]:
        """The frames of some lanes, one each. An L2GError of the model ends none but the lanes that it is of."""
        for lane in finished:
            if lane in self._session.streams:
                self._session.leave(lane)
        items = [item for item in items if item.lane.failure is None]
        if not items:
            return []
        resets = {item.lane: self._begin(item) for item in items}
        asked = {item.lane: item for item in items}
        with self._watchdog.stepping():
            outputs = self._outputs(asked)
        return [
            Inferred(
                item.lane,
                item.frame,
                outputs.get(item.lane),
                resets[item.lane],
                item.arrived,
                item.lane.memory_of(self._session, item.lane in outputs),
            )
            for item in asked.values()
        ]

    def _begin(self, item: Decoded) -> str | None:
        """Let the stream join or begin anew where it has to; why it begins anew."""
        lane, last = item.lane, self._last.get(item.lane, item.lane.before)
        if lane not in self._last:
            self._session.join(lane, lane.memory)
        self._last[lane] = item
        if last is None:
            return None
        failed = "failed" if lane in self._failed else None
        # Of the first two frames nothing tells whether their spacing is the usual one.
        reason = _break_between(last, item, self._spacing.get(lane, math.inf)) or failed
        self._spacing[lane] = item.frame.time - last.frame.time
        if reason:
            self._session.reset(lane)
            if lane.source.is_live:
                self._watcher.say(f"{lane.source.name}: begins anew at {item.frame.time:.1f} s ({reason})")
        return reason

    def _outputs(self, items: dict[Lane, Decoded]) -> dict[Lane, FrameOutputs]:
        """By lane; those that failed are not among them, and those that end at once are taken out of `items`."""
        found: dict[Lane, FrameOutputs] = {}
        failures: dict[Lane, L2GError] = {}
        try:
            found = self._session.step({lane: item.canvas for lane, item in items.items()})
        except L2GError as error:
            if len(items) == 1:
                failures = dict.fromkeys(items, error)
            else:
                self._watcher.say(f"a step of {len(items)} streams failed ({error}); each is tried alone")
                for lane, item in items.items():
                    try:
                        found |= self._session.step({lane: item.canvas})
                    except L2GError as alone:
                        failures[lane] = alone
            for lane in [] if found else [lane for lane in items if not lane.source.is_live]:
                lane.give_up(L2GError(f"{lane.source.name}: {failures.pop(lane)}"))
                del items[lane]
        for lane, outputs in list(found.items()):
            if finite(outputs):
                self._failed.pop(lane, None)
            else:
                failures[lane] = L2GError(
                    f"frame {items[lane].frame.index}: the model's numbers hold NaN or infinity; "
                    "check the checkpoint, and with an engine its precision"
                )
                del found[lane]
        for lane, failure in failures.items():
            self._fail(lane, failure)
        return found

    def _fail(self, lane: Lane, error: L2GError) -> None:
        self._failed[lane] = self._failed.get(lane, 0) + 1
        if self._failed[lane] >= MOST_FAILURES:
            lane.give_up(L2GError(f"{lane.source.name}: {error}"))
            return
        self._watcher.say(f"{lane.source.name}: {error}; the stream begins anew")


class Watchdog:
    """Says who keeps a run waiting: a source that gives no frame, or the model that gives no answer.

    A context manager with a thread of its own. seconds: of silence until it is said, once per silence; 0 never. Where
    frames are to be further apart it is `USUAL_GAPS` times their spacing, and before the first one its start more.
    """

    def __init__(self, lanes: Sequence[Lane], seconds: float, watcher: Watcher):
        self._seconds, self._watcher = seconds, watcher
        self._heard = {lane: time.monotonic() for lane in lanes if lane.source.is_live}
        self._said: set[Lane] = set()
        self._begun: set[Lane] = set()
        self._step_began: float | None = None
        self._step_said = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="l2g-watchdog", daemon=True)

    def frame(self, lane: Lane) -> None:
        """A frame of this lane goes to the model."""
        if lane in self._heard:
            self._heard[lane] = time.monotonic()
            self._begun.add(lane)
            if lane in self._said:
                self._said.discard(lane)
                self._watcher.say(f"{lane.source.name}: gives frames again")

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around what the model is asked."""
        self._step_began, self._step_said = time.monotonic(), False
        try:
            yield
        finally:
            now, self._step_began = time.monotonic(), None
            # Frames of sources that were not taken meanwhile are no silence of theirs.
            if self._step_said:
                self._heard = dict.fromkeys(self._heard, now)
                self._watcher.say("the model answers again")

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()

    def _look(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            now, began = time.monotonic(), self._step_began
            if began is not None:
                if now - began > self._seconds and not self._step_said:
                    self._step_said = True
                    self._watcher.say(f"the model has not answered for {now - began:.0f} s; the sources wait for it")
                continue  # no source can be heard meanwhile
            for lane, heard in list(self._heard.items()):
                if not lane.source.is_open:
                    self._heard[lane] = now  # of one that has not come yet it is said already
                elif now - heard > self._limit(lane) and lane not in self._said and not lane.ended:
                    self._said.add(lane)
                    self._watcher.say(f"{lane.source.name}: no frame for {now - heard:.0f} s; the model waits for it")

    def _limit(self, lane: Lane) -> float:
        """Seconds without a frame that goes to the model."""
        source = lane.source
        usual = max(self._seconds, USUAL_GAPS * source.selection.stride / source.frame_rate)
        return usual if lane in self._begun else usual + source.selection.start
