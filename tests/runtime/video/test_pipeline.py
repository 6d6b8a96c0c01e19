"""Three threads: order, bounded queues, and an end whatever fails."""

import itertools
import os
import queue
import sys
import threading
import time

import pytest

from l2g.runtime.video.pipeline import Behind, run_pipeline

pytestmark = pytest.mark.alone

TIMEOUT = 20


class _StageError(RuntimeError):
    pass


def _run(*arguments, **options):
    """run_pipeline in a thread, so that a hang is a failed test and not a stuck one; returns (result, exception)."""
    outcome = queue.Queue()

    def target():
        try:
            outcome.put((run_pipeline(*arguments, **options), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=target, daemon=True).start()
    result = outcome.get(timeout=TIMEOUT)
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("l2g-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread was left behind"
        time.sleep(0.01)
    return result


def test_everything_arrives_in_order():
    got = []
    assert _run(range(100), lambda x: x * x, got.append) == (100, None)
    assert got == [x * x for x in range(100)]


def test_nothing_to_do():
    assert _run([], lambda x: x, lambda x: None) == (0, None)


def test_stages_run_in_their_own_threads():
    names = set()

    def produce():
        names.add(("produce", threading.current_thread().name))
        yield 1

    run_pipeline(
        produce(),
        lambda x: names.add(("infer", threading.current_thread().name)),
        lambda x: names.add(("consume", threading.current_thread().name)),
    )
    assert names == {
        ("produce", "l2g-decode"),
        ("infer", threading.current_thread().name),
        ("consume", "l2g-results"),
    }


def _niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have niceness on Linux alone")
@pytest.mark.parametrize("direct", [False, True])
def test_the_models_thread_goes_first_but_where_frames_must_not_wait(direct):
    """Of a file the whole counts, so the stages beside the model have a lower priority; of a camera each frame does."""
    before, found = _niceness(), {}

    def produce():
        found["produce"] = _niceness()
        yield 1

    def infer(item):
        found["infer"] = _niceness()

    run_pipeline(produce(), infer, lambda _: found.update(consume=_niceness()), direct=direct)
    behind = Behind(lambda _: found.update(behind=_niceness()), low_priority=not direct)
    behind.put(1)
    behind.close()
    assert found.pop("infer") == before == _niceness()
    assert set(found) == {"produce", "consume", "behind"}
    assert set(found.values()) == ({before} if direct else {min(before + 10, 19)})


def test_queues_are_bounded():
    """A slow end holds the beginning back: memory stays flat however long the input is."""
    produced, most = itertools.count(), []
    made = [0]

    def produce():
        for _ in range(60):
            made[0] = next(produced) + 1
            yield made[0]

    def consume(item):
        time.sleep(0.002)
        most.append(made[0] - item)

    _run(produce(), lambda x: x, consume, depth=3)
    # Three in each queue, one in the hands of each stage.
    assert max(most) <= 3 + 3 + 3


@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_failing_producer_ends_it_and_what_was_produced_is_done(at):
    got = []

    def produce():
        yield from range(at)
        raise _StageError("decode")

    _result, error = _run(produce(), lambda x: x, got.append)
    assert isinstance(error, _StageError)
    assert got == list(range(at))


@pytest.mark.parametrize("at", [0, 1, 30])
def test_a_failing_model_ends_it_and_what_was_inferred_is_done(at):
    got = []

    def infer(item):
        if item == at:
            raise _StageError("infer")
        return item

    _result, error = _run(itertools.count(), infer, got.append)
    assert isinstance(error, _StageError)
    assert got == list(range(at))


@pytest.mark.parametrize("at", [0, 1, 30])
def test_a_failing_consumer_ends_it(at):
    got = []

    def consume(item):
        if item == at:
            raise _StageError("write")
        got.append(item)

    _result, error = _run(itertools.count(), lambda x: x, consume)
    assert isinstance(error, _StageError)
    assert got == list(range(at))


def test_interrupt_keeps_what_was_inferred():
    got = []

    def infer(item):
        if item == 25:
            raise KeyboardInterrupt
        return item

    _result, error = _run(itertools.count(), infer, lambda x: (time.sleep(0.005), got.append(x)))
    assert isinstance(error, KeyboardInterrupt)
    assert got == list(range(25))


def test_the_producer_is_closed_when_the_rest_fails():
    closed = threading.Event()

    def produce():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    def infer(item):
        raise _StageError("infer")

    _run(produce(), infer, lambda x: None)
    assert closed.wait(5)


def test_a_silent_source_does_not_hold_up_the_end():
    """A camera that blocks for good: the failure still comes out, in a few seconds."""
    release = threading.Event()

    def produce():
        yield 0
        release.wait(TIMEOUT)

    def infer(item):
        raise _StageError("infer")

    started = time.monotonic()
    try:
        with pytest.raises(_StageError):
            run_pipeline(produce(), infer, lambda x: None)
        assert time.monotonic() - started < 5
    finally:
        release.set()


def test_what_is_put_behind_is_taken_in_order_and_held_back():
    taken, allowed, put = [], threading.Semaphore(0), []

    def take(number, text):
        allowed.acquire()
        taken.append((number, text))

    behind = Behind(take, depth=2)

    def give():
        for number in range(20):
            behind.put(number, str(number))
            put.append(number)
        behind.close()

    giver = threading.Thread(target=give, daemon=True)
    giver.start()
    time.sleep(0.2)
    assert len(put) <= 3, "one that is taken and two that wait"
    allowed.release(20)
    giver.join(TIMEOUT)
    assert taken == [(number, str(number)) for number in range(20)], "the end waits for the last"


@pytest.mark.parametrize("items", [1, 5])
def test_a_failure_behind_is_raised_once_and_ends_it(items):
    taken, raised = [], 0

    def take(item):
        taken.append(item)
        raise _StageError

    behind = Behind(take)
    for item in range(items):
        try:
            behind.put(item)
        except _StageError:
            raised += 1
        time.sleep(0.05)
    try:
        behind.close()
    except _StageError:
        raised += 1
    behind.close()
    assert (taken, raised) == ([0], 1)
    assert not any(thread.name == "l2g-behind" for thread in threading.enumerate())
