"""What turns a stream's outputs into results, by the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from l2g.contract import GraphContract
from l2g.runtime.arrays import Array
from l2g.runtime.assembler import FrameAssembler
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.panoptic.options import PanopticOptions, check_task
from l2g.runtime.picture.letterbox import Letterbox


class Assembler(Protocol):
    """Turns one stream's outputs, frame after frame, into results in source pixels; letterbox: of the next frame."""

    letterbox: Letterbox

    def reset(self) -> None: ...
    def memory(self) -> dict[str, Array]: ...
    def recall(self, memory: Mapping[str, Array]) -> None: ...
    def assemble(self, outputs: FrameOutputs, index: int, time: float, reset: str | None = None) -> FrameResult: ...
    def nothing(self, index: int, time: float, reset: str | None = None) -> FrameResult: ...


def assembler_of(
    letterbox: Letterbox,
    contract: GraphContract,
    parameters: TrackParameters | None = None,
    top_k: int = 50,
    task: str | None = None,
    panoptic: PanopticOptions | None = None,
) -> Assembler:
    """The assembler of a task, see `TASKS`; None is the model's own. panoptic: of the tasks that give maps."""
    task = check_task(task, contract)
    if task == "instances":
        return FrameAssembler(letterbox, contract, parameters, top_k)
    from l2g.runtime.panoptic.assembler import PanopticAssembler

    return PanopticAssembler(letterbox, contract, parameters, panoptic, semantic=task == "semantic")
