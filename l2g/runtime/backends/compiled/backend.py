"""The compiled backend: the PyTorch model in reduced precision, a step of it as one launch of a CUDA graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from l2g.artifacts.records import Audit
from l2g.contract import GraphContract
from l2g.errors import ContractError, L2GError
from l2g.modeling.family.protocol import VideoModel
from l2g.modeling.stateless_step import StatelessStep
from l2g.progress import SILENT, Progress
from l2g.provenance import BuildFacts
from l2g.runtime.arrays import BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.compiled.attention import has_kernel
from l2g.runtime.backends.compiled.audit import Part, judge, parts
from l2g.runtime.backends.compiled.launch import CudaLauncher, Launcher
from l2g.runtime.backends.compiled.prepare import prepare
from l2g.runtime.backends.compiled.program import Program
from l2g.runtime.outputs import FrameOutputs, outputs_class

# Programs that are kept, for as many numbers of streams.
MOST_PROGRAMS = 4


class CompiledBackend:
    """Drives a model of any family frame by frame; see `l2g.runtime.backends.base.Backend`.

    The model is prepared (`prepare`), traced for a number of streams (`trace`) and, on a GPU, captured: a step is then
    one launch. That takes seconds, or a minute where `torch.compile` joins operators, and is done at the first step,
    or before it by `warm_up`. On a CPU the same operators run one after another. Fewer streams run in the smallest
    program that is there, so that no stream waits for the compiler because others have ended; for more, or where one
    that is made for them pays (`warm_up`), there is a program more.

    Args:
        model: in evaluation mode, on the device where it is to run.
        precision: "fp32", "fp16" or "bf16", of all but the islands.
        top_k: choose this many slots on the device and return Detections; None returns RawOutputs.
        canvas: (height, width) of the network canvas; the model's `input_size` unless given.
        keep: modules by path, such as "encoder.layers.0", that stay float32 beside the islands.
        fuse: let `torch.compile` join what is between the products; None: on a GPU with Triton.
        launcher: how work is started on the model's device, for tests.

    Raises L2GError for a precision or a block that is not there.
    """

    def __init__(
        self,
        model: VideoModel,
        precision: str = "fp32",
        top_k: int | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        keep: Collection[str] = (),
        fuse: bool | None = None,
        launcher: Launcher | None = None,
    ):
        self.device = next(model.parameters()).device
        self.model, self.precision = prepare(model, precision, keep), precision
        self.fp32_blocks = tuple(keep)
        build = BuildFacts(precision=precision, versions={"torch": torch.__version__})
        self.contract: GraphContract = replace(model.contract(canvas, top_k), build=build)
        chosen = None if top_k is None else int(self.contract.output("scores").shape[1])
        self._step = StatelessStep(self.model, chosen).eval()
        self._fuse = has_kernel(self.device) if fuse is None else fuse
        cuda = self.device.type == "cuda"
        self._launcher = launcher or (CudaLauncher(self.device) if cuda else Launcher(self.device))
        self._results = outputs_class(self.contract)
        self._programs: list[Program] = []  # the last used last
        self._program: Program | None = None  # the one whose state counts; None before the first step
        self._reads = 0  # of its state sets, the one that the next step reads
        self._valid: BoolArray | None = None  # bool [B]; None before the first step

    def warm_up(self, streams: int, progress: Progress = SILENT) -> None:
        """Compile for so many streams, unless that is done. L2GError for fewer than one."""
        if streams < 1:
            raise L2GError(f"{streams} streams asked for, at least 1 expected")
        if all(program.streams != streams for program in self._programs):
            self._add(streams, progress)

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        self.contract.input("frames").check(frames)
        if self._valid is None or self._program is None:
            self._program, self._valid = self._fitting(len(frames)), np.zeros(len(frames), bool)
        if len(self._valid) != len(frames):
            raise ContractError(
                f"{len(frames)} frames given, but the state holds {len(self._valid)} streams; "
                "re-arrange the state with write_state first (VideoSession does)"
            )
        valid = self._valid & ~np.asarray(reset, bool)
        results = self._program.run(self._reads, frames, valid)
        self._reads = 1 - self._reads
        self._valid = np.ones(len(frames), bool)
        return self._results.of(results)

    def read_state(self) -> HostState | None:
        if self._valid is None or self._program is None:
            return None
        return HostState(self._program.read(self._reads, len(self._valid)), self._valid.copy())

    def write_state(self, state: HostState) -> None:
        state.check(self.contract)
        if self._program is None or self._valid is None or len(self._valid) != len(state):
            self._program = self._fitting(len(state))
        self._program.write(self._reads, state)
        self._valid = np.array(state.valid, bool)

    def close(self) -> None:
        self._programs, self._program, self._valid = [], None, None

    def audit(self) -> Audit:
        """What the program that ran last computes its convolutions and products in; compiles one where none has."""
        program = self._audited()
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        return judge(program.products, self.precision, program.streams, program.fused_attentions, weights)

    def parts(self) -> tuple[Part, ...]:
        """The same by part of the model."""
        program = self._audited()
        return parts(program.products, program.streams)

    def facts(self) -> dict[str, str]:
        """How the rest of it is run here."""
        program = self._audited()
        return {
            "deformable attention": "a Triton kernel" if has_kernel(self.device) else "PyTorch's operators",
            "between products": "joined by torch.compile" if program.fused else "PyTorch's operators",
            "a step": self._launcher.how,
        }

    def _audited(self) -> Program:
        if self._program is None and not self._programs:
            self.warm_up(1)
        return self._program or self._programs[-1]

    def _fitting(self, streams: int) -> Program:
        """A program for so many streams; what its state holds counts for nothing."""
        programs = [program for program in self._programs if streams <= program.streams]
        if not programs:
            return self._add(streams)
        program = min(programs, key=lambda program: program.streams)
        self._programs.remove(program)
        self._programs.append(program)
        return program

    def _add(self, streams: int, progress: Progress = SILENT) -> Program:
        del self._programs[: max(0, len(self._programs) - MOST_PROGRAMS + 1)]
        program = Program(self._step, self.contract, streams, self._launcher, self._fuse, progress)
        self._programs.append(program)
        return program


def device_of(model: str, name: str | None) -> torch.device:
    """The device of a name, "cpu", "cuda" or "cuda:1"; of None the GPU where PyTorch sees one, else the CPU. L2GError
    for one that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    chosen = (name or ("cuda" if count else "cpu")).lower()
    if chosen not in there:
        raise L2GError(f"{model}: device '{name}' asked for, PyTorch has {', '.join(there)}")
    return torch.device(chosen)
