"""The OpenVINO backend: an exported graph on a CPU (or what else OpenVINO drives), its precision always stated.

Left alone OpenVINO computes a float32 graph in bfloat16 on every CPU that can, without a word. `l2g_tiny` then loses a
third of its AP. So every graph is compiled with its precision said, and refused where it would run in something else;
where a device has no arithmetic of the graph's own types, float32 is said in their place, and the user is told.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from l2g.artifacts.graph_sum import check_graph
from l2g.artifacts.records import Audit
from l2g.contract import METADATA_KEY
from l2g.errors import ContractError, EngineError, L2GError
from l2g.provenance import BuildFacts
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
from l2g.runtime.backends.openvino.audit import Judged, audit, named_attentions, products_of
from l2g.runtime.backends.openvino.kept import Compiled, Facts, KeptModel
from l2g.runtime.backends.openvino.marks import narrow_type, narrowed, widen, with_marks
from l2g.runtime.backends.openvino.rewrites import simplify
from l2g.runtime.memory import return_memory
from l2g.runtime.outputs import FrameOutputs, outputs_class

# What the floating point tensors of a graph are computed in, as OpenVINO spells it.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# The types of a graph stay as they are: float32 is computed in float32, bfloat16 in bfloat16, eight bits in eight.
_AS_TYPED = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "dynamic"}
_DTYPES = {"f32": "float32", "u8": "uint8", "i32": "int32"}
# Of what is to be in a precision at least so much is, by FLOPs; `l2g inspect --min-share` asks for more. Sums of what
# deformable attention samples are float32 whatever is asked for: 5 % of what is around the integers of `l2g_tiny`.
_LEAST = 0.5
# The capability of a device that computes a precision natively; without it OpenVINO widens it to float32 in silence.
_CAPABILITY = {"bf16": "BF16", "fp16": "FP16"}
# The ends of the names of files that stay mapped: of what is kept, and of what `with_marks` wrote.
_WEIGHTS = (".blob", "graph.bin (deleted)")


class OpenVinoBackend:
    """Drives an exported graph frame by frame; see `l2g.runtime.backends.base.Backend`. Needs no torch.

    The state of B streams lives on the host in two sets of buffers: a step reads the one and writes the other, then
    they swap. (OpenVINO's own state begins empty where the batch is free, and is reset for all streams at once.)

    Args:
        path: an ONNX file that `l2g export` wrote.
        device: "CPU", "GPU", "NPU" or "AUTO" (a GPU where there is one, else the CPU), with a number where there are
            several ("GPU.1").
        precision: None computes every tensor in the type that the graph gives it; where the device has no BF16 or FP16
            arithmetic those tensors are computed in float32, with a warning. "fp32", "bf16" or "fp16" is what the
            floating point tensors are computed in whatever their type; the integers of an INT8 graph stay. Lowering a
            float32 graph so has no islands and costs what it costs: `l2g export --precision bf16` is the way.
        threads: None is OpenVINO's own choice, the physical cores.
        cached: keep the compiled model in the cache of l2g, by the sum of the file, OpenVINO's version, device,
            precision and threads.

    `precision` is what it runs in: "fp32", "bf16" or "fp16", of an INT8 graph "int8 + fp32" and so on. `lacking` is
    what the graph has in float32's place and the device cannot compute in, "bf16" or "fp16"; None where it can.

    Raises ContractError for a file without a contract, with one of another version, or with other inputs, outputs or
    precision than its contract says; L2GError for a file that is no ONNX graph, a device that is not there, and a
    precision that the device would compute in another one. Warns where float32 takes the place of the graph's types,
    and where a device does not tell what it computes in.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "CPU",
        precision: str | None = None,
        threads: int | None = None,
        cached: bool = True,
    ):
        self.path, self.device = Path(path), _physical(device.upper())
        _check_file(self.path)
        if threads is not None and threads < 1:
            raise L2GError(f"{threads} threads asked for, at least 1 expected")
        self._asked, self._threads = precision, threads
        kept = KeptModel(self.path, self.device, (str(precision), str(threads))) if cached else None
        opened = kept.open(_core()) if kept else None
        if opened is None:
            opened = self._made()
            if kept and kept.keep(opened):
                # Every opening is the same then, and what compiling leaves in memory goes.
                opened = None
                return_memory()
                opened = kept.open(_core()) or self._made()
        # What is kept lies in a file, where the model reads its weights.
        self._compiled, self._content, facts = opened.model, opened.content, opened.facts
        self.contract = parse_contract(self.path, facts.contract, export_command(self.path))
        self.precision, self.lacking, self._audit = facts.precision, facts.lacking, facts.audit
        self.hint = self._checked_hint(opened)
        self._warn()
        self._request = self._compiled.create_infer_request()
        self._results = outputs_class(self.contract)
        carried = {state.output for state in self.contract.states}
        self._host_outputs = [spec for spec in self.contract.outputs if spec.name not in carried]
        self._shown_state = carried & set(self._results.__dataclass_fields__)
        # By output name: what the next step reads, and what it writes.
        self._current: dict[str, Array] = {}
        self._next: dict[str, Array] = {}
        self._valid: BoolArray | None = None  # bool [B]; None before the first step
        return_memory(_WEIGHTS)

    def _made(self) -> Compiled:
        """From the graph, found good."""
        model, command = _read_model(self.path), export_command(self.path)
        text = _metadata(model)
        contract = parse_contract(self.path, text, command)
        check_graph(self.path, contract, command)
        check_boundary(self.path, contract, _boundary(model), command)
        check_drivable(self.path, contract, command)
        del model  # compiling reads it afresh; its weights need not be there twice
        made = self._compile(contract.build, text or "")
        self._checked_hint(made)
        return made

    def _warn(self) -> None:
        """Of what a user would not expect. The place is always the same, so that each is said once."""
        if self.lacking:
            wide, narrow = self.precision.upper(), self.lacking.upper()
            warnings.warn(
                f"{self.path}: computed in {wide}: {self.device} has no {narrow} arithmetic, so FP32 takes its place",
                stacklevel=2,
            )
        if self._audit is None:
            warnings.warn(
                f"{self.path}: {self.device} does not tell what its layers compute in; all that is known is the "
                f"compiled model's own word, {self.hint}",
                stacklevel=2,
            )

    def _checked_hint(self, compiled: Compiled) -> str:
        """What the library says that it will compute in; L2GError unless it was told so."""
        asked = compiled.facts.settings["INFERENCE_PRECISION_HINT"]
        found = compiled.model.get_property("INFERENCE_PRECISION_HINT")
        hint = str(found.get_type_name()) if hasattr(found, "get_type_name") else str(found)
        if hint != asked:
            raise L2GError(
                f"{self.path}: OpenVINO was told to compute in {asked} and says that it computes in {hint}; use "
                "another --device, or --library onnxruntime"
            )
        return hint

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
        valid = self._valid & ~np.asarray(reset, bool)
        poisoned = self._enter(valid)
        results = {spec.name: np.empty(spec.sized(streams), spec.dtype) for spec in self._host_outputs}
        inputs = {"frames": np.ascontiguousarray(frames), self.contract.valid_input: valid.astype(np.float32)[:, None]}
        inputs |= {state.input: self._current[state.output] for state in self.contract.states}
        for stream in range(streams):
            row = slice(stream, stream + 1)
            self._run(
                {name: array[row] for name, array in inputs.items()},
                {name: array[row] for name, array in {**results, **self._next}.items()},
            )
        if poisoned.any():
            # OpenVINO makes numbers of NaN (Relu, Clip, Max), and the stream would look healthy.
            for array in (*results.values(), *self._next.values()):
                if array.dtype.kind == "f":
                    array[poisoned] = np.nan
        self._current, self._next = self._next, self._current
        self._valid = np.ones(streams, bool)
        results |= {name: self._current[name].copy() for name in self._shown_state}
        return self._results.of(results)

    def read_state(self) -> HostState | None:
        if self._valid is None:
            return None
        tensors = {state.input: self._current[state.output].copy() for state in self.contract.states}
        return HostState(tensors, self._valid.copy())

    def write_state(self, state: HostState) -> None:
        state.check(self.contract)
        if self._valid is None or len(self._valid) != len(state):
            self._allocate(len(state))
        for pair in self.contract.states:
            self._current[pair.output][...] = state.tensors[pair.input]
        self._valid = np.array(state.valid, bool)

    def close(self) -> None:
        self._current, self._next, self._valid = {}, {}, None
        self._request = self._compiled = self._content = None

    def audit(self) -> Audit:
        """What every layer really computes in, weighed by FLOPs; see `l2g.runtime.backends.openvino.audit`. EngineError
        of a device that does not tell."""
        if self._audit is None:
            raise EngineError(
                f"{self.path}: no audit is possible on {self.device}, which tells nothing of its layers; its compiled "
                f"model says {self.hint}. Compare its numbers instead: l2g verify --library openvino"
            )
        return self._audit

    def _compile(self, build: BuildFacts, text: str) -> Compiled:
        """With its shapes known OpenVINO fuses what it otherwise computes one after the other, and plans its memory.
        text: the contract's."""
        model = _for_one_stream(named_attentions(_read_model(self.path)))
        products, own = products_of(model), narrow_type(model)
        integers = "int8 + " * any(product.precision == "int8" for product in products)
        typed = next((name for name, kind in _HINTS.items() if kind == own), "fp32")
        _check_said(self.path, build, typed, bool(integers))
        _check_device(self.path, self.device)
        floating = _floating(self.path, self.device, typed, self._asked)
        as_typed = self._asked is None and floating == typed != "fp32"
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        if own and not as_typed:
            widen(model)
        simplify(model)
        how = settings | (_AS_TYPED if as_typed else _in(floating))
        if as_typed and self.device.startswith("CPU"):
            how = settings | _in(typed)
            marked, islands = with_marks(_core(), model)
            del model
            compiled = _compile(marked, self.path, self.device, how)
            if narrowed(compiled.get_runtime_model(), islands):
                # A version that loses marks: its own types are slower, and as exact.
                del marked, compiled
                how, model = settings | _AS_TYPED, _for_one_stream(named_attentions(_read_model(self.path)))
                simplify(model)
                compiled = _compile(model, self.path, self.device, how)
        else:
            compiled = _compile(model, self.path, self.device, how)
        precision = integers + floating
        found = audit(products, compiled.get_runtime_model(), precision, None if as_typed else floating)
        lacking = typed if self._asked is None and floating != typed else None
        if found is not None:
            _check_layers(self.path, found)
        return Compiled(compiled, Facts(text, how, precision, lacking, None if found is None else found.audit))

    def _allocate(self, streams: int) -> BoolArray:
        """Two sets of buffers for so many streams, of zeros, the contract's initial content; none of them is valid."""
        for buffers in (self._current, self._next):
            for state in self.contract.states:
                spec = self.contract.output(state.output)
                buffers[state.output] = np.zeros(spec.sized(streams), spec.dtype)
        return np.zeros(streams, bool)

    def _enter(self, valid: BoolArray) -> BoolArray:
        """Zeros in the rows without a history, so that nothing there reaches a kernel; bool [B], True where a stream
        that has one carries NaN or infinity."""
        finite = np.ones(len(valid), bool)
        for array in self._current.values():
            array[~valid] = 0
            finite &= np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        return ~finite

    def _run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        try:
            for name, array in (*inputs.items(), *outputs.items()):
                self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            self._request.infer(share_outputs=True)  # it would copy all of them into arrays that nobody reads
        except RuntimeError as error:
            raise L2GError(f"{self.path}: OpenVINO failed in a step: {_reason(error)}") from None


