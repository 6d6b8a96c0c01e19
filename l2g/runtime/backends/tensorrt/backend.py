"""The TensorRT and TensorRT-RTX backends: an engine on a GPU, its state kept there. Needs no torch."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2g.artifacts.sidecar import Gpu, check_file, check_machine, read_sidecar
from l2g.contract import GraphContract, TensorSpec
from l2g.errors import ContractError, EngineError
from l2g.runtime.backends.base import Detections, HostState, RawOutputs
from l2g.runtime.backends.contract_check import RESULTS, STATE_OUTPUTS, check_drivable, sized
from l2g.runtime.backends.tensorrt.device import CudaDevice, Device, find_gpu
from l2g.runtime.backends.tensorrt.executor import EngineExecutor, Executor
from l2g.runtime.backends.tensorrt.library import Library, load_library


class Platform:
    """What the backend stands on: this machine's library and GPU."""

    def library(self, name: str) -> Library:
        return load_library(name)

    def gpu(self, index: int) -> Gpu | None:
        return find_gpu(index)

    def device(self, index: int) -> Device:
        return CudaDevice(index)

    def executor(self, path: Path, content: bytes, library: Library, contract: GraphContract) -> Executor:
        return EngineExecutor(path, content, library, contract)


@dataclass
class _Buffers:
    """Everything that lies on the device, or beside it in pinned memory, for so many streams.

    state: by output name, the two addresses that take turns. device: addresses of all other tensors. host: pinned
    arrays of what crosses. graphs: captured work by which of the two state buffers it reads; None where capture failed.
    """

    streams: int
    state: dict[str, tuple[int, int]] = field(default_factory=dict)
    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, np.ndarray] = field(default_factory=dict)
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
    version, GPU or model. Warns where the engine was never compared with its graph.
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
        library = platform.library(self.sidecar.engine.library)
        self.gpu = platform.gpu(device_index)
        check_machine(self.path, self.sidecar, library.name, library.version, self.gpu)
        if not self.sidecar.engine.verified:
            reason = self.sidecar.engine.verification.get("reason", "no record")
            warnings.warn(
                f"{self.path}: never compared with its graph ({reason}); do it once on this machine with: "
                f"l2g verify --engine {self.path} --onnx {self.sidecar.engine.onnx}",
                stacklevel=2,
            )
        self._device: Device = platform.device(device_index)
        self._executor: Executor = platform.executor(self.path, content, library, self.contract)
        self.library, self.device = library.name, f"cuda:{device_index}"
        self._capture = cuda_graphs and not self._executor.captures_itself
        self._results = RESULTS[self.contract.output_kind]
        self._valid: np.ndarray | None = None  # bool [B]; None before the first step
        self._buffers: _Buffers | None = None
        self._reads = 0  # which of the two state buffers the next step reads

    @property
    def max_streams(self) -> int:
        """The most streams at once that the engine was built for."""
        return self._executor.max_streams

    def step(self, frames: np.ndarray, reset: np.ndarray) -> RawOutputs | Detections:
        self.contract.input("frames").check(frames)
        streams = len(frames)
        if self._valid is None:
            self._allocate(streams)
        elif len(self._valid) != streams:
            raise ContractError(
                f"{streams} frames given, but the state holds {len(self._valid)} streams; "
                "re-arrange the state with write_state first (VideoSession does)"
            )
        buffers, device = self._buffers, self._device
        np.copyto(buffers.host["frames"], frames)
        buffers.host[self.contract.valid_input][:, 0] = self._valid & ~np.asarray(reset, bool)
        self._run()
        device.synchronize()
        self._reads = 1 - self._reads
        self._valid = np.ones(streams, bool)
        # The pinned arrays are written again by the next step; what comes back is the caller's.
        results = {spec.name: buffers.host[spec.name].copy() for spec in self._host_outputs()}
        return self._results(**results)

    def read_state(self) -> HostState | None:
        if self._valid is None:
            return None
        for name in STATE_OUTPUTS:
            self._device.download(self._buffers.host[name], self._buffers.state[name][self._reads])
        self._device.synchronize()
        arrays = [self._buffers.host[name].copy() for name in STATE_OUTPUTS]
        return HostState(*arrays, self._valid.copy())

    def write_state(self, state: HostState) -> None:
        for name in STATE_OUTPUTS:
            self.contract.output(name).check(getattr(state, name))
        streams = len(state.valid)
        if self._valid is None or len(self._valid) != streams:
            self._allocate(streams)
        for name in STATE_OUTPUTS:
            np.copyto(self._buffers.host[name], getattr(state, name))
            self._device.upload(self._buffers.state[name][self._reads], self._buffers.host[name])
        self._device.synchronize()
        self._valid = np.array(state.valid, bool)

    def close(self) -> None:
        if self._executor is None:
            return
        self._free()
        self._executor.close()
        self._device.close()
        self._valid = self._executor = self._device = None

    def _host_outputs(self) -> list[TensorSpec]:
        """What a result is made of; of the state only what its class has a field for."""
        wanted = self._results.__dataclass_fields__
        return [spec for spec in self.contract.outputs if spec.name in wanted]

    def _allocate(self, streams: int) -> None:
        """Buffers for so many streams, no stream valid; zeros, the contract's initial content."""
        if streams > self.max_streams:
            raise EngineError(
                f"{self.path}: {streams} streams at once, the engine was built for at most "
                f"{self.max_streams}; build another with: {self.sidecar.rebuild_command(self.path)} "
                f"--max-streams {streams}"
            )
        self._valid = None
        self._free()
        device, buffers = self._device, _Buffers(streams)
        self._buffers = buffers  # at once, so that a failure below leaves nothing behind that is not freed
        carried = {state.output for state in self.contract.states}
        fed = {state.input for state in self.contract.states}
        for spec in (*self.contract.inputs, *self.contract.outputs):
            size = int(np.prod(sized(spec, streams))) * np.dtype(spec.dtype).itemsize
            if spec.name in carried:
                buffers.state[spec.name] = (device.allocate(size), device.allocate(size))
            elif spec.name not in fed:
                buffers.device[spec.name] = device.allocate(size)
            if spec.name not in fed:
                buffers.host[spec.name] = device.pinned(sized(spec, streams), spec.dtype)
        for spec in self.contract.inputs:
            self._executor.shape(spec.name, sized(spec, streams))
        for name, address in buffers.device.items():
            self._executor.bind(name, address)
        self._reads = 0
        self._valid = np.zeros(streams, bool)

    def _run(self) -> None:
        """One frame's work on the stream: uploads, the engine, downloads."""
        buffers = self._buffers
        if (graph := buffers.graphs.get(self._reads)) is not None:
            self._device.launch(graph)
            return
        self._bind_state()
        # A library may allocate in the first step after a change of shapes, which a capture does not survive.
        if self._capture and buffers.steps >= 2 and self._reads not in buffers.graphs:
            try:
                buffers.graphs[self._reads] = self._device.capture(self._enqueue)
            except EngineError as error:
                self._capture = False
                warnings.warn(f"{self.path}: runs without CUDA graphs ({error})", stacklevel=4)
            else:
                self._device.launch(buffers.graphs[self._reads])
                return
        self._enqueue()
        buffers.steps += 1

    def _bind_state(self) -> None:
        for state in self.contract.states:
            pair = self._buffers.state[state.output]
            self._executor.bind(state.input, pair[self._reads])
            self._executor.bind(state.output, pair[1 - self._reads])

    def _enqueue(self) -> None:
        buffers, device = self._buffers, self._device
        for name in ("frames", self.contract.valid_input):
            device.upload(buffers.device[name], buffers.host[name])
        self._executor.enqueue(device.stream)
        for spec in self._host_outputs():
            pair = buffers.state.get(spec.name)
            device.download(buffers.host[spec.name], pair[1 - self._reads] if pair else buffers.device[spec.name])

    def _free(self) -> None:
        buffers, self._buffers = self._buffers, None
        if buffers is None:
            return
        # Nothing may be freed that the device still works on.
        with contextlib.suppress(EngineError):
            self._device.synchronize()
        for graph in buffers.graphs.values():
            self._device.destroy(graph)
        for address in (*buffers.device.values(), *(a for pair in buffers.state.values() for a in pair)):
            self._device.free(address)
        for array in buffers.host.values():
            self._device.release(array)
