"""Proof that a graph computes what the model computes, before it gets its name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from l2g.contract import GraphContract
from l2g.errors import ExportError
from l2g.export.verification.comparison import Difference, largest_differences, tolerance
from l2g.export.verification.decisions import compare_decisions, expose_decisions
from l2g.export.verification.rollouts import ROLLOUTS, Step
from l2g.progress import SILENT, Progress
from l2g.provenance import Verification

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
    forced = None
    largest = dict.fromkeys((spec.name for spec in contract.outputs), 0.0)
    ties = 0
    for step in steps:
        outputs = run(session, step.inputs)
        differences = largest_differences(contract, step, outputs)
        if _worst(differences).excess > 1:
            if step.decisions is None:
                raise _refusal(differences, step, "")
            forced = forced or open_session(_with_decisions(graph, step.decisions.slots), arena)
            differences = _without_ties(contract, forced, step, outputs, differences)
            ties += 1
        for difference in differences:
            largest[difference.output] = max(largest[difference.output], difference.value)
        progress.step()
    library = f"onnxruntime {onnxruntime.__version__} CPU"
    return Verification(library, ROLLOUTS, largest, {name: tolerance(name) for name in largest}, ties)


def open_session(graph: bytes, arena: bool = True):
    """An ONNX Runtime session on the CPU; ExportError where it does not take the graph. Without `arena` it takes little
    memory: tensors live no longer than they are needed, and what they took is given back."""
    import onnxruntime

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


def _without_ties(
    contract: GraphContract, forced, step: Step, outputs: list[np.ndarray], before: list[Difference]
) -> list[Difference]:
    """The differences that remain with the model's decisions in the graph; ExportError unless ties were all it was.

    Only streams that differ are run again: the others have passed with the graph's own decisions.
    """
    differ = np.array(
        [_worst(_of_streams(contract, step, outputs, one)).excess > 1 for one in np.eye(step.streams) > 0]
    )
    part = step.rows(differ)
    decisions = part.decisions
    assert decisions is not None  # the caller has asked
    *found, indices, boxes = run(forced, (*part.inputs, *decisions.arrays()))
    verdict = compare_decisions(decisions, indices, boxes)
    after = largest_differences(contract, part, found)
    if verdict.changed and verdict.tied and _worst(after).excess <= 1:
        return after if differ.all() else [*after, *_of_streams(contract, step, outputs, ~differ)]
    raise _refusal(before, step, " No tie explains it.")


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
