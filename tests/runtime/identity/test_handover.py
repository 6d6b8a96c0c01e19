"""Identities follow their objects when slots trade them."""

import numpy as np
import pytest

from l2g.contract import make_contract
from l2g.runtime.identity.handover import Handover
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.postprocess import select_detections

SLOTS, CLASSES, CHANNELS, HEIGHT, WIDTH = 7, 3, 5, 12, 40
NAME = np.float32(2.0**-20)


def _look(likeness):
    """A look of so much likeness (cosine) to that of a slot whose look nobody gives."""
    return likeness, np.sqrt(1 - likeness**2), 0, 0


AKIN, OTHER = _look(0.4), _look(0)


def _frame(shown):
    """Outputs of one stream; shown: {slot: (score, left, width)}, a box-shaped mask of full height, of class 1 unless a
    class follows, and of one look (a vector of four) unless that follows too. The last slot shows nothing, and is there
    to make the mean query zero. The first channel of the queries names the slot, too small to be a look, so that what
    comes out says where it was taken from."""
    logits = np.full((1, SLOTS, CLASSES), -9.0, np.float32)
    masks = np.full((1, SLOTS, HEIGHT, WIDTH), -5.0, np.float32)
    queries = np.zeros((1, SLOTS, CHANNELS), np.float32)
    queries[0, :, 0] = NAME * np.arange(SLOTS)
    for slot, (score, left, width, *label) in shown.items():
        logits[0, slot, label[0] if label else 1] = np.log(score / (1 - score))
        masks[0, slot, :, left : left + width] = 5.0
        queries[0, slot, 1:] = label[1] if len(label) > 1 else (1, 0, 0, 0)
    queries[0, -1, 1:] = -queries[0, :, 1:].sum(0)
    return RawOutputs(queries, np.zeros((1, SLOTS, 4), np.float32), logits, masks)


def _contract(association="propagate"):
    return make_contract(
        height=4 * HEIGHT,
        width=4 * WIDTH,
        num_queries=SLOTS,
        hidden_dim=CHANNELS,
        class_names=("a", "b", "c"),
        association=association,
        top_k=None,
    )


def _slots(frames, kind="raw", association="propagate"):
    """int [T, SLOTS]: which slot each identity was, frame by frame."""
    handover = Handover(_contract(association))
    if kind == "detections":
        frames = [select_detections(frame, SLOTS) for frame in frames]
    return np.array([handover.link(frame).queries[0, :, 0] / NAME for frame in frames]).astype(int)


# Slot 0 holds an object that moves to the right; slot 3 comes to lie on it, believes more and more, and slot 0 goes.
TAKEOVER = [
    *({0: (0.8, t, 10)} for t in range(5)),
    {0: (0.7, 5, 10), 3: (0.2, 5, 10)},
    {0: (0.6, 6, 10), 3: (0.5, 6, 10)},
    {0: (0.4, 7, 9), 3: (0.7, 7, 10)},
    {0: (0.3, 25, 9), 3: (0.8, 8, 10)},
    {3: (0.8, 9, 10)},
    {3: (0.8, 10, 10)},
]


@pytest.mark.parametrize("kind", ["raw", "detections"])
def test_an_identity_goes_with_its_object(kind):
    slots = _slots([_frame(shown) for shown in TAKEOVER], kind)
    assert slots[:, 0].tolist() == [0] * 7 + [3] * 4
    assert slots[:, 3].tolist() == [3] * 7 + [0] * 4  # in return
    assert (np.sort(slots, axis=1) == np.arange(SLOTS)).all()


def test_every_output_and_the_slots_of_detections_are_renamed():
    handover, chosen = Handover(_contract()), Handover(_contract())
    for shown in TAKEOVER:
        frame = _frame(shown)
        linked = handover.link(frame)
        detections = chosen.link(select_detections(frame, SLOTS))
    assert linked.logits[0, 0, 1] == frame.logits[0, 3, 1]
    np.testing.assert_array_equal(linked.mask_logits[0, 0], frame.mask_logits[0, 3])
    assert detections.slots[0, 0] == 0  # the best detection is identity 0, whose slot is 3


def test_a_slot_that_leaves_at_once_is_followed_by_overlap():
    """No two slots ever overlap in one frame: the object is where it was, in another slot."""
    frames = [_frame({0: (0.9, 5, 10)}), _frame({0: (0.9, 5, 10)}), _frame({0: (0.9, 28, 10), 2: (0.3, 6, 10)})]
    assert _slots(frames)[-1, 0] == 2


def test_two_objects_that_trade_slots_keep_their_identities():
    frames = [_frame({0: (0.9, 0, 10), 1: (0.8, 20, 10)})] * 3 + [_frame({1: (0.9, 1, 10), 0: (0.8, 21, 10)})] * 2
    assert _slots(frames)[-1, :2].tolist() == [1, 0]


