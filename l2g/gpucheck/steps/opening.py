"""A model in one of the ways to run it."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from l2g.checkpoint import load_checkpoint
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.plan import TOP_K, file_of
from l2g.gpucheck.ways import COMPILED, PYTORCH, Way
from l2g.modeling.family.protocol import VideoModel
from l2g.runtime.arrays import BoolArray, ByteArray
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.outputs import FrameOutputs


class AutocastBackend(EagerBackend):
    """Eager, its products in 16 bits where PyTorch thinks that they bear it."""

    def __init__(self, model: VideoModel, precision: str, **how: Any):
        super().__init__(copy.copy(model), **how)  # the caller's keeps its own `step`
        plain = model.step

        def step(frames: Tensor, state: Any = None) -> tuple[Any, Any]:
            # The contract says float32, of results and of what is carried.
            output, after = plain(frames, state)
            return _widened(output), _widened(after)

        self.model.step = step  # type: ignore[method-assign]
        self.contract = replace(self.contract, build=replace(self.contract.build, precision=precision))
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        with torch.autocast(self.device.type, self._dtype):
            return super().step(frames, reset)


def _widened(record: Any) -> Any:
    """A dataclass of tensors, those of 16 bits as float32."""
    tensors = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(
        record, **{n: t.float() for n, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    )


def open_way(context: Context, way: Way, device: torch.device | None = None) -> Backend:
    """The step's model. device: of PyTorch's ways, the one that is checked unless given."""
    top_k = None if context.step.role == "parity" else TOP_K
    if way.library == PYTORCH:
        model = load_checkpoint(context.checkpoint).to(device or context.hardware.torch_device)
        if way.precision == "fp32":
            return EagerBackend(model, top_k=top_k, canvas=context.canvas)
        return AutocastBackend(model, way.precision, top_k=top_k, canvas=context.canvas)
    if way.library == COMPILED:
        backend: Backend = context.hardware.open_compiled(context.checkpoint, way.precision, context.canvas, top_k)
        return backend
    if way.engine:
        return context.hardware.open_engine(
            context.folder / file_of(context.step.model, way, context.step.role, "engine")
        )
    graph = context.hardware.open_graph(
        context.folder / file_of(context.step.model, way, context.step.role, "onnx"), way
    )
    if way.precision == "tf32":
        # The graph's own word is FP32, and what runs it rounds more.
        graph.contract = replace(graph.contract, build=replace(graph.contract.build, precision="tf32"))
    return graph
