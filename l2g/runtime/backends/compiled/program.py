"""A step compiled for a number of streams: its buffers, and the work in each direction between two sets of state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2g.contract import GraphContract
from l2g.modeling.stateless_step import StatelessStep
from l2g.progress import Progress
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.compiled.audit import Product, fused_attentions, products
from l2g.runtime.backends.compiled.launch import Launcher
from l2g.runtime.backends.compiled.trace import trace
from l2g.runtime.backends.contract_check import first_line

# A list of operators for one shape: there is nothing in it that could break the graph or be left open.
_FUSE: dict[str, Any] = {"fullgraph": True, "dynamic": False}


class Program:
    """Steps of up to `streams` streams. Rows beyond those in use are computed and never read.

    The state lies in two sets of buffers. Either work reads one set and writes the other, so a step swaps them and
    copies nothing.

    fuse: let `torch.compile` join what is between the products. fused: whether it did.
    """

    def __init__(
        self,
        step: StatelessStep,
        contract: GraphContract,
        streams: int,
        launcher: Launcher,
        fuse: bool,
        progress: Progress,
    ):
        self.streams, self._contract, self._launcher = streams, contract, launcher
        stages = ("trace", "fuse", "warm up") if fuse else ("trace", "warm up")
        names = {name: f"{name} for {streams} stream{'s' if streams > 1 else ''}" for name in stages}
        progress.plan(dict.fromkeys(names.values(), 1))
        carried = [pair.output for pair in contract.states]
        self._names = [spec.name for spec in contract.outputs if spec.name not in carried]
        with launcher.scope():
            self.frames = self._zeros("frames")
            self.valid = self._zeros(contract.valid_input)
            self.states = [[self._zeros(pair.input) for pair in contract.states] for _ in range(2)]
            self._staged = {id(tensor): launcher.staging(tensor) for tensor in (self.frames, self.valid)}
            progress.stage(names["trace"])
            traced = trace(step, (self.frames, *self.states[0], self.valid))
            self.products: tuple[Product, ...] = products(traced, step)
            self.fused_attentions = fused_attentions(traced)
            self._compute: Callable[..., tuple[Tensor, ...]] = traced
            self.fused = fuse
            if fuse:
                progress.stage(names["fuse"])
                self._fuse(traced)
            progress.stage(names["warm up"])
            self._works = launcher.ready([lambda: self._work(0), lambda: self._work(1)])
            progress.step()

    def run(self, reads: int, frames: ByteArray, valid: BoolArray) -> dict[str, Array]:
        """A step from the state set `reads` into the other one: frames uint8 [B, H, W, 3] and valid bool [B], B at most
        `streams`; results of B rows by the contract's names, with the new state's."""
        count = len(frames)
        with self._launcher.scope():
            self._enter(self.frames, frames)
            self._enter(self.valid, valid[:, None])
            results = self._works[reads]()
            carried = [pair.output for pair in self._contract.states]
            names, tensors = [*self._names, *carried], [*results, *self.states[1 - reads]]
            arrays = self._launcher.fetch([tensor[:count] for tensor in tensors])
        return dict(zip(names, arrays, strict=True))

    def read(self, which: int, count: int) -> dict[str, Array]:
        """The first rows of a state set, by the contract's inputs."""
        with self._launcher.scope():
            arrays = self._launcher.fetch([tensor[:count] for tensor in self.states[which]])
        return {pair.input: array for pair, array in zip(self._contract.states, arrays, strict=True)}

    def write(self, which: int, state: HostState) -> None:
        """Into the first rows of a state set."""
        with self._launcher.scope():
            for pair, tensor in zip(self._contract.states, self.states[which], strict=True):
                tensor[: len(state)].copy_(torch.from_numpy(np.array(state.tensors[pair.input])))

    def _work(self, reads: int) -> tuple[Tensor, ...]:
        results = self._compute(self.frames, *self.states[reads], self.valid)
        written = self.states[1 - reads]
        for buffer, carried in zip(written, results, strict=False):
            buffer.copy_(carried)
        specs = (self._contract.output(name) for name in self._names)
        return tuple(
            result.to(getattr(torch, spec.dtype)) for result, spec in zip(results[len(written) :], specs, strict=True)
        )

    def _fuse(self, traced: Callable[..., tuple[Tensor, ...]]) -> None:
        """torch.compile's code, where it makes some on this machine."""
        self._compute = torch.compile(traced, **_FUSE)
        try:
            self._work(0)
        except Exception as error:  # a compiler that is not there, say: of whatever class
            warnings.warn(f"runs without torch.compile ({first_line(error)})", stacklevel=2)
            self._compute, self.fused = traced, False

    def _enter(self, buffer: Tensor, content: Array) -> None:
        staged, count = self._staged[id(buffer)][: len(content)], len(content)
        np.copyto(staged.numpy(), content, casting="unsafe")
        if staged.data_ptr() != buffer.data_ptr():
            buffer[:count].copy_(staged, non_blocking=True)

    def _zeros(self, name: str) -> Tensor:
        """A buffer for an input of the contract."""
        spec = self._contract.input(name)
        return torch.zeros(spec.sized(self.streams), dtype=getattr(torch, spec.dtype), device=self._launcher.device)