def test_an_object_keeps_the_identity_that_it_had_first():
    """Both are on one object, the younger believes less: nothing moves."""
    frames = [_frame({0: (0.9, 5, 10), 1: (0.3, 5, 10)})] * 3 + [_frame({0: (0.6, 5, 10), 1: (0.55, 5, 10)})] * 3
    assert (_slots(frames) == np.arange(SLOTS)).all()
    # The elder's slot (0) moves onto the younger's object and believes more than its: the object is still the younger.
    frames = [_frame({0: (0.9, 5, 10), 1: (0.5, 25, 10)})] * 4 + [_frame({0: (0.9, 25, 10), 1: (0.4, 25, 10)})]
    assert _slots(frames)[-1, :2].tolist() == [1, 0]


@pytest.mark.parametrize(("own", "other", "slot"), [(0.6, 0.66, 0), (0.6, 0.67, 2), (0.22, 0.246, 0), (0.22, 0.248, 2)])
def test_an_identity_leaves_its_slot_only_for_a_better_one(own, other, slot):
    """Slots without an object come to show the same; which of two is ahead by a hair must not matter."""
    frames = [_frame({0: (0.9, 5, 10)})] * 3 + [_frame({0: (own, 5, 10), 2: (other, 5, 10)})]
    assert _slots(frames)[-1, 0] == slot


def test_identities_go_where_all_together_find_most():
    """The elder would rather have slot 3, but finds its object in slot 4 almost as well; the younger does not."""
    frames = [_frame({0: (0.9, 0, 20), 1: (0.85, 10, 10)})] * 3 + [_frame({3: (0.8, 10, 10), 4: (0.8, 0, 8)})]
    assert _slots(frames)[-1, :2].tolist() == [4, 3]


@pytest.mark.parametrize(("score", "slots"), [(0.5, [3, 1]), (0.68, [4, 3])])
def test_age_counts_by_its_root(score, slots):
    """Slot 3 is worth 0.45 to the elder, slot 4 half its score; slot 3 is 0.3 to the younger, a quarter as old. (All
    times 0.4, their likeness to either.)"""
    frames = [_frame({0: (0.9, 0, 20)})] * 6 + [_frame({0: (0.9, 0, 20), 1: (0.9, 15, 10)})] * 2
    last = _frame({3: (0.9, 10, 10, 1, AKIN), 4: (score, 0, 10, 1, AKIN)})
    assert _slots([*frames, last])[-1, :2].tolist() == slots


def test_it_goes_back_where_it_came_from():
    back = [_frame({3: (0.4, 10, 10), 0: (0.6, 10, 10)}), _frame({0: (0.8, 11, 10)})]
    slots = _slots([*(_frame(shown) for shown in TAKEOVER), *back])
    assert slots[-3:, 0].tolist() == [3, 0, 0]
    assert slots[-3:, 3].tolist() == [0, 3, 3]


@pytest.mark.parametrize("kind", ["raw", "detections"])
def test_two_objects_side_by_side_have_nothing_to_do_with_each_other(kind):
    """The younger is more confident, and lies where the elder's mask was by a quarter (IoU)."""
    younger = {2: (0.9, 11, 10, 1, OTHER)}
    frames = [_frame({0: (0.6, 5, 10)})] * 3 + [_frame({0: (0.6, 5, 10), **younger})] * 2 + [_frame(younger)]
    assert (_slots(frames, kind) == np.arange(SLOTS)).all()


@pytest.mark.parametrize("kind", ["raw", "detections"])
@pytest.mark.parametrize(
    ("label", "look", "slot"), [(1, AKIN, 2), (2, AKIN, 0), (1, OTHER, 0), (2, OTHER, 0), (2, _look(1), 2)]
)
def test_what_passes_in_front_takes_nothing_if_it_is_of_another_class_or_look(kind, label, look, slot):
    """Its slot is the surer one. One of the same look is the same, whatever class it is taken for now."""
    frames = [_frame({0: (0.6, 5, 10)})] * 3 + [_frame({0: (0.4, 5, 10), 2: (0.9, 5, 10, label, look)})] * 3
    assert _slots(frames, kind)[-1, 0] == slot


@pytest.mark.parametrize("kind", ["raw", "detections"])
@pytest.mark.parametrize(("likeness", "slot"), [(0.51, 4), (0.49, 0)])
def test_an_object_that_comes_back_in_another_slot_is_known_by_its_look(kind, likeness, slot):
    frames = [_frame({0: (0.9, 5, 10)})] * 3 + [_frame({})] * 40 + [_frame({4: (0.3, 25, 10, 1, _look(likeness))})]
    assert _slots(frames, kind)[-1, 0] == slot


