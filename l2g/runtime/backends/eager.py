"""The reference backend: the PyTorch model itself, its state kept on the model's device."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2g.contract import GraphContract, make_contract
from l2g.errors import ContractError
from l2g.modeling.detections import select_detections
from l2g.modeling.local2global import FrameOutput, FrameState, Local2Global
from l2g.provenance import BuildFacts
from l2g.runtime.arrays import Array, BoolArray, ByteArray
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import Detections, FrameOutputs, RawOutputs

# cuDNN computes FP32 convolutions in TF32 (10 bits of mantissa) unless told; what others are compared with does not.
_full_precision = partial(torch.backends.cudnn.flags, enabled=True, allow_tf32=False)


class EagerBackend:
    """Drives a Local2Global model frame by frame; see `l2g.runtime.backends.base.Backend`.

    Args:
        model: in evaluation mode, on any device.
        top_k: choose this many slots on the device and return Detections; None returns RawOutputs.
        canvas: (height, width) of the network canvas; the model's `input_size` unless given.
    """

    def __init__(self, model: Local2Global, top_k: int | None = None, canvas: tuple[int, int] | None = None):
        config = model.config
        height, width = canvas or config.input_size
        if top_k is not None:
            top_k = min(top_k, config.num_queries)
        self.model, self.top_k = model, top_k
        self.device = next(model.parameters()).device
        self.contract: GraphContract = make_contract(
            height=height,
            width=width,
            num_queries=config.num_queries,
            hidden_dim=config.hidden_dim,
            class_names=config.class_names,
            association=config.association,
            top_k=top_k,
            model=config.to_dict(),
            build=BuildFacts(precision="fp32", versions={"torch": torch.__version__}),
        )
        self._state: FrameState | None = None

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
            state = FrameState(state.queries, state.boxes, state.valid * ~fresh[:, None])
        with torch.inference_mode(), _full_precision():
            output, self._state = self.model.step(torch.from_numpy(frames).to(self.device), state)
            return self._results(output, self._state)

    def _results(self, output: FrameOutput, state: FrameState) -> FrameOutputs:
        # A copy: on a CPU the state's memory would be shared with the caller.
        queries = _host(state.queries).copy()
        if self.top_k is None:
            # The contract's one `boxes` is the next prior, drawn from the masks, and not what the box head says.
            return RawOutputs(queries, _host(state.boxes).copy(), _host(output.logits), _host(output.mask_logits))
        chosen = select_detections(output, self.top_k)
        return Detections(_host(chosen.scores), _host(chosen.labels), _host(chosen.slots), _host(chosen.masks), queries)

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
        self._state = FrameState(**tensors, valid=valid)

    def close(self) -> None:
        self._state = None


def default_device() -> torch.device:
    """The GPU where PyTorch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _host(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array
