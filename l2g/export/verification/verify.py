"""Proof that a graph computes what the model computes, before it gets its name."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from l2g.contract import GraphContract
from l2g.errors import ExportError
from l2g.export.verification.comparison import Difference, largest_differences, tolerance
from l2g.export.verification.decisions import compare_decisions, expose_decisions
from l2g.export.verification.rollouts import ROLLOUTS, Step
from l2g.modeling.family.protocol import Decisions
from l2g.progress import SILENT, Progress
from l2g.provenance import Verification
from l2g.runtime.memory import return_memory

# Bytes of a graph from which on memory is dearer than time: without an arena three streams of a Swin-L at 480x864 take
# 5.8 GB in place of 8.6, those of an R50 15 % longer.
_LARGE = 1 << 29


def verify(graph: bytes, contract: GraphContract, steps: Iterable[Step], progress: Progress = SILENT) -> Verification:
    """Run a serialised ONNX graph over the model's own steps (`l2g.export.verification.rollouts`), and compare.

    Every step starts from the model's own state. Raises ExportError at the first step where an output differs by more
    than its tolerance and no tie explains it; the message names step, output, position and difference.
    """
    import onnxruntime

    arena = len(graph) < _LARGE
    session = open_session(graph, arena)
    passed: list[Difference] = []
    doubts = []
    for step in steps:
        outputs = run(session, step.inputs)
        differences = largest_differences(contract, step, outputs)
        if _worst(differences).excess <= 1:
            passed += differences
        elif step.decisions is None:
            raise _refusal(differences, step, "")
        else:
            doubts.append(_Doubt.of(contract, step, outputs, differences))
            passed += doubts[-1].passed
        progress.step()
    del session  # not beside the next one: memory
    if doubts:
        forced = open_session(_with_decisions(graph, doubts[0].decisions.slots), arena)
        for doubt in doubts:
            passed += _without_ties(contract, forced, doubt)
    library = f"onnxruntime {onnxruntime.__version__} CPU"
    names = [spec.name for spec in contract.outputs]
    largest = {name: max(found.value for found in passed if found.output == name) for name in names}
    return Verification(library, ROLLOUTS, largest, {name: tolerance(name) for name in names}, len(doubts))


def open_session(graph: bytes, arena: bool = True):
    """An ONNX Runtime session on the CPU; ExportError where it does not take the graph. Without `arena` it takes little
    memory: tensors live no longer than they are needed, and what they took is given back, as is, before, what the
    making of a graph has left."""
    import onnxruntime

    if not arena:
        gc.collect()  # the nodes of a graph refer to each other: of a Swin-L 1.6 GB would wait for Python's own moment
        return_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    if not arena:
        # The default order runs every node as soon as it can: much would wait in memory for its use.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime does not load the exported graph: {error}") from error


def run(session, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    names = [spec.name for spec in session.get_inputs()]
    try:
        return session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as error:
        raise ExportError(f"ONNX Runtime fails on the exported graph with {len(arrays[0])} streams: {error}") from error


@dataclass(frozen=True)
class _Doubt:
    """A step at which a graph differs, with the differences; part: of the streams that do. passed: of the others, which
    have passed with the graph's own decisions, the differences."""

    step: Step
    differences: list[Difference]
    part: Step
    decisions: Decisions
    passed: list[Difference]

    @classmethod
    def of(
        cls, contract: GraphContract, step: Step, outputs: list[np.ndarray], differences: list[Difference]
    ) -> _Doubt:
        differ = np.array(
            [_worst(_of_streams(contract, step, outputs, one)).excess > 1 for one in np.eye(step.streams) > 0]
        )
        part = step.rows(differ)
        assert part.decisions is not None  # the caller has asked
        passed = [] if differ.all() else _of_streams(contract, step, outputs, ~differ)
        return cls(step, differences, part, part.decisions, passed)


def _without_ties(contract: GraphContract, forced, doubt: _Doubt) -> list[Difference]:
    """The differences that remain with the model's decisions in the graph; ExportError unless ties were all it was."""
    *found, indices, boxes = run(forced, (*doubt.part.inputs, *doubt.decisions.arrays()))
    verdict = compare_decisions(doubt.decisions, indices, boxes)
    after = largest_differences(contract, doubt.part, found)
    if verdict.changed and verdict.tied and _worst(after).excess <= 1:
        return after
    raise _refusal(doubt.differences, doubt.step, " No tie explains it.")


def _of_streams(
    contract: GraphContract, step: Step, outputs: list[np.ndarray], streams: np.ndarray
) -> list[Difference]:
    """The largest differences of some streams, bool [B]."""
    return largest_differences(contract, step.rows(streams), [array[streams] for array in outputs])


def _refusal(differences: list[Difference], step: Step, ties: str) -> ExportError:
    worst = _worst(differences)
    return ExportError(
        f"the exported graph differs from the model: output '{worst.output}' by {worst.value:.3g} "
        f"(tolerance {worst.tolerance:g}) at {list(worst.position)}, first in frame {step.frame} of the "
        f"rollout with {step.streams} streams; all outputs there: "
        + ", ".join(f"{difference.output} {difference.value:.3g}" for difference in differences)
        + f".{ties} Nothing was written; try another --lowering or --opset, or leave --simplify out"
    )


def _with_decisions(graph: bytes, slots: int) -> bytes:
    model = expose_decisions(ir.from_proto(onnx.load_from_string(graph)), slots)
    return ir.to_proto(model).SerializeToString()


def _worst(differences: list[Difference]) -> Difference:
    return max(differences, key=lambda difference: difference.excess)
