"""Who looks on while a run goes on: nobody, the terminal, a page, what sends results on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l2g.runtime.arrays import ByteArray
from l2g.runtime.frame_result import FrameResult


@dataclass(frozen=True)
class Progress:
    """One result and how its stream fares.

    stream: its name. picture: uint8 [H, W, 3] RGB with the tracks drawn, if somebody wants pictures or an overlay is
    written. age: seconds from the arrival of the frame to its result. done, dropped: frames so far. tracks: so far.
    connections: how often the source was lost. rate: results per second, None at the first.
    """

    stream: str
    result: FrameResult
    picture: ByteArray | None
    age: float
    done: int
    dropped: int
    tracks: int
    connections: int
    rate: float | None


class Watcher:
    """Looks on and does nothing; what it is told comes from several threads."""

    wants_pictures = False

    def expect(self, streams: Sequence[str]) -> None:
        """The names of the streams of a run that begins."""

    def result(self, progress: Progress) -> None:
        """A result was written."""

    def say(self, text: str) -> None:
        """Something that a user should know now: a source lost or found again, a stream begun anew, a stall."""


class Together(Watcher):
    """Several who look on."""

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = watchers

    @property
    def wants_pictures(self) -> bool:  # type: ignore[override]  # a plain False in most
        return any(watcher.wants_pictures for watcher in self._watchers)

    def expect(self, streams: Sequence[str]) -> None:
        for watcher in self._watchers:
            watcher.expect(streams)

    def result(self, progress: Progress) -> None:
        for watcher in self._watchers:
            watcher.result(progress)

    def say(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.say(text)


class Terminal(Watcher):
    """Says what happens, each thing in a line."""

    def __init__(self, out: Callable[[str], None]):
        self._out = out

    def say(self, text: str) -> None:
        self._out(text)