def test_two_objects_of_a_class_that_come_back_in_each_others_slots_are_told_apart():
    frames = [_frame({0: (0.9, 5, 10), 1: (0.9, 25, 10, 1, OTHER)})] * 3 + [_frame({})] * 40
    back = _frame({1: (0.4, 15, 10), 0: (0.4, 30, 10, 1, OTHER)})
    assert _slots([*frames, back])[-1, :2].tolist() == [1, 0]


@pytest.mark.parametrize(("score", "slot"), [(0.51, 2), (0.49, 4)])
def test_what_overlaps_it_by_more_than_a_fifth_is_worth_more_than_its_look_elsewhere(score, slot):
    """Slot 2 lies where it was, and is like it by 0.4; slot 4 has its look."""
    frames = [_frame({0: (0.9, 5, 10)})] * 3 + [_frame({2: (score, 5, 10, 1, AKIN), 4: (0.9, 30, 10)})]
    assert _slots(frames)[-1, 0] == slot


def test_a_look_alike_that_is_in_sight_keeps_its_identity():
    """The elder is out of sight; the younger, which looks the same, is where it was."""
    frames = [_frame({0: (0.9, 5, 10), 1: (0.9, 25, 10)})] * 9 + [_frame({1: (0.9, 25, 10)})] * 3
    assert (_slots(frames) == np.arange(SLOTS)).all()


def test_a_look_is_what_was_seen_clearly():
    frames = [_frame({0: (0.9, 5, 10)})] * 3 + [_frame({0: (0.1, 5, 10, 1, OTHER)})] * 6
    assert _slots([*frames, _frame({4: (0.9, 25, 10)})])[-1, 0] == 4


def test_what_all_queries_have_in_common_is_no_look():
    """Nor is it when that changes in the course of a stream."""

    def common(shown, *offset):
        frame = _frame(shown)
        frame.queries[0, :, 1:] += offset
        return frame

    early, late = (0, 0, 10, 0), (0, 0, 0, 10)
    frames = [common({0: (0.9, 5, 10)}, *early)] * 300
    assert _slots([*frames, common({4: (0.9, 25, 10, 1, OTHER)}, *early)])[-1, 0] == 0
    frames += [common({0: (0.9, 5, 10)}, *late)] * 300
    assert _slots([*frames, common({4: (0.9, 25, 10, 1, OTHER)}, *late)])[-1, 0] == 0
    assert _slots([*frames, common({4: (0.9, 25, 10)}, *late)])[-1, 0] == 4


@pytest.mark.parametrize("kind", ["raw", "detections"])
def test_objects_that_change_slots_as_they_cross_are_told_apart_by_class(kind):
    """While they cross, both masks lie on both; slot 0 goes on with the other's object, and slot 1 with its."""
    apart = _frame({0: (0.9, 0, 12), 1: (0.8, 20, 12, 2)})
    cross = _frame({0: (0.9, 8, 12), 1: (0.8, 11, 12, 2)})
    changed = _frame({0: (0.8, 9, 12, 2), 1: (0.7, 10, 12)})
    closer = _frame({0: (0.9, 5, 12), 1: (0.8, 13, 12, 2)})
    slots = _slots([apart] * 3 + [closer, cross, changed], kind)
    assert slots[-1, :2].tolist() == [1, 0]
    assert (slots[:-1] == np.arange(SLOTS)).all()


def test_the_class_of_an_identity_is_that_of_its_life():
    """A frame of another class does not change what it is."""
    frames = [_frame({0: (0.9, 5, 10)})] * 4 + [
        _frame({0: (0.9, 5, 10, 2)}),
        _frame({0: (0.3, 5, 10, 2), 2: (0.6, 5, 10)}),
    ]
    assert _slots(frames)[-1, 0] == 2


def test_over_a_long_stream_a_slot_can_serve_one_object_after_another():
    """Its class and look are the present object's, not those of which it saw more; and an identity that has been out of
    sight long enough gives way to one that came later."""
    frames = [_frame({0: (0.9, 5, 10, 2)})] * 400 + [_frame({0: (0.9, 5, 10)})] * 200
    assert _slots([*frames, _frame({0: (0.3, 5, 10, 2), 2: (0.9, 5, 10, 1, AKIN)})])[-1, 0] == 2
    other = (0.9, 25, 10, 1, OTHER)
    seen_last = [_frame({0: (0.9, 5, 10)})] * 400 + [_frame({1: other})] * 300
    like_both = _frame({4: (0.9, 15, 5, 1, _look(0.5**0.5))})
    assert _slots([*seen_last, like_both])[-1, :2].tolist() == [0, 4]
    looks = [_frame({0: (0.9, 25, 10)})] * 400 + [_frame({0: other})] * 200
    assert _slots([*looks, _frame({4: other})])[-1, 0] == 4
    assert _slots([*looks, _frame({4: (0.9, 5, 10)})])[-1, 0] == 0


