"""How far a quantised graph's outputs are from the FP32 graph's, each frame from the recorded state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from l2g.calibration.recording import Sample
from l2g.contract import GraphContract
from l2g.export.verification.verify import open_session
from l2g.runtime.identity.slots import slot_order
from l2g.runtime.outputs import RawOutputs, outputs_class
from l2g.runtime.picture.logits import sigmoid

# Masks are compared for so many of a frame's best slots; the others are nothing that anybody sees.
BEST_SLOTS = 20


@dataclass(frozen=True)
class Reference:
    """What the FP32 graph makes of a sample: outputs (masks of all slots left out) and the best slots' masks."""

    sample: Sample
    queries: np.ndarray
    probabilities: np.ndarray
    best: np.ndarray
    masks: np.ndarray


def references(graph: bytes, contract: GraphContract, samples: Iterable[Sample]) -> list[Reference]:
    """Run the FP32 graph over the samples; memory: a few mask maps a sample."""
    session = open_session(graph)
    found = []
    for sample in samples:
        outputs = _run(session, contract, sample)
        probabilities = outputs.probabilities()[0]
        best = np.argsort(-probabilities.max(1), kind="stable")[:BEST_SLOTS]
        masks = sigmoid(outputs.mask_logits[0, best]).astype(np.float16)
        found.append(Reference(sample, outputs.queries, probabilities, best, masks))
    return found


def output_error(graph: bytes, contract: GraphContract, wanted: list[Reference]) -> float:
    """Mean relative root mean square of the differences in queries, class probabilities and mask probabilities.

    0 is the FP32 graph; at 1 the differences are as large as the numbers. A first frame's slots are brought in line.
    """
    session = open_session(graph)
    errors = []
    for reference in wanted:
        outputs = _run(session, contract, reference.sample)
        if not reference.sample.inputs[contract.valid_input].any():
            twin = replace(outputs, queries=reference.queries)
            outputs = outputs.permuted(slot_order(twin, outputs))
        pairs = (
            (reference.queries, outputs.queries),
            (reference.probabilities, outputs.probabilities()[0]),
            (reference.masks.astype(np.float32), sigmoid(outputs.mask_logits[0, reference.best])),
        )
        errors.append(np.mean([_relative(one, other) for one, other in pairs]))
    return float(np.mean(errors))


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    scale = float(np.sqrt(np.square(expected, dtype=np.float64).mean()))
    error = float(np.sqrt(np.square(found - expected, dtype=np.float64).mean()))
    return error / max(scale, 1e-12) if np.isfinite(error) else 1e6


def _run(session, contract: GraphContract, sample: Sample) -> RawOutputs:
    names = [spec.name for spec in contract.outputs]
    found = dict(zip(names, session.run(names, sample.inputs), strict=True))
    return cast(RawOutputs, outputs_class(contract).of(found))
