"""The one interface that every inference library is driven through, and the state that crosses it.

A backend owns the recurrent state of its B streams and keeps it on its own device; the host sees frames go in and
results come out. Nothing here imports torch or an inference library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import ContractError
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.outputs import FrameOutputs


@dataclass(frozen=True)
class HostState:
    """The state of B streams on the host.

    tensors: by the name of the contract's state input, [B, ...] each (Local2Global: `prior_queries` float32 [B, N, C],
    `prior_boxes` float32 [B, N, 4]). valid: bool [B], False where a stream has no history; what such a row holds counts
    for nothing.
    """

    tensors: Mapping[str, Array]
    valid: BoolArray

    @classmethod
    def empty(cls, contract: GraphContract, streams: int) -> HostState:
        """Streams without a history: the contract's initial content, zeros."""
        specs = [contract.input(state.input) for state in contract.states]
        tensors = {spec.name: np.zeros(spec.sized(streams), spec.dtype) for spec in specs}
        return cls(tensors, np.zeros(streams, bool))

    @classmethod
    def stacked(cls, states: Sequence[HostState]) -> HostState:
        """The streams of several states, in that order; a copy."""
        tensors = {name: np.concatenate([state.tensors[name] for state in states]) for name in states[0].tensors}
        return cls(tensors, np.concatenate([state.valid for state in states]))

    def __len__(self) -> int:
        """B, how many streams it holds."""
        return len(self.valid)

    def rows(self, rows: Any) -> HostState:
        """Some of its streams: a slice (views) or an array of indices (copies)."""
        return HostState({name: tensor[rows] for name, tensor in self.tensors.items()}, self.valid[rows])

    def copy(self) -> HostState:
        return HostState({name: tensor.copy() for name, tensor in self.tensors.items()}, self.valid.copy())

    def changed(self, change: Callable[[Array], Array]) -> HostState:
        """Every tensor replaced by what `change` makes of it; the same streams are valid."""
        return HostState({name: change(tensor) for name, tensor in self.tensors.items()}, self.valid)

    def check(self, contract: GraphContract) -> None:
        """ContractError unless it holds what the contract carries, in its dtypes and shapes."""
        expected = [state.input for state in contract.states]
        if sorted(self.tensors) != sorted(expected):
            raise ContractError(f"the state holds {sorted(self.tensors)}, the contract carries {sorted(expected)}")
        for name in expected:
            contract.input(name).check(self.tensors[name])


class Backend(Protocol):
    """Drives one model, B streams at a time; B is set by the first `step` and may change through `write_state`."""

    contract: GraphContract

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        """Advance every stream by one frame.

        frames: uint8 [B, H, W, 3] RGB on the network canvas. reset: bool [B], True where this is a stream's first frame
        or its history is to be forgotten. Which kind of outputs comes back is `contract.output_kind`. The arrays are
        the caller's to keep: a backend never writes to them again.
        """

    def read_state(self) -> HostState | None:
        """The state after the last step, copied to the host; None before the first step."""

    def write_state(self, state: HostState) -> None:
        """Replace the state: parity runs feed a reference's, a session re-arranges rows as streams come and go."""

    def close(self) -> None:
        """Free the device. A closed backend is not used again."""
