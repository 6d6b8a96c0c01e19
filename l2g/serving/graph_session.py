"""A session over a graph that the server runs and whose state it holds: one sequence of that model a stream."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.arrays import Array, ByteArray
from l2g.runtime.identity.slots import SlotLinker
from l2g.runtime.outputs import FrameOutputs, outputs_class

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class GraphCall:
    """One frame for the graph: uint8 [1, H, W, 3] RGB on the canvas, and its place in its sequence."""

    frames: ByteArray
    correlation: int
    start: bool
    end: bool = False


# Runs calls of different sequences at the same time; the graph's outputs by name, with a batch of 1, for each.
RunGraph = Callable[[Sequence[GraphCall]], list[Mapping[str, Array]]]


@dataclass
class _Sequence:
    """fresh: its next frame is a first frame. begun: the server knows of it."""

    correlation: int = field(default_factory=lambda: random.getrandbits(62) + 1)
    fresh: bool = True
    begun: bool = False
    linker: SlotLinker = field(default_factory=SlotLinker)


class GraphSession:
    """What `VideoSession` is for a backend in this process.

    The server frees a sequence with its last frame, or when it has been idle: `leave` sends a black one, which costs a
    step. It does so in the thread that steps alone, since models are called from no other.
    """

    def __init__(self, contract: GraphContract, run: RunGraph):
        self._contract, self._run = contract, run
        self._results = outputs_class(contract)
        self._links = contract.association == "embedding"
        self._sequences: dict[Hashable, _Sequence] = {}
        self._thread = 0

    @property
    def contract(self) -> GraphContract:
        return self._contract

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that are asked for."""
        return [spec.name for spec in self._contract.outputs if spec.name in self._results.__dataclass_fields__]

    def join(self, stream: Hashable) -> None:
        if stream in self._sequences:
            raise L2GError(f"stream {stream!r} has joined already; leave() it first, or reset() it to start it anew")
        self._sequences[stream] = _Sequence()

    def reset(self, stream: Hashable) -> None:
        sequence = self._sequences[stream]
        sequence.fresh = True
        sequence.linker.reset()

    def leave(self, stream: Hashable) -> None:
        sequence = self._sequences.pop(stream)
        if sequence.begun and threading.get_ident() == self._thread:
            black = np.zeros((1, self._contract.height, self._contract.width, 3), np.uint8)
            # One that the server has ended already is as good.
            with contextlib.suppress(L2GError):
                self._run([GraphCall(black, sequence.correlation, start=False, end=True)])

    def step(self, frames: Mapping[Key, ByteArray]) -> dict[Key, FrameOutputs]:
        if not frames:
            return {}
        self._thread = threading.get_ident()
        calls = []
        for stream, frame in frames.items():
            sequence = self._sequences[stream]
            calls.append(GraphCall(frame[None], sequence.correlation, start=sequence.fresh))
        results: dict[Key, FrameOutputs] = {}
        for stream, arrays in zip(frames, self._run(calls), strict=True):
            sequence = self._sequences[stream]
            sequence.fresh, sequence.begun = False, True
            outputs = self._results.of(arrays)
            results[stream] = sequence.linker.link(outputs) if self._links else outputs
        return results

    def close(self) -> None:
        """The server ends what is left when it has been idle."""
        self._sequences.clear()