def test_the_eldest_comes_first():
    """Two identities could go on in slot 4; the elder does, and the younger keeps its own."""
    frames = [_frame({5: (0.9, 5, 10)})] * 3 + [_frame({5: (0.9, 5, 10), 1: (0.7, 5, 10)})] * 2
    assert _slots([*frames, _frame({4: (0.8, 5, 10)})])[-1].tolist() == [0, 1, 2, 3, 5, 4, 6]


def test_a_hidden_object_keeps_its_slot():
    frames = [_frame({0: (0.9, 5, 10)})] * 3 + [_frame({})] * 4 + [_frame({0: (0.9, 9, 10), 1: (0.9, 30, 5)})]
    assert (_slots(frames) == np.arange(SLOTS)).all()


def test_reset_and_other_associations_rename_nothing():
    frames = [_frame(shown) for shown in TAKEOVER]
    assert (_slots(frames, association="embedding") == np.arange(SLOTS)).all()
    handover = Handover(_contract())
    for frame in frames:
        linked = handover.link(frame)
    assert linked.queries[0, 0, 0] == 3 * NAME
    handover.reset()
    assert handover.link(frames[-1]).queries[0, 0, 0] == 0


def test_outputs_that_are_not_finite_pass():
    broken = _frame({0: (0.9, 5, 10)})
    broken.logits[0, 1] = np.nan
    broken.mask_logits[0, 0, 0, 0] = np.nan
    broken.queries[0, 0, 1], broken.queries[0, 2, 2], broken.queries[0, 3, 1:] = np.nan, np.inf, 3e38
    assert (_slots([broken] * 3) == np.arange(SLOTS)).all()


def _shown(frame, kind):
    """The slots with a mask after `link`, by identity, in the first frame of a stream."""
    outputs = Handover(_contract()).link(frame if kind == "raw" else select_detections(frame, SLOTS))
    if kind == "raw":
        return set(np.flatnonzero((outputs.mask_logits[0] > 0).any((1, 2))).tolist())
    return set(outputs.slots[0][(outputs.masks[0] > 127).any((1, 2))].tolist())


@pytest.mark.parametrize("kind", ["raw", "detections"])
@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ((0.59, 5, 10), {0}),  # the same mask, 1.53 times as sure
        ((0.61, 5, 10), {0, 3}),  # 1.48 times
        ((0.2, 10, 9), {0}),  # five of nine columns inside
        ((0.2, 10, 10), {0, 3}),  # five of ten
        ((0.2, 0, 40), {0, 3}),  # the surer one lies in it, not it in the surer one
        ((0.2, 5, 10, 2), {0}),  # whatever class it takes it for
        ((0.04, 25, 10), {0}),  # nobody's
        ((0.06, 25, 10), {0, 3}),
    ],
)
def test_shadows_are_not_shown(kind, other, shown):
    frame = _frame({0: (0.905, 5, 10), 3: other})
    before = frame.mask_logits.copy()
    assert _shown(frame, kind) == shown
    np.testing.assert_array_equal(frame.mask_logits, before)  # what came in stays as it was


@pytest.mark.parametrize("kind", ["raw", "detections"])
def test_a_shadow_keeps_its_scores_and_casts_none_of_its_own_on_its_caster(kind):
    frame = _frame({0: (0.9, 5, 10), 3: (0.3, 6, 4), 1: (0.15, 6, 4)})
    assert _shown(frame, kind) == {0}
    outputs = Handover(_contract()).link(frame)
    np.testing.assert_array_equal(outputs.logits, frame.logits)
    np.testing.assert_array_equal(outputs.mask_logits[0, 0], frame.mask_logits[0, 0])


def test_a_shadow_neither_ages_nor_leads_an_identity_astray():
    """While its object is hidden, slot 0 shadows slot 2 for long; when 0's object is back in slot 4, nothing has
    happened: slot 2's object is still older than what slot 0 showed meanwhile."""
    hidden = [_frame({2: (0.9, 25, 10), 0: (0.5, 25, 10)})] * 50
    assert (_slots([_frame({2: (0.9, 25, 10)}), *hidden]) == np.arange(SLOTS)).all()
    # Slot 2 goes elsewhere and slot 0, never anything but a shadow, holds the place: the object is followed there.
    assert _slots([*hidden, _frame({0: (0.8, 25, 10), 2: (0.9, 5, 10)})])[-1, 2] == 0


def test_masks_of_image_models_are_left_alone():
    frame = _frame({0: (0.9, 5, 10), 3: (0.2, 5, 10)})
    assert Handover(_contract("embedding")).link(frame) is frame
