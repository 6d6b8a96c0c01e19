"""The ONNX Runtime backend: an exported graph on the CPU or on a CUDA device, its state kept there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from l2g.artifacts.graph_sum import check_graph
from l2g.contract import METADATA_KEY
from l2g.errors import ContractError, L2GError
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.contract_check import (
    cannot_open,
    check_boundary,
    check_drivable,
    describe,
    export_command,
    first_line,
    parse_contract,
)
from l2g.runtime.backends.optimised import KeptGraph
from l2g.runtime.memory import return_memory
from l2g.runtime.outputs import FrameOutputs, outputs_class

Provider = str | tuple[str, Mapping[str, Any]]

# Unless told, CUDA rounds the operands of products to TF32 (10 bits of mantissa), which is no parity with FP32.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}


class OnnxRuntimeBackend:
    """Drives an exported graph frame by frame; see `l2g.runtime.backends.base.Backend`. Needs no torch.

    The state of B streams lives in two sets of buffers on the device: a step reads the one and writes the other, then
    they swap. Only results and frames cross to and from the host.

    Args:
        path: an ONNX file that `l2g export` wrote.
        providers: ONNX Runtime's execution providers, best first, with options where needed, such as
            [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]. None: CUDA where this installation
            and this machine have it, else the CPU. CUDA without options computes FP32 in full, not in TF32.
        threads: of the CPU provider within an operator; None is ONNX Runtime's own choice, the physical cores.
        keep: on a CPU, keep the graph as it was optimised, so that the next opening costs a third (`optimised`).

    Raises ContractError for a file without a contract, with one of another version, with other inputs and outputs
    than its contract says, or whose graph was changed after its export; L2GError for a file that is no ONNX graph or a
    provider that is not available.
    """

    def __init__(
        self,
        path: str | Path,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        keep: bool = False,
    ):
        self.path = Path(path)
        self._session, kept = _open_session(self.path, providers, threads, keep)
        command = export_command(self.path)
        try:
            self.contract = parse_contract(
                self.path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), command
            )
            if not kept.found:
                check_graph(self.path, self.contract, command)
            found = {"input": _tensors(self._session.get_inputs()), "output": _tensors(self._session.get_outputs())}
            check_boundary(self.path, self.contract, found, command)
            check_drivable(self.path, self.contract, command)
            kept.keep()
        finally:
            kept.discard()
        self.device, self._device_id = _device(self._session)
        self._results = outputs_class(self.contract)
        carried = {state.output for state in self.contract.states}
        self._host_outputs = [spec for spec in self.contract.outputs if spec.name not in carried]
        self._shown_state = carried & set(self._results.__dataclass_fields__)
        # By output name: what the next step reads, and what it writes.
        self._current: dict[str, ort.OrtValue] = {}
        self._next: dict[str, ort.OrtValue] = {}
        self._valid: BoolArray | None = None  # bool [B]; None before the first step
        return_memory()

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        self.contract.input("frames").check(frames)
        streams = len(frames)
        if self._valid is None:
            self._valid = self._allocate(streams)
        elif len(self._valid) != streams:
            raise ContractError(
                f"{streams} frames given, but the state holds {len(self._valid)} streams; "
                "re-arrange the state with write_state first (VideoSession does)"
            )
        valid = (self._valid & ~np.asarray(reset, bool)).astype(np.float32)[:, None]
        binding = self._session.io_binding()
        binding.bind_cpu_input("frames", np.ascontiguousarray(frames))
        binding.bind_cpu_input(self.contract.valid_input, valid)
        for state in self.contract.states:
            binding.bind_ortvalue_input(state.input, self._current[state.output])
            binding.bind_ortvalue_output(state.output, self._next[state.output])
        results: dict[str, Array] = {}
        for spec in self._host_outputs:
            # Memory of the caller's own: no copy on a CPU, one copy off any other device.
            array = results[spec.name] = np.empty(spec.sized(streams), spec.dtype)
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._run(binding)
        self._current, self._next = self._next, self._current
        self._valid = np.ones(streams, bool)
        for name in self._shown_state:
            results[name] = _copy(self._current[name])
        return self._results.of(results)

    def read_state(self) -> HostState | None:
        if self._valid is None:
            return None
        tensors = {state.input: _copy(self._current[state.output]) for state in self.contract.states}
        return HostState(tensors, self._valid.copy())

    def write_state(self, state: HostState) -> None:
        state.check(self.contract)
        if self._valid is None or len(self._valid) != len(state):
            self._allocate(len(state))
        for pair in self.contract.states:
            self._current[pair.output].update_inplace(np.ascontiguousarray(state.tensors[pair.input]))
        self._valid = np.array(state.valid, bool)

    def close(self) -> None:
        self._current, self._next, self._valid, self._session = {}, {}, None, None

    def _allocate(self, streams: int) -> BoolArray:
        """Two sets of buffers for so many streams, of zeros, the contract's initial content; none of them is valid."""
        for buffers in (self._current, self._next):
            for state in self.contract.states:
                spec = self.contract.output(state.output)
                zeros = np.zeros(spec.sized(streams), spec.dtype)
                value = ort.OrtValue.ortvalue_from_shape_and_type(
                    list(zeros.shape), zeros.dtype.type, self.device, self._device_id
                )
                value.update_inplace(zeros)
                buffers[state.output] = value
        return np.zeros(streams, bool)

    def _run(self, binding: ort.IOBinding) -> None:
        try:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's own classes share no other base
            raise L2GError(f"{self.path}: ONNX Runtime failed in a step: {first_line(error)}") from None


