"""The reference backend: the PyTorch model itself, its state kept on the model's device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2g.contract import GraphContract
from l2g.errors import ContractError, L2GError
from l2g.modeling.detections import select_detections
from l2g.modeling.family.protocol import Predictions, VideoModel
from l2g.provenance import BuildFacts
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import FrameOutputs, outputs_class

# cuDNN computes FP32 convolutions in TF32 (10 bits of mantissa) unless told; what others are compared with does not.
_full_precision = partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)


class EagerBackend:
    """Drives a model of any family frame by frame; see `l2g.runtime.backends.base.Backend`.

    Args:
        model: in evaluation mode, on any device.
        top_k: choose this many slots on the device and return Detections; None returns RawOutputs.
        canvas: (height, width) of the network canvas; the model's `input_size` unless given.
    """

    def __init__(self, model: VideoModel, top_k: int | None = None, canvas: tuple[int, int] | None = None):
        build = BuildFacts(precision="fp32", versions={"torch": torch.__version__})
        self.contract: GraphContract = replace(model.contract(canvas, top_k), build=build)
        self.model = model
        self.top_k = None if top_k is None else int(self.contract.output("scores").shape[1])
        self.device = next(model.parameters()).device
        self._results = outputs_class(self.contract)
        self._state: Any | None = None  # the family's own

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        self.contract.input("frames").check(frames)
        streams = frames.shape[0]
        if self._state is not None and self._state.valid.shape[0] != streams:
            raise ContractError(
                f"{streams} frames given, but the state holds {self._state.valid.shape[0]} streams; "
                "re-arrange the state with write_state first (VideoSession does)"
            )
        state = self._state
        if state is not None:
            fresh = torch.from_numpy(np.asarray(reset, bool)).to(self.device)
            state = replace(state, valid=state.valid * ~fresh[:, None])
        with torch.inference_mode(), _full_precision():
            output, self._state = self.model.step(torch.from_numpy(frames).to(self.device), state)
            return self._to_host(output, self._state)

    def _to_host(self, output: Predictions, state: Any) -> FrameOutputs:
        found: Any = output
        if self.top_k is not None:
            weighted = bool(self.contract.stuff_classes)
            found = select_detections(output, self.top_k, self.contract.scoring, weighted)
        carried = {pair.output for pair in self.contract.states}
        results = {}
        for name in {spec.name for spec in self.contract.outputs} & set(self._results.__dataclass_fields__):
            # The contract's one `boxes` is the next prior, drawn from the masks, and not what the box head says. The
            # state is copied: on a CPU its memory would be shared with the caller.
            results[name] = _host(getattr(state, name)).copy() if name in carried else _host(getattr(found, name))
        return self._results.of(results)

    def read_state(self) -> HostState | None:
        state = self._state
        if state is None:
            return None
        tensors = {pair.input: _host(getattr(state, pair.output)).copy() for pair in self.contract.states}
        return HostState(tensors, _host(state.valid)[:, 0] > 0.5)

    def write_state(self, state: HostState) -> None:
        state.check(self.contract)
        tensors = {
            pair.output: torch.from_numpy(np.array(state.tensors[pair.input])).to(self.device)
            for pair in self.contract.states
        }
        valid = torch.from_numpy(np.asarray(state.valid, np.float32)[:, None].copy()).to(self.device)
        self._state = self.model.State(**tensors, valid=valid)

    def close(self) -> None:
        self._state = None


def set_threads(count: int) -> None:
    """Of a CPU, for all models of this process."""
    if count < 1:
        raise L2GError(f"{count} threads asked for, at least 1 expected")
    torch.set_num_threads(count)


def default_device() -> torch.device:
    """The GPU where PyTorch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _host(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array
