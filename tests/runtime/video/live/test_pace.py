"""Keeping up with a live source: what waited is passed over once, and a frame that is nearly due is waited for."""

import threading
import time

import numpy as np
import pytest

from l2g.runtime.video.job import _wait
from l2g.runtime.video.live.pace import Arrivals, from_now_on
from l2g.runtime.video.pipeline import ReadAhead
from l2g.runtime.video.source import Selection, VideoSource

pytestmark = pytest.mark.alone

IMAGE = np.zeros((2, 2, 3), np.uint8)


class Script(VideoSource):
    """Frames of one source: (seconds to wait for it, its time, how often the source was lost before)."""

    height = width = 2
    frame_rate = 20.0

    def __init__(self, frames, opened_for=0.0, live=True):
        super().__init__("script", Selection())
        self._frames, self.is_live = frames, live
        self.since = time.monotonic() - opened_for

    def _decode(self):
        for index, (pause, moment, connection) in enumerate(self._frames):
            time.sleep(pause)
            if connection > self.connection:
                self.connection, self.since = connection, time.monotonic() - 1
            yield index, moment, lambda: IMAGE


WAITED = [(0.0, i / 20, 0) for i in range(30)]
THEN = [(0.04, 1.5 + i / 20, 0) for i in range(4)]


def indices(source):
    passed = []
    return [frame.index for frame in from_now_on(source, lambda: passed.append(1))], len(passed)


def test_what_came_before_anybody_took_frames_is_passed_over():
    # The newest of those that waited, and all that had to be waited for.
    assert indices(Script(WAITED + THEN, opened_for=1.5)) == ([29, 30, 31, 32, 33], 29)


def test_after_a_loss_once_more():
    back = [(0.0, 5 + i / 20, 1) for i in range(20)] + [(0.04, 6 + i / 20, 1) for i in range(3)]
    assert indices(Script(WAITED + THEN + back, opened_for=1.5))[0] == [29, 30, 31, 32, 33, 53, 54, 55, 56]


@pytest.mark.parametrize(
    ("frames", "how"),
    [
        (WAITED + THEN, {"opened_for": 0.05}),  # opened just now: nothing can wait
        (WAITED + THEN, {"opened_for": 1.5, "live": False}),
        (THEN, {"opened_for": 1.5}),
    ],
)
def test_nothing_else_is_passed_over(frames, how):
    assert indices(Script(frames, **how)) == (list(range(len(frames))), 0)


def test_the_end_is_not_swallowed():
    assert indices(Script(WAITED, opened_for=1.5)) == ([29], 29)


def test_when_the_next_frame_is_due():
    arrivals = Arrivals()
    assert arrivals.awaited(0.0, 0.01) == 0.01  # nothing is known: as long as it may
    for moment in (0.0, 0.1, 0.2, 0.31, 0.9, 1.0, 1.1):  # late once, silent once
        arrivals.add(moment)
    assert arrivals.spacing == pytest.approx(0.1)
    assert arrivals.awaited(1.13, 0.03) == 1.13  # due at 1.2
    assert arrivals.awaited(1.18, 0.03) == pytest.approx(1.225)
    assert arrivals.awaited(1.22, 0.03) == pytest.approx(1.225)
    assert arrivals.awaited(1.3, 0.03) == 1.3  # it did not come


SPACING = 0.4


def taken(since_last, latest=True, streams=1, wait=0.04):
    """Which frame the model gets that is free so long after the last one came of a source of one in 0.4 s, and how long
    it waited for it."""
    changed, over = threading.Condition(), threading.Event()
    stamp = time.monotonic() - since_last

    def frames(number):
        yield from range(5)
        over.wait(max(0.0, stamp + SPACING - time.monotonic()) if number == 0 else 60)
        yield 5

    readers = {number: ReadAhead(frames(number), depth=9, latest=latest, changed=changed) for number in range(streams)}
    time.sleep(0.02)
    for number, reader in readers.items():
        for moment in range(9):
            reader.arrivals.add(stamp + (moment - 8) * SPACING if number == 0 else stamp - 0.2 + (moment - 8) * 10)
    began = time.monotonic()
    with changed:
        ready = _wait(readers, list(readers), wait, changed)
    found = readers[ready[0]].take(), time.monotonic() - began
    over.set()
    for reader in readers.values():
        reader.close()
    return found


def test_a_frame_that_is_nearly_due_is_waited_for():
    frame, seconds = taken(0.27)
    assert frame == 5
    assert 0.02 < seconds < 0.2
    assert taken(0.04) == (4, pytest.approx(0.0, abs=0.04))  # due in more than 0.4 of the spacing
    assert taken(0.27, wait=0.0) == (4, pytest.approx(0.0, abs=0.04))
    assert taken(0.27, latest=False)[0] == 0  # every frame is taken: a newer one is no better


def test_streams_that_bring_nothing_soon_are_not_waited_for():
    frame, seconds = taken(0.2, streams=2, wait=0.3)
    assert frame == 5  # in a batch of several what is due within the time that it may wait, and no longer
    assert seconds < 0.25
    assert taken(0.04, streams=2, wait=0.1) == (4, pytest.approx(0.0, abs=0.04))
