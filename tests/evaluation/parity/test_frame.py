"""The measures of one frame, against numbers worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest

from l2g.evaluation.parity.frame import NewcomerNames, compare_frame, counting_slots
from l2g.runtime.identity.slots import slot_order
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import RawOutputs


def outputs(scores, masks, labels=None, seed=0):
    """One stream: `scores` [N] of class `labels` (0), masks [N, 2, 4] of logits."""
    slots = len(scores)
    rng = np.random.default_rng(seed)
    logits = np.full((1, slots, 3), -8, np.float32)
    logits[0, np.arange(slots), labels or [0] * slots] = np.log(np.array(scores) / (1 - np.array(scores)))
    return RawOutputs(
        rng.normal(size=(1, slots, 8)).astype(np.float32),
        rng.random((1, slots, 4), np.float32),
        logits,
        np.array(masks, np.float32)[None],
    )


LEFT = [[5, 5, -5, -5], [5, 5, -5, -5]]
THREE_LEFT = [[5, 5, 5, -5], [5, 5, -5, -5]]
RIGHT = [[-5, -5, 5, 5], [-5, -5, 5, 5]]
EMPTY = [[-5] * 4] * 2


def changed(given, **arrays):
    return dataclasses.replace(given, **{name: array.astype(np.float32) for name, array in arrays.items()})


def test_a_frame_equals_itself():
    one = outputs([0.9, 0.6, 0.1], [LEFT, RIGHT, EMPTY])
    found = compare_frame(one, one, 0.5, True)
    assert (found.counting, found.agreeing, found.mask_iou, found.worst_iou, found.score) == (2, 2, 1, 1, 0)
    assert found.first
    assert found.finite
    for tensor in (found.queries, found.boxes, found.logits, found.mask_logits):
        assert (tensor.max, tensor.mean, tensor.typical) == (0, 0, 0)


def test_differences_are_largest_mean_and_of_the_median_slot():
    one = outputs([0.9, 0.9, 0.9], [LEFT, LEFT, LEFT])
    masks = one.mask_logits.copy()
    masks[0, 0, 0, 0] += 0.25
    masks[0, 1, 1, 1] -= 4
    masks[0, 2, 0, 1] += 0.5
    found = compare_frame(one, changed(one, mask_logits=masks), 0.5, False)
    assert found.mask_logits.max == 4
    assert found.mask_logits.typical == 0.5
    assert found.mask_logits.mean == pytest.approx(4.75 / 24)
    assert found.worst_iou == 1
    boxes = one.boxes.copy()
    boxes[0, 1, 2] += 0.125
    assert compare_frame(one, changed(one, boxes=boxes), 0.5, False).boxes.max == pytest.approx(0.125)
    assert compare_frame(one, changed(one, queries=one.queries * 2), 0.5, False).queries.max == pytest.approx(
        np.abs(one.queries).max()
    )


def test_objects_agree_by_class_and_overlap():
    one = outputs([0.9, 0.9, 0.9, 0.9], [LEFT, LEFT, LEFT, EMPTY], [0, 1, 2, 0])
    other = outputs([0.9, 0.9, 0.8, 0.9], [THREE_LEFT, RIGHT, LEFT, EMPTY], [0, 1, 0, 0])
    found = compare_frame(one, other, 0.5, False)
    # IoU 4/5 agrees; 0 does not; another class does not; two empty masks are the same nothing.
    assert (found.counting, found.agreeing, found.worst_iou) == (4, 2, 0)
    assert found.mask_iou == pytest.approx((0.8 + 0 + 1 + 1) / 4)
    # The slot of another class: 0.9 against the sigmoid of -8.
    assert found.score == pytest.approx(0.9 - 1 / (1 + math.exp(8)), abs=1e-6)
    assert found.logits.max == pytest.approx(8 + math.log(9), abs=1e-5)


def test_a_slot_counts_that_is_confident_on_either_side():
    one, other = outputs([0.9, 0.2, 0.2], [LEFT] * 3), outputs([0.2, 0.9, 0.2], [LEFT, RIGHT, RIGHT])
    found = compare_frame(one, other, 0.5, False)
    assert (found.counting, found.agreeing) == (2, 1)
    assert counting_slots(one, 0.5).tolist() == [True, False, False]


def test_a_frame_without_an_object():
    one = outputs([0.2, 0.2], [LEFT, LEFT])
    found = compare_frame(one, one, 0.5, False)
    assert (found.counting, found.agreeing, found.score) == (0, 0, 0)
    assert math.isnan(found.mask_iou)
    assert math.isnan(found.worst_iou)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(poison):
    one = outputs([0.9, 0.9], [LEFT, LEFT])
    masks = one.mask_logits.copy()
    masks[0, 1, 0, 0] = poison
    other = changed(one, mask_logits=masks)
    assert one.finite()
    assert not other.finite()
    found = compare_frame(one, other, 0.5, False)
    assert not found.finite
    assert found.mask_logits.max == found.mask_logits.mean == found.mask_logits.typical == math.inf
    assert found.logits.max == 0


def test_slots_are_found_again_by_their_embeddings():
    one = outputs([0.9, 0.8, 0.7, 0.2, 0.1], [LEFT, RIGHT, THREE_LEFT, EMPTY, LEFT], [0, 1, 2, 0, 1])
    order = np.array([3, 0, 4, 2, 1])
    noise = np.random.default_rng(1).normal(size=one.queries.shape) * 1e-3
    shuffled = RawOutputs(
        **{name: array[:, order] for name, array in vars(changed(one, queries=one.queries + noise)).items()}
    )
    found = slot_order(one, shuffled)
    np.testing.assert_array_equal(order[found], np.arange(5))
    back = shuffled.permuted(found)
    np.testing.assert_array_equal(back.mask_logits, one.mask_logits)
    assert compare_frame(one, back, 0.5, True).agreeing == 3
    assert compare_frame(one, shuffled, 0.5, True).agreeing < 3
    # Embeddings that are no numbers leave the order alone.
    assert slot_order(one, changed(one, queries=one.queries * np.nan)).tolist() == [0, 1, 2, 3, 4]


def shown(objects, slots=5):
    """A frame with objects {slot: (mask, class)}, each with a score of 0.9 unless one follows."""
    found = {slot: (*what, 0.9)[:3] for slot, what in objects.items()}
    masks, labels, scores = zip(*(found.get(slot, (EMPTY, 0, 0.01)) for slot in range(slots)), strict=True)
    return outputs(scores, masks, labels)


def agreements(pairs):
    """(agreeing, counting) of each frame, given the objects on either side."""
    names, found = NewcomerNames(0.5), []
    for reference, candidate in pairs:
        difference = compare_frame(shown(reference), names.rename(shown(reference), shown(candidate)), 0.5, False)
        found.append((difference.agreeing, difference.counting))
    return found


OLD, NEW, OTHER = (LEFT, 0), (RIGHT, 1), (THREE_LEFT, 2)


def test_a_newcomer_is_the_same_in_another_slot_of_nobody_and_keeps_its_name():
    pairs = [({0: OLD}, {0: OLD}), ({0: OLD, 2: NEW}, {0: OLD, 3: NEW}), ({0: OLD, 2: NEW}, {0: OLD, 3: NEW})]
    assert agreements(pairs) == [(1, 1), (2, 2), (2, 2)]
    # Its name is the reference's for good: neither another slot of nobody nor the reference's own will do after that.
    assert agreements([*pairs, ({0: OLD, 2: NEW}, {0: OLD, 4: NEW})])[3] == (1, 3)
    assert agreements([*pairs, ({0: OLD, 2: NEW}, {0: OLD, 2: NEW})])[3] == (1, 3)
    # Two at once, each in the other's slot.
    assert agreements([({0: OLD}, {0: OLD}), ({0: OLD, 1: NEW, 2: OTHER}, {0: OLD, 2: NEW, 1: OTHER})])[1] == (3, 3)


def test_a_newcomer_in_the_slot_of_somebody_is_another_object():
    pairs = [({0: OLD, 1: OTHER}, {0: OLD, 1: OTHER}), ({0: OLD, 1: OTHER}, {0: OLD, 1: OTHER})]
    assert agreements([*pairs, ({0: OLD, 1: OTHER, 2: NEW}, {0: OLD, 1: NEW, 2: OTHER})])[2] == (1, 3)
    # Nor is it the same of another class, or where it does not overlap.
    assert agreements([*pairs, ({2: NEW}, {3: (RIGHT, 2)})])[2] == (0, 2)
    assert agreements([*pairs, ({2: NEW}, {3: (LEFT, 1)})])[2] == (0, 2)


def test_a_newcomer_has_no_name_while_only_one_side_is_confident_of_it():
    """The candidate's slot of that name shows it too, and loses it to another one before it is sure."""
    start, hesitant = ({0: OLD}, {0: OLD}), ({0: OLD, 2: NEW}, {0: OLD, 2: (*NEW, 0.4), 3: (*NEW, 0.4)})
    both = ({0: OLD, 2: NEW}, {0: OLD, 3: NEW})
    assert agreements([start, hesitant, both, both]) == [(1, 1), (2, 2), (2, 2), (2, 2)]
    # Once both were confident in one frame, the name stays.
    assert agreements([start, ({0: OLD, 2: NEW}, {0: OLD, 2: NEW}), both])[2] == (1, 3)


@pytest.mark.parametrize(("gap", "agree"), [(TrackParameters.max_age, 0), (TrackParameters.max_age + 1, 1)])
def test_a_slot_is_nobodys_again_when_a_track_would_have_ended(gap, agree):
    pairs = [({0: OLD}, {0: OLD}), *[({}, {})] * gap, ({0: NEW}, {1: NEW}), ({0: NEW}, {1: NEW})]
    assert agreements(pairs)[-1] == (agree, 2 - agree)