@cache
def _core() -> ov.Core:
    return ov.Core()


def devices() -> tuple[str, ...]:
    """What this installation can run on here: ("CPU",), ("CPU", "GPU.0") and so on."""
    return tuple(_core().available_devices)


def native_precisions(device: str = "CPU") -> tuple[str, ...]:
    """Which of "fp32", "bf16" and "fp16" the device computes as such."""
    capabilities = _core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    return ("fp32", *(name for name, capability in _CAPABILITY.items() if capability in capabilities))


def _physical(device: str) -> str:
    """What "AUTO" stands for. OpenVINO's own tells of no precision, and may change the device on the way."""
    if device != "AUTO":
        return device
    return next((name for name in devices() if name.startswith("GPU")), "CPU")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise L2GError(f"{path}: no such file; export a checkpoint with: {export_command(path)}")


def _read_model(path: Path) -> ov.Model:
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise cannot_open(path, "OpenVINO", error, _reason(error), export_command(path)) from None


def _for_one_stream(model: ov.Model) -> ov.Model:
    """The same model, in place."""
    model.reshape(
        {port.any_name: [1, *(dim.get_length() for dim in list(port.partial_shape)[1:])] for port in model.inputs}
    )
    return model


def _metadata(model: ov.Model) -> str | None:
    """The contract's text: ONNX metadata are kept under "framework"."""
    place = ["framework", METADATA_KEY]
    return str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else None


