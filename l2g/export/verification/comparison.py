"""Measuring how far a graph's outputs are from the model's, where the model decides and where it only computes.

Two outputs jump where nothing of substance differs: a box is the extent of a mask, so that one pixel near zero may move
it by many, and the chosen instances change places where their scores tie. Both are judged by what they must be true
to, the model's mask logits and scores, within the tolerance that those have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2g.contract import GraphContract
from l2g.export.verification.rollouts import Step
from l2g.modeling.boxes import mask_to_box
from l2g.modeling.detections import class_probabilities, sharp_weights
from l2g.modeling.family.protocol import Decisions

# Largest absolute differences of a float32 graph; other outputs than these, further states, as queries. Logits, boxes
# and masks as the public image model is held to; the
# arithmetic noise between two libraries is a tenth of them. Masks of "detections" are bytes, so rounding may differ.
TOLERANCES = {
    "queries": 1e-4,
    "boxes": 1e-4,
    "logits": 1e-4,
    "mask_logits": 1e-3,
    "scores": 1e-4,
    "labels": 1e-4,
    "slots": 1e-4,
    "masks": 1.0,
    # Scores, sharpened.
    "weights": 1e-3,
}


def tolerance(output: str) -> float:
    """Of an output of size 1."""
    return TOLERANCES.get(output, TOLERANCES["queries"])


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one output at one step, and its position in that output.

    tolerance: what it may be.
    """

    output: str
    value: float
    position: tuple[int, ...]
    tolerance: float

    @property
    def excess(self) -> float:
        """How often the tolerance; more than 1 is a failure. NaN counts as infinitely often."""
        return np.inf if np.isnan(self.value) else self.value / self.tolerance


def largest_differences(contract: GraphContract, step: Step, outputs: list[np.ndarray]) -> list[Difference]:
    """Every output of the graph against the model's, in the contract's order."""
    measured = differences(contract, step, outputs, TOLERANCES["mask_logits"])
    names = [spec.name for spec in contract.outputs]
    return [_largest(name, measured[name], tolerance(name) * step.size(name)) for name in names]


def differences(contract: GraphContract, step: Step, outputs: list[np.ndarray], margin: float) -> dict[str, np.ndarray]:
    """The same element by element, absolute. margin: mask logits this near to zero may count as mask or not."""
    found = {spec.name: array for spec, array in zip(contract.outputs, outputs, strict=True)}
    for spec in contract.outputs:
        spec.check(found[spec.name])
    measured = {
        pair.output: _absolute(found[pair.output], getattr(step.state, pair.output)) for pair in contract.states
    }
    if step.decisions is not None and step.decisions.state_box == "mask":
        measured["boxes"] = box_error(found["boxes"], step, step.decisions.box_init, margin)
    if contract.output_kind == "raw":
        measured["logits"] = _absolute(found["logits"], step.output.logits)
        measured["mask_logits"] = _absolute(found["mask_logits"], step.output.mask_logits)
    else:
        measured.update(_detections(found, step, contract.scoring))
    return measured


def box_error(boxes: np.ndarray, step: Step, box_init: str, margin: float = TOLERANCES["mask_logits"]) -> np.ndarray:
    """How far each corner of a slot's Mask2Box is from where the model's mask allows it, [B, N, 4].

    A pixel within `margin` of zero may count as mask or not: a corner may lie anywhere between the two. Masks that may
    be empty or not are left out; an empty one has the box that the box head gives.
    """
    logits = step.output.mask_logits
    none = torch.full((4,), torch.nan)
    certain = _corners(mask_to_box(logits - margin, box_init, empty=none))
    possible = _corners(mask_to_box(logits + margin, box_init, empty=none))
    found = _corners(torch.from_numpy(boxes))
    low, high = torch.minimum(certain, possible), torch.maximum(certain, possible)
    outside = torch.maximum(low - found, found - high).clamp(min=0)
    head = (torch.from_numpy(boxes) - step.state.boxes).abs()
    empty = possible.isnan()
    outside = torch.where(empty, head, torch.where(certain.isnan(), 0.0, outside))
    return torch.where(found.isnan(), torch.nan, outside).numpy()


def local_box_error(boxes: np.ndarray, decisions: Decisions) -> np.ndarray:
    """The same for the boxes of the local queries, which the graph computes inside; an empty mask's box is fixed. Those
    of `box_init: no` come from the box head: numbers, which no mask decides."""
    if decisions.box_init == "no":
        return _absolute(boxes, decisions.local.boxes)
    margin, logits = TOLERANCES["mask_logits"], decisions.local.mask_logits
    certain = _corners(mask_to_box(logits - margin, decisions.box_init))
    possible = _corners(mask_to_box(logits + margin, decisions.box_init))
    found = _corners(torch.from_numpy(boxes))
    undecided = (logits.amax(dim=(-1, -2)).abs() <= margin)[..., None]
    outside = torch.maximum(torch.minimum(certain, possible) - found, found - torch.maximum(certain, possible))
    return torch.where(undecided, 0.0, outside.clamp(min=0)).numpy()


def _detections(found: dict[str, np.ndarray], step: Step, scoring: str) -> dict[str, np.ndarray]:
    """The chosen instances against the model's scores and masks of the very slots that were chosen."""
    probabilities = class_probabilities(step.output.logits, scoring)
    scores, slots = probabilities.amax(dim=-1).numpy(), found["slots"].astype(np.int64)
    mine = np.take_along_axis(scores, slots, axis=1)
    best = -np.sort(-scores, axis=1)[:, : slots.shape[1]]
    rows = np.arange(len(slots))[:, None]
    masks = (step.output.mask_logits.sigmoid().numpy()[rows, slots] * 255 + 0.5).astype(np.uint8)
    chosen = probabilities.numpy()[rows, slots, found["labels"]]
    repeated = np.array([[list(row).count(slot) > 1 for slot in row] for row in slots])
    weights = {}
    if "weights" in found:
        expected = sharp_weights(probabilities, scoring).numpy()
        weights["weights"] = np.abs(found["weights"] - np.take_along_axis(expected, slots, axis=1))
    return {
        **weights,
        "scores": np.abs(found["scores"] - mine),
        # A label may be any class, and a slot any slot, whose score ties with the best.
        "labels": mine - chosen,
        "slots": np.where(repeated, np.inf, np.abs(mine - best)),
        "masks": np.abs(found["masks"].astype(np.float32) - masks),
    }


def _corners(boxes: Tensor) -> Tensor:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def _absolute(found: np.ndarray, expected: Tensor) -> np.ndarray:
    return np.abs(found - expected.numpy())


def _largest(output: str, differences: np.ndarray, tolerance: float) -> Difference:
    where = np.unravel_index(np.argmax(np.nan_to_num(differences, nan=np.inf)), differences.shape)
    return Difference(output, float(differences[where]), tuple(int(index) for index in where), tolerance)
