"""When an engine counts as its graph: the outputs of both are written here, and one thing is wrong at a time."""

import json
from dataclasses import replace

import numpy as np
import pytest

from l2g.artifacts.records import Agreement
from l2g.contract import make_contract
from l2g.engines.verification import LIMITS, DisagreementError, check_agreement, measure_agreement
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import RawOutputs

SLOTS, SIDE = 10, 64
LOGITS = np.full((SLOTS, 3), -6, np.float32)
LOGITS[:3] = [(3, -6, -6), (-6, -6, 2), (2, 0, -6)]


class Written:
    """A backend that was told its outputs: three objects, two of 0.8 % of the map, among slots that hold nothing.

    change: what another backend does to them.
    """

    def __init__(self, change=lambda outputs: outputs):
        sizes = {"height": 4 * SIDE, "width": 4 * SIDE, "num_queries": SLOTS, "hidden_dim": 8}
        self.contract = make_contract(**sizes, class_names=("a", "b", "c"), association="propagate")
        self.change = change

    def step(self, pictures, reset):
        random = np.random.default_rng(0)
        masks = np.full((SLOTS, SIDE, SIDE), -5, np.float32)
        masks[0, :40, :40] = masks[1, 50:56, 50:55] = masks[2, 5:11, 50:55] = 5
        masks[5:, :60] = 5  # of slots that hold nothing
        boxes = random.uniform(0.2, 0.6, (SLOTS, 4)).astype(np.float32)
        outputs = RawOutputs(random.normal(size=(SLOTS, 8)).astype(np.float32), boxes, LOGITS, masks)
        arrays = self.change(outputs).arrays()
        self.outputs = RawOutputs(**{name: np.stack([array] * len(pictures)) for name, array in arrays.items()})
        return self.outputs

    def read_state(self):
        if not hasattr(self, "outputs"):
            return None
        state = {"prior_queries": self.outputs.queries, "prior_boxes": self.outputs.boxes}
        return HostState(state, np.ones(len(self.outputs.queries), bool))

    def write_state(self, state):
        pass


def with_masks(outputs, rows, value):
    masks = outputs.mask_logits.copy()
    masks[rows] = value
    return replace(outputs, mask_logits=masks)


SPOILT = {
    "boxes of nothing": ("state", lambda o: replace(o, boxes=np.full_like(o.boxes, np.nan))),
    "other boxes": ("state", lambda o: replace(o, boxes=o.boxes[::-1])),
    "other classes": ("score", lambda o: replace(o, logits=o.logits[:, ::-1])),
    "every class": ("score", lambda o: replace(o, logits=np.full_like(o.logits, 2))),
    "no masks": ("mask_pixels", lambda o: with_masks(o, slice(None), -5)),
    "no masks of what is small": ("mask_pixels", lambda o: with_masks(o, slice(1, 3), -5)),
    "masks of nothing": ("mask_pixels", lambda o: with_masks(o, 4, np.nan)),
    "other queries": ("queries", lambda o: replace(o, queries=-o.queries)),
}


@pytest.mark.parametrize("precision", LIMITS)
def test_the_same_numbers_agree(precision):
    found = measure_agreement(Written(), Written())
    assert found == Agreement(0, 0, 0, 0, 0)
    assert check_agreement(found, precision, "an.engine", None).status == "verified"


@pytest.mark.parametrize(("quantity", "change"), SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("precision", LIMITS)
def test_what_is_wrong_in_one_quantity_is_refused(precision, quantity, change):
    found = measure_agreement(Written(), Written(change))
    with pytest.raises(DisagreementError, match=rf"{quantity} (inf|[\d.]+) \(limit"):
        check_agreement(found, precision, "an.engine", None)


def test_the_numbers_of_an_agreement_are_what_their_names_say():
    """A tenth of the boxes' sum, half of one object's pixels."""
    found = measure_agreement(
        Written(), Written(lambda o: replace(with_masks(o, np.s_[0, :20], -5), boxes=1.1 * o.boxes))
    )
    best = 1 / (1 + np.exp(-LOGITS.max(1)))
    assert found.state == pytest.approx(0.1, rel=1e-5)
    assert found.mask_pixels == pytest.approx(0.5 * best[0] / best.sum(), rel=1e-5)
    assert (found.score, found.queries, found.slots) == (0, 0, 0)


def test_a_sidecar_from_before_the_state_was_compared_is_read():
    before = json.loads('{"score": 0.1, "mask_pixels": 0.2, "queries": 0.3, "slots": 0.0}')
    assert Agreement.from_json(before) == Agreement(0.1, 0.2, 0.3)
