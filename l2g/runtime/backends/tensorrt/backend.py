"""The TensorRT and TensorRT-RTX backends: an engine on a GPU, its state kept there. Needs no torch."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2g.artifacts.sidecar import EngineFacts, Gpu, Sidecar, check_file, check_machine, read_sidecar
from l2g.contract import TensorSpec
from l2g.errors import ContractError, EngineError
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.contract_check import check_drivable
from l2g.runtime.backends.tensorrt.device import CudaDevice, Device, find_gpu
from l2g.runtime.backends.tensorrt.executor import EngineExecutor, Executor
from l2g.runtime.backends.tensorrt.library import Library, load_runtime
from l2g.runtime.outputs import FrameOutputs, outputs_class


class Platform:
    """What the backend stands on: this machine's library and GPU."""

    def library(self, engine: EngineFacts) -> Library:
        """The one to run an engine in."""
        return load_runtime(engine.runtimes, lambda library: engine.runs_in(library.version))

    def gpu(self, index: int) -> Gpu | None:
        return find_gpu(index)

    def device(self, index: int) -> Device:
        return CudaDevice(index)

    def executor(self, path: Path, content: bytes, library: Library, sidecar: Sidecar) -> Executor:
        return EngineExecutor(path, content, library, sidecar)


@dataclass
class _Buffers:
    """Everything that lies on the device, or beside it in pinned memory, for so many streams.

    valid: bool [B], which streams have a history. reads: which of the two state buffers the next step reads. state: by
    output name, the two addresses that take turns. device: addresses of all other tensors. host: pinned arrays of what
    crosses. graphs: captured work, by which of the two state buffers it reads.
    """

    valid: BoolArray
    reads: int = 0
    state: dict[str, list[int]] = field(default_factory=dict)
    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, Array] = field(default_factory=dict)
    graphs: dict[int, Any] = field(default_factory=dict)
    steps: int = 0


