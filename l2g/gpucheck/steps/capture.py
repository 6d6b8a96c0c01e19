"""A whole frame as one CUDA graph, of which there are two: each reads the state that the other wrote, nothing is moved.

What is shown is whether capture works and whether the state goes round as it does frame by frame, and what a frame
takes when no kernel is started one by one.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2g.checkpoint import load_checkpoint
from l2g.contract import GraphContract
from l2g.evaluation.bench.measure import moving_noise
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.report import Figure
from l2g.modeling.family.protocol import VideoModel

FRAMES = 10  # that are compared
# Of the same kernels in the same order; what differs may be chosen otherwise under capture.
LIMIT = 1e-3
_NAME = "PyTorch FP32, captured"


class CapturedSteps:
    """A model's step for so many streams, captured twice. state: what the last frame left."""

    def __init__(self, context: Context, model: VideoModel, contract: GraphContract, streams: int):
        device = context.hardware.torch_device
        specs = {pair.output: contract.input(pair.input).sized(streams) for pair in contract.states}
        self._states = [{name: torch.zeros(shape, device=device) for name, shape in specs.items()} for _ in range(2)]
        self._frames = torch.zeros(contract.input("frames").sized(streams), dtype=torch.uint8, device=device)
        self._valid = torch.zeros(streams, 1, device=device)
        self._model, self._reads, self._names = model, 0, tuple(specs)
        with torch.inference_mode():
            self._launches = [context.hardware.record(partial(self._work, reads)) for reads in range(2)]

    def step(self, frames: Tensor, first: bool) -> None:
        self._frames.copy_(frames)
        self._valid.fill_(0.0 if first else 1.0)
        self._launches[self._reads]()
        self._reads = 1 - self._reads

    @property
    def state(self) -> dict[str, Tensor]:
        return self._states[self._reads]

    def _work(self, reads: int) -> None:
        state = self._model.State(**self._states[reads], valid=self._valid)
        _, after = self._model.step(self._frames, state)
        for name in self._names:
            self._states[1 - reads][name].copy_(getattr(after, name))


def run(context: Context) -> None:
    hardware = context.hardware
    model = load_checkpoint(context.checkpoint).to(hardware.torch_device)
    contract = model.contract(context.canvas)
    streams = context.options.streams[0]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        captured = CapturedSteps(context, model, contract, streams)
        canvas = (contract.height, contract.width)
        pictures = [
            torch.from_numpy(picture).to(hardware.torch_device) for picture in moving_noise(canvas, FRAMES, streams)
        ]
        state: Any = None
        apart: list[float] = []
        plain, graph = [], []
        for index, frames in enumerate(pictures):
            if state is not None:
                # From the same state, so that no difference adds up and near-ties of a first frame stay out of it.
                for name, tensor in captured.state.items():
                    tensor.copy_(getattr(state, name))
            began = time.perf_counter()
            captured.step(frames, first=index == 0)
            hardware.synchronize()
            graph.append(time.perf_counter() - began)
            began = time.perf_counter()
            _, state = model.step(frames, state)
            hardware.synchronize()
            plain.append(time.perf_counter() - began)
            if index:
                pairs = ((captured.state[name], getattr(state, name)) for name in captured.state)
                apart += [float((one - other).abs().max()) for one, other in pairs]
    worst = float(np.max(apart))  # NaN where one is
    held = worst <= LIMIT
    context.notebook.add(
        Figure(context.subject, _NAME, "the state's largest difference", "", worst, streams, LIMIT, held),
        Figure(context.subject, _NAME, "median", "ms", 1e3 * float(np.median(graph[1:])), streams),
        Figure(context.subject, "PyTorch FP32, without", "median", "ms", 1e3 * float(np.median(plain[1:])), streams),
    )
