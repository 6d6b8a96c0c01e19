"""Merging against what the public Mask DINO's own inference gave (tests/assets/maskdino/golden_semantic.npz)."""

import numpy as np
import pytest

from l2g.runtime.outputs import RawOutputs
from l2g.runtime.panoptic.merge import merge_panoptic, merge_semantic
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.picture.logits import sharpened
from tests import golden

THINGS = (0, 2, 3)


def outputs(number):
    data = golden.fixture("semantic")
    logits, masks = data[f"merge/{number}/logits"], data[f"merge/{number}/masks"].astype(np.float32)
    return data, RawOutputs(np.zeros((1, len(logits), 4), np.float32), None, logits[None], masks[None])


@pytest.mark.parametrize("number", range(4))
def test_panoptic(number):
    data, found = outputs(number)
    options = PanopticOptions(overlap_threshold=data["meta"]["overlap"][number])
    stuff = {label for label in range(7) if label not in THINGS}
    masks = found.mask_logits[0]
    merged = merge_panoptic(
        found.contenders(options.temperature),
        masks.__getitem__,
        masks.shape[1:],
        stuff,
        options.threshold("sigmoid"),
        options,
    )
    expected, infos = data[f"merge/{number}/ids"], data[f"merge/{number}/info"].tolist()
    assert [[r.number, r.label, int(r.label in THINGS)] for r in merged.regions] == infos
    assert np.array_equal(merged.numbers, expected)
    assert len(infos) >= 4


@pytest.mark.parametrize("number", range(4))
def test_semantic(number):
    data, found = outputs(number)
    masks, logits = found.mask_logits[0], found.logits[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for key, probabilities in (
        ("semantic", sharpened(found.probabilities()[0], 0.06)),
        ("semantic_ce", shares[:, :-1]),
    ):
        merged = merge_semantic(
            probabilities.astype(np.float32), lambda a, b: masks[:, a:b], masks.shape[1:], PanopticOptions()
        )
        labels = np.array([-1, *(region.label for region in merged.regions)])[merged.numbers]
        assert np.array_equal(labels, data[f"merge/{number}/{key}"])
