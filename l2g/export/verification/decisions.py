"""The two places inside a graph where it decides: which tokens become local queries, and how far their masks reach.

Both turn on single numbers (a score's rank, a mask logit's sign), so two libraries may decide otherwise on a frame and
then rightly differ in everything that follows. A copy of the graph tells what it decided and can be made to decide as
the model did; that separates a tie from an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from l2g.errors import ExportError
from l2g.export.graph.values import constant, input_of, shape_of
from l2g.export.verification.comparison import TOLERANCES, local_box_error
from l2g.modeling.family.protocol import Decisions

# Class scores (logits) of tokens that may change places.
TIE = 1e-4

INDICES, BOXES = "local_indices", "local_boxes"


@dataclass(frozen=True)
class DecisionsCompared:
    """How a graph's decisions at one step relate to the model's: are they all within the tolerance of a tie, and how
    many differ."""

    tied: bool
    changed: int


def expose_decisions(model: ir.Model, slots: int) -> ir.Model:
    """Change `model` in place: its decisions become two more outputs, and two more inputs take their place."""
    graph = model.graph
    indices, boxes = _chosen_indices(graph, slots), _local_boxes(graph, slots)
    for value, name in ((indices, INDICES), (boxes, BOXES)):
        forced = ir.Value(name=f"forced_{name}", shape=ir.Shape(["B", *shape_of(value)[1:]]), type=value.type)
        value.replace_all_uses_with(forced)
        graph.inputs.append(forced)
        graph.outputs.append(value)
    return model


def compare_decisions(decisions: Decisions, indices: np.ndarray, boxes: np.ndarray) -> DecisionsCompared:
    """`indices` int64 [B, N] and `boxes` float32 [B, N, 4] of the graph, the latter at the model's own indices."""
    scores, expected = decisions.token_scores.numpy(), decisions.local.indices.numpy()
    gap = np.abs(np.take_along_axis(scores, indices, axis=1) - np.take_along_axis(scores, expected, axis=1))
    distinct = all(len(set(row)) == len(row) for row in indices.tolist())
    reach = local_box_error(boxes, decisions)
    moved = np.abs(boxes - decisions.local.boxes.numpy()).max(axis=-1) > TOLERANCES["boxes"]
    tied = distinct and float(gap.max()) <= TIE and float(reach.max()) <= TOLERANCES["boxes"]
    return DecisionsCompared(tied, int((indices != expected).sum() + moved.sum()))


def _chosen_indices(graph: ir.Graph, slots: int) -> ir.Value:
    for node in graph:
        if node.op_type == "TopK" and (count := constant(node.inputs[1])) is not None and int(count[0]) == slots:
            return node.outputs[1]
    raise ExportError(f"the graph has no TopK of {slots} tokens; the model's proposals were not traced as expected")


def _local_boxes(graph: ir.Graph, slots: int) -> ir.Value:
    """The last input of the Where that takes a prior's boxes in its place."""
    valid = graph.inputs[3]
    for node in graph:
        if node.op_type == "Where" and tuple(shape_of(node.outputs[0])[1:]) == (slots, 4):
            condition = input_of(node, 0)
            while (producer := condition.producer()) is not None:
                condition = input_of(producer, 0)
            if condition is valid:
                return input_of(node, 2)
    raise ExportError("the graph never chooses between prior and local boxes; the model was not traced as expected")