class TensorRTBackend:
    """Drives an engine frame by frame; see `l2g.runtime.backends.base.Backend`.

    The state of B streams lives in two sets of buffers on the device: a step reads the one and writes the other, and
    the next step is bound the other way round, so nothing is copied. Frames and results cross through pinned memory,
    results of the kind "detections" being the chosen instances alone. All work is on one stream of its own. From
    the third step on a step is one launch of a captured graph, of which there are two, one for each direction; where
    the work cannot be captured, steps go on being enqueued.

    Args:
        path: an engine that `l2g build` wrote, with its sidecar beside it.
        device_index: which GPU.
        cuda_graphs: False never captures.
        platform: where library, GPU, memory and execution come from; tests imagine one.

    Raises EngineError, with the way to mend it, for an engine that its sidecar does not vouch for, of another library,
    version, GPU or model. Warns where the engine is not verified against its graph.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device_index: int = 0,
        cuda_graphs: bool = True,
        platform: Platform | None = None,
    ):
        self.path, platform = Path(path), platform or Platform()
        self.sidecar = read_sidecar(self.path)
        self.contract = self.sidecar.contract
        check_drivable(self.path, self.contract, self.sidecar.rebuild_command(self.path))
        content = check_file(self.path, self.sidecar)
        library = platform.library(self.sidecar.engine)
        self.gpu = platform.gpu(device_index)
        check_machine(self.path, self.sidecar, library.name, library.version, self.gpu)
        if not self.sidecar.engine.verified:
            reason = self.sidecar.engine.verification.reason or "no record"
            warnings.warn(
                f"{self.path}: not verified against its graph ({reason}); do it once on this machine with: "
                f"l2g verify --engine {self.path} --onnx {self.sidecar.engine.onnx}",
                stacklevel=2,
            )
        self._device: Device = platform.device(device_index)
        self._executor: Executor = platform.executor(self.path, content, library, self.sidecar)
        self.library, self.device = library.name, f"cuda:{device_index}"
        self._capture = cuda_graphs and not self._executor.captures_itself
        self._closed = False
        self._results = outputs_class(self.contract)
        self._buffers: _Buffers | None = None  # None before the first step

    @property
    def max_streams(self) -> int:
        """The most streams at once that the engine was built for."""
        return self._executor.max_streams

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        self.contract.input("frames").check(frames)
        buffers = self._buffers or self._allocate(len(frames))
        if len(buffers.valid) != len(frames):
            raise ContractError(
                f"{len(frames)} frames given, but the state holds {len(buffers.valid)} streams; "
                "re-arrange the state with write_state first (VideoSession does)"
            )
        np.copyto(buffers.host["frames"], frames)
        buffers.host[self.contract.valid_input][:, 0] = buffers.valid & ~np.asarray(reset, bool)
        self._run(buffers)
        self._device.synchronize()
        buffers.reads = 1 - buffers.reads
        buffers.valid = np.ones(len(frames), bool)
        # The pinned arrays are written again by the next step; what comes back is the caller's.
        results: dict[str, Array] = {spec.name: buffers.host[spec.name].copy() for spec in self._host_outputs()}
        return self._results.of(results)

    def read_state(self) -> HostState | None:
        buffers = self._buffers
        if buffers is None:
            return None
        for pair in self.contract.states:
            self._device.download(buffers.host[pair.output], buffers.state[pair.output][buffers.reads])
        self._device.synchronize()
        tensors = {pair.input: buffers.host[pair.output].copy() for pair in self.contract.states}
        return HostState(tensors, buffers.valid.copy())

    def write_state(self, state: HostState) -> None:
        state.check(self.contract)
        buffers = self._buffers
        if buffers is None or len(buffers.valid) != len(state):
            buffers = self._allocate(len(state))
        for pair in self.contract.states:
            np.copyto(buffers.host[pair.output], state.tensors[pair.input])
            self._device.upload(buffers.state[pair.output][buffers.reads], buffers.host[pair.output])
        self._device.synchronize()
        buffers.valid = np.array(state.valid, bool)

    def close(self) -> None:
        if self._closed:
            return
        self._free()
        self._executor.close()
        self._device.close()
        self._closed = True

    def _host_outputs(self) -> list[TensorSpec]:
        """What a result is made of; of the state only what its class has a field for."""
        wanted = self._results.__dataclass_fields__
        return [spec for spec in self.contract.outputs if spec.name in wanted]

    def _allocate(self, streams: int) -> _Buffers:
        """Buffers for so many streams, no stream valid; zeros, the contract's initial content."""
        if streams > self.max_streams:
            raise EngineError(
                f"{self.path}: {streams} streams at once, the engine was built for at most "
                f"{self.max_streams}; build another with: {self.sidecar.rebuild_command(self.path)} "
                f"--max-streams {streams}"
            )
        self._free()
        buffers = _Buffers(np.zeros(streams, bool))
        try:
            self._fill(buffers, streams)
        except BaseException:
            self._release(buffers)
            raise
        self._buffers = buffers
        return buffers

    def _fill(self, buffers: _Buffers, streams: int) -> None:
        device = self._device
        carried = {state.output for state in self.contract.states}
        fed = {state.input for state in self.contract.states}
        for spec in (*self.contract.inputs, *self.contract.outputs):
            shape = spec.sized(streams)
            size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
            if spec.name in carried:
                buffers.state[spec.name] = []  # at once, so that what it holds is freed whatever fails
                for _ in range(2):
                    buffers.state[spec.name].append(device.allocate(size))
            elif spec.name not in fed:
                buffers.device[spec.name] = device.allocate(size)
            if spec.name not in fed:
                buffers.host[spec.name] = device.pinned(shape, spec.dtype)
        for spec in self.contract.inputs:
            self._executor.shape(spec.name, spec.sized(streams))
        for name, address in buffers.device.items():
            self._executor.bind(name, address)

    def _run(self, buffers: _Buffers) -> None:
        """One frame's work on the stream: uploads, the engine, downloads."""
        if (graph := buffers.graphs.get(buffers.reads)) is not None:
            self._device.launch(graph)
            return
        for state in self.contract.states:
            pair = buffers.state[state.output]
            self._executor.bind(state.input, pair[buffers.reads])
            self._executor.bind(state.output, pair[1 - buffers.reads])
        # A library may allocate in the first step after a change of shapes, which a capture does not survive.
        if self._capture and buffers.steps >= 2 and buffers.reads not in buffers.graphs:
            try:
                buffers.graphs[buffers.reads] = self._device.capture(lambda: self._enqueue(buffers))
            except EngineError as error:
                self._capture = False
                warnings.warn(f"{self.path}: runs without CUDA graphs ({error})", stacklevel=4)
            else:
                self._device.launch(buffers.graphs[buffers.reads])
                return
        self._enqueue(buffers)
        buffers.steps += 1

    def _enqueue(self, buffers: _Buffers) -> None:
        device = self._device
        for name in ("frames", self.contract.valid_input):
            device.upload(buffers.device[name], buffers.host[name])
        self._executor.enqueue(device.stream)
        for spec in self._host_outputs():
            pair = buffers.state.get(spec.name)
            address = pair[1 - buffers.reads] if pair else buffers.device[spec.name]
            device.download(buffers.host[spec.name], address)

    def _free(self) -> None:
        buffers, self._buffers = self._buffers, None
        if buffers is not None:
            self._release(buffers)

    def _release(self, buffers: _Buffers) -> None:
        # Nothing may be freed that the device still works on.
        with contextlib.suppress(EngineError):
            self._device.synchronize()
        for graph in buffers.graphs.values():
            self._device.destroy(graph)
        for address in (*buffers.device.values(), *(a for pair in buffers.state.values() for a in pair)):
            self._device.free(address)
        for array in buffers.host.values():
            self._device.release(array)