def _boundary(model: ov.Model) -> dict[str, dict[str, str]]:
    def tensors(ports: list[Any]) -> dict[str, str]:
        return {port.any_name: _describe(port) for port in ports}

    return {"input": tensors(model.inputs), "output": tensors(model.outputs)}


def _describe(port: Any) -> str:
    shape = [None if dim.is_dynamic else dim.get_length() for dim in port.partial_shape]
    kind = port.element_type.get_type_name()
    return describe(_DTYPES.get(kind, kind), shape)


def _in(floating: str) -> dict[str, str]:
    """The properties that state what floating point tensors are computed in."""
    mode = "ACCURACY" if floating == "fp32" else "PERFORMANCE"
    return {"EXECUTION_MODE_HINT": mode, "INFERENCE_PRECISION_HINT": _HINTS[floating]}


def _check_said(path: Path, build: BuildFacts, typed: str, integers: bool) -> None:
    """ContractError unless the graph is in what its contract says. typed: what its floating point tensors are in."""
    said, found = build.precision or "fp32", "int8" if integers else typed
    if integers and build.int8 is not None:
        said, found = f"{said} + {build.int8.scales}", f"{found} + {typed}"
    if said != found:
        raise ContractError(
            f"{path}: the graph is in {found.upper()}, its contract says {said.upper()}; export it again with: "
            f"{export_command(path)}"
        )


