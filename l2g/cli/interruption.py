"""Ctrl-C and SIGTERM end a command within two seconds, whatever it is at.

Python hears a signal between two of its own instructions, so not while a library opens or compiles a graph, which
takes seconds for a large one; and to take an interpreter down costs half a second of CPU time once PyTorch is in it. A
process that is there for one command waits for neither. What it was about to write lies beside its target until it is
whole.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from l2g.errors import L2GError
from l2g.files import discard_pending

# What a signal may wait for Python to hear it; then the process ends without.
PATIENCE_SECONDS = 1.0


@contextmanager
def interruptible(unheard: Callable[[], object] | None = None) -> Iterator[None]:
    """While this lasts SIGTERM (a container that is stopped, a job that is ended) raises KeyboardInterrupt, as Ctrl-C.

    unheard: is called, in another thread, where one of them has come and Python has not heard it within
    `PATIENCE_SECONDS`; those that something else handles meanwhile are its own affair. Outside the main thread this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        heard.set()
        raise KeyboardInterrupt

    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    # What a shell starts in the background ignores Ctrl-C, and goes on to.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    can_watch = hasattr(os, "register_at_fork")  # not on Windows
    try:
        with _watched(interrupt, heard, unheard) if unheard and can_watch else contextlib.nullcontext():
            yield
    except Exception as error:
        if heard.is_set() and _hides_an_interrupt(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _hides_an_interrupt(error: BaseException | None) -> bool:
    """Of an error after an interrupt: libraries that were being imported make an ImportError of it, for which a command
    may have a message of its own; a full disk is a full disk."""
    while isinstance(error, L2GError):
        error = error.__cause__ or error.__context__
    return error is not None and not isinstance(error, (OSError, KeyboardInterrupt))


@contextmanager
def _watched(handler: Callable[..., Any], heard: threading.Event, unheard: Callable[[], object]) -> Iterator[None]:
    arrived, arrivals = os.pipe()
    os.set_blocking(arrivals, False)

    def watch() -> None:
        while numbers := os.read(arrived, 16):
            # One that something else hears does not count: the trainer ends its iteration.
            ours = any(signal.getsignal(number) is handler for number in numbers)
            if ours and not heard.wait(PATIENCE_SECONDS):
                unheard()
        os.close(arrived)

    threading.Thread(target=watch, daemon=True, name="l2g-signals").start()
    before = signal.set_wakeup_fd(arrivals, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget_wakeups)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(arrivals)


def _forget_wakeups() -> None:
    """In a forked worker, whose signals are not its parent's."""
    signal.set_wakeup_fd(-1)


def leave(text: str, code: int) -> NoReturn:
    """Say `text` and end the process at once, from any thread; what is not complete on the disk is removed."""
    discard_pending()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os.write(2, f"{text}\n".encode())
    os._exit(code)


def end(code: int) -> NoReturn:
    """End the process in order, but without taking the interpreter down."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