def _open_session(
    path: Path, providers: Sequence[Provider] | None, threads: int | None, keep: bool
) -> tuple[ort.InferenceSession, KeptGraph]:
    if not path.is_file():
        raise L2GError(f"{path}: no such file; export a checkpoint with: {export_command(path)}")
    available = ort.get_available_providers()
    wanted = [p if isinstance(p, str) else p[0] for p in providers or ()]
    absent = [name for name in wanted if name not in available]
    if absent:
        raise L2GError(
            f"execution provider '{absent[0]}' asked for, this ONNX Runtime has {', '.join(available)}; "
            "for CUDA install it with: pip install 'l2g[gpu]'"
        )
    if providers is None:
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    providers = [_CUDA if provider == _CUDA[0] else provider for provider in providers]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait for their share of an operator spin for 20 us, in which most waits end, and then sleep: decoder
    # and encoder want those cores. If they sleep at once an R50 at 480x864 takes 3 to 10 % longer. A version that does
    # not know the key spins for milliseconds.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    if threads is not None:
        if threads < 1:
            raise L2GError(f"{threads} threads asked for, at least 1 expected")
        options.intra_op_num_threads = threads
    chosen = list(providers)

    def opened(name: str, options: ort.SessionOptions) -> ort.InferenceSession:
        return ort.InferenceSession(name, options, providers=chosen)

    try:
        # What is optimised for another provider cannot be written down.
        may_keep = keep and chosen == ["CPUExecutionProvider"]
        kept = KeptGraph(path, opened)
        session = kept.open(options) if may_keep else opened(str(path), options)
    except Exception as error:  # ONNX Runtime's own classes share no other base
        if "NOT_IMPLEMENTED" in str(error) and b"bfloat" in path.read_bytes():  # how l2g names what is cast to BF16
            raise L2GError(
                f"{path}: BF16 found, and ONNX Runtime's CPU has no BF16; run it with --library openvino, or export it "
                "with --precision fp32"
            ) from None
        raise cannot_open(path, "ONNX Runtime", error, first_line(error), export_command(path)) from None
    # ONNX Runtime goes on with the CPU, in silence, when CUDA's libraries cannot be loaded.
    if wanted and wanted[0] not in session.get_providers():
        kept.discard()
        raise L2GError(
            f"execution provider '{wanted[0]}' could not be started, ONNX Runtime offers "
            f"{', '.join(session.get_providers())}; check the GPU's driver and the CUDA and cuDNN libraries"
        )
    return session, kept


def _tensors(nodes: Sequence[ort.NodeArg]) -> dict[str, str]:
    return {node.name: describe(_DTYPES.get(node.type, node.type), node.shape) for node in nodes}


def _device(session: ort.InferenceSession) -> tuple[str, int]:
    """Where the state lives: ("cuda", number) or ("cpu", 0)."""
    if "CUDAExecutionProvider" not in session.get_providers():
        return "cpu", 0
    options = session.get_provider_options().get("CUDAExecutionProvider", {})
    return "cuda", int(options.get("device_id", 0))


def _copy(value: ort.OrtValue) -> Array:
    # On a CPU numpy() is a view of the buffer that the next step but one writes.
    return np.array(value.numpy())