def _floating(path: Path, device: str, typed: str, asked: str | None) -> str:
    """What the floating point tensors are to be computed in. typed: what the graph has them in."""
    native = native_precisions(device)
    if asked is None:
        return typed if typed in native else "fp32"
    if asked not in _HINTS:
        raise L2GError(f"precision '{asked}' found, one of {', '.join(_HINTS)} expected")
    if asked not in native:
        raise L2GError(
            f"{path}: {asked.upper()} asked for, but {device} has no {asked.upper()} arithmetic and OpenVINO would "
            "compute it in FP32 without a word; leave --precision out, or ask for --precision fp32"
        )
    return asked


def _check_device(path: Path, device: str) -> None:
    here = devices()
    if any(device in (name, name.partition(".")[0]) for name in here):
        return
    raise L2GError(f"{path}: device '{device}' asked for, OpenVINO has {', '.join((*here, 'AUTO'))} here")


def _compile(model: ov.Model, path: Path, device: str, settings: dict[str, Any]) -> ov.CompiledModel:
    try:
        return _core().compile_model(model, device, settings)
    except RuntimeError as error:
        raise L2GError(f"{path}: OpenVINO cannot compile it for {device}: {_reason(error)}") from None


def _check_layers(path: Path, found: Judged) -> None:
    """L2GError where a precision that was asked for is in less than half of what is to have it, or where float32 was
    and a layer is in 16 bits."""
    layers = found.audit.layers
    lowered = {"bf16", "fp16"} & set(layers) if found.audit.asked.endswith("fp32") else set()
    short = [f"{100 * share:.1f} % of what is to be in {name.upper()}" for name, share in found.shares.items()]
    if lowered or not all(share >= _LEAST for share in found.shares.values()):
        computed = ", ".join(f"{count} in {name.upper()}" for name, count in sorted(layers.items()))
        raise L2GError(
            f"{path}: {found.audit.asked.upper()} asked for, but of its layers OpenVINO computes "
            f"{computed or 'none that is known'} (by FLOPs {', '.join(short)}); use another --device, or --library "
            "onnxruntime"
        )


def _reason(error: Exception) -> str:
    """OpenVINO's errors begin with places in its source; what went wrong comes after."""
    places = re.compile(r"^(Exception from |Check '|.*\bfailed at src/)")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not places.match(line.strip())]
    return lines[0] if lines else first_line(error)
