"""Streams that come, go and pause, carried through one backend whose state is a row per stream."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import ContractError, L2GError
from l2g.runtime.arrays import Array, ByteArray
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.identity.slots import SlotLinker
from l2g.runtime.outputs import FrameOutputs

ASSOCIATIONS = ("propagate", "embedding")

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Stream:
    """What a session knows of one stream: its state (B = 1) while another set of rows is on the device, and how to
    begin."""

    fresh: bool = True
    state: HostState | None = None
    linker: SlotLinker = field(default_factory=SlotLinker)


@runtime_checkable
class Session(Protocol):
    """Carries streams through a model; what `VideoSession` does, wherever the state is held."""

    @property
    def contract(self) -> GraphContract: ...

    def join(self, stream: Hashable) -> None: ...

    def reset(self, stream: Hashable) -> None: ...

    def leave(self, stream: Hashable) -> None: ...

    def step(self, frames: Mapping[Key, ByteArray]) -> dict[Key, FrameOutputs]: ...

    def close(self) -> None: ...


class VideoSession:
    """Carries any number of streams through `backend`, each with its own state.

    with VideoSession(backend) as session:
        session.join("door")
        outputs = session.step({"door": canvas})["door"]

    Every `step` advances the streams that it is given a frame of; the others keep their state untouched. Streams that
    share a step give the results that each would give alone. While the same streams are stepped, their state never
    leaves the device; it is re-arranged through the host when the set changes.

    For an image model (association "embedding") no state is carried: every frame is a first frame and the slots of
    each stream are linked by their embeddings.

    The session owns no thread and takes no lock: drive it from one thread. `close` closes the backend.
    """

    def __init__(self, backend: Backend):
        if backend.contract.association not in ASSOCIATIONS:
            raise ContractError(
                f"association '{backend.contract.association}' found in the contract, one of {list(ASSOCIATIONS)} "
                "expected; export the model again with this version of l2g"
            )
        self.backend = backend
        self._links = backend.contract.association == "embedding"
        self._streams: dict[Hashable, _Stream] = {}
        self._rows: list[Hashable | None] = []  # which stream each row of the backend's state belongs to

    @property
    def contract(self) -> GraphContract:
        """The model's."""
        return self.backend.contract

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """The streams that have joined, in that order."""
        return tuple(self._streams)

    def join(self, stream: Hashable, memory: Mapping[str, Array] | None = None) -> None:
        """Add a stream; its next frame is a first frame, or the one after what `memory` told. L2GError when one of that
        name is there, ContractError for the memory of another model."""
        if stream in self._streams:
            raise L2GError(f"stream {stream!r} has joined already; leave() it first, or reset() it to start it anew")
        self._streams[stream] = _Stream() if memory is None else self._recalled(memory)

    def reset(self, stream: Hashable) -> None:
        """Forget a stream's history: its next frame is a first frame. Other streams are untouched."""
        entry = self._stream(stream)
        entry.fresh, entry.state = True, None
        entry.linker.reset()

    def leave(self, stream: Hashable) -> None:
        """Remove a stream and forget its state."""
        self._stream(stream)
        del self._streams[stream]
        self._rows = [None if row == stream else row for row in self._rows]

    def step(self, frames: Mapping[Key, ByteArray]) -> dict[Key, FrameOutputs]:
        """Advance the streams of `frames` by one frame each.

        frames: uint8 [H, W, 3] RGB on the network canvas, by stream. Returns each stream's outputs, with B = 1.
        Raises L2GError for a stream that has not joined or a frame that is not of the canvas.
        """
        if not frames:
            return {}
        for stream, frame in frames.items():
            self._stream(stream)
            self._check_frame(stream, frame)
        # Streams keep the order in which they joined, whatever the order of the mapping: fewer re-arrangements.
        places = {stream: place for place, stream in enumerate(self._streams)}
        rows = sorted(frames, key=lambda stream: places[stream])
        if rows != self._rows:
            self._arrange(rows)
        reset = np.array([self._links or self._streams[stream].fresh for stream in rows])
        outputs = self.backend.step(np.stack([frames[stream] for stream in rows]), reset)
        results = {}
        for index, stream in enumerate(rows):
            entry = self._streams[stream]
            entry.fresh = False
            row = outputs.stream(index)
            results[stream] = entry.linker.link(row) if self._links else row
        return results

    def states(self) -> dict[Hashable, HostState]:
        """What each stream's next frame starts from, B = 1 each; read off the device."""
        held = self.backend.read_state()
        found = {}
        for stream, entry in self._streams.items():
            if entry.state is not None:
                found[stream] = entry.state
            elif held is None or entry.fresh or self._links:
                found[stream] = HostState.empty(self.backend.contract, 1)
            else:
                row = self._rows.index(stream)
                found[stream] = held.rows(slice(row, row + 1))
        return found

    def memory(self, stream: Hashable) -> dict[str, Array]:
        """What the stream's next frame starts from, as arrays by name, for `join`; read off the device."""
        entry = self._stream(stream)
        if self._links:
            linked = entry.linker.previous
            return {} if linked is None else {"linked": linked}
        state = self.states()[stream]
        return {f"state.{name}": array for name, array in state.tensors.items()} | {"valid": state.valid}

    def _recalled(self, memory: Mapping[str, Array]) -> _Stream:
        if self._links:
            return _Stream(linker=SlotLinker(memory.get("linked")))
        tensors = {name.removeprefix("state."): array for name, array in memory.items() if name.startswith("state.")}
        state = HostState(tensors, memory.get("valid", np.zeros(0, bool)))
        state.check(self.backend.contract)
        return _Stream(fresh=not state.valid.all(), state=state)

    def close(self) -> None:
        """Close the backend; the session is not used again."""
        self.backend.close()

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _stream(self, stream: Hashable) -> _Stream:
        if stream not in self._streams:
            raise L2GError(f"stream {stream!r} has not joined; joined are {list(self._streams)}: call join() first")
        return self._streams[stream]

    def _check_frame(self, stream: Hashable, frame: ByteArray) -> None:
        expected = (self.backend.contract.height, self.backend.contract.width, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise L2GError(
                f"stream {stream!r}: frame is {frame.dtype} {list(frame.shape)}, expected uint8 {list(expected)}; "
                "put frames on the network canvas with Letterbox.to_canvas"
            )

    def _arrange(self, rows: Sequence[Hashable]) -> None:
        """Give the backend the state of `rows`, keeping a copy of what is taken off the device."""
        held = self.backend.read_state()
        if held is not None or any(self._streams[stream].state is not None for stream in rows):
            if held is not None and not self._links:
                for index, stream in enumerate(self._rows):
                    if stream is not None and not self._streams[stream].fresh:
                        self._streams[stream].state = held.rows(slice(index, index + 1))
            self.backend.write_state(self._gather(rows))
        self._rows = list(rows)

    def _gather(self, rows: Sequence[Hashable]) -> HostState:
        states = []
        for stream in rows:
            entry = self._streams[stream]
            states.append(HostState.empty(self.backend.contract, 1) if entry.state is None else entry.state)
            entry.state = None  # the device holds the truth from here on
        return HostState.stacked(states)
