"""Identity switches of drawn cases whose answer is known."""

import numpy as np
from pycocotools import mask as coco

from l2g.metrics.identities import FOUND_WITHIN, IdentityReport, Return, identity_switches, returns


def box(left, width=4):
    mask = np.zeros((8, 32), np.uint8)
    mask[2:6, left : left + width] = 1
    return coco.encode(np.asfortranarray(mask))


def test_a_faithful_identity_never_switches():
    tube = [box(t) for t in range(10)]
    report = identity_switches([tube], [{7: code} for code in tube])
    assert report == IdentityReport(10, 10, 0)


def test_another_identity_takes_over_once():
    tube = [box(t) for t in range(10)]
    predictions = [{1 if t < 6 else 2: code} for t, code in enumerate(tube)]
    report = identity_switches([tube], predictions)
    assert report == IdentityReport(10, 10, 1)
    assert report.switches_per_100_frames == 10


def test_a_gap_is_not_a_switch_but_a_new_identity_after_it_is():
    tube = [box(0), box(1), None, box(3), box(4)]
    same = [{1: box(0)}, {}, {}, {1: box(3)}, {1: box(4)}]
    assert identity_switches([tube], same) == IdentityReport(4, 3, 0)
    other = [{1: box(0)}, {}, {}, {5: box(3)}, {5: box(4)}]
    assert identity_switches([tube], other) == IdentityReport(4, 3, 1)


def test_two_objects_that_swap_identities_are_two_switches():
    a, b = [box(2)] * 4, [box(20)] * 4
    predictions = [{1: box(2), 2: box(20)}] * 2 + [{2: box(2), 1: box(20)}] * 2
    assert identity_switches([a, b], predictions) == IdentityReport(8, 8, 2)


def test_an_identity_stays_while_it_fits_though_another_fits_better():
    tube = [box(4)] * 3
    worse = box(5)  # IoU 3 / 5
    predictions = [{1: worse}, {1: worse, 2: box(4)}, {1: worse, 2: box(4)}]
    assert identity_switches([tube], predictions) == IdentityReport(3, 3, 0)


def test_a_poor_overlap_stands_for_nothing():
    assert identity_switches([[box(4)]], [{1: box(7)}]) == IdentityReport(1, 0, 0)
    assert (IdentityReport(4, 2, 1) + IdentityReport(6, 3, 0)).coverage == 0.5


def test_an_object_that_comes_back_is_found_by_the_same_identity_another_or_none():
    seen, gone = box(4), None
    tube = [seen, seen, gone, gone, gone, seen, seen, seen]
    before = [{1: seen}] * 2 + [{}] * 3
    assert returns([tube], before + [{1: seen}] * 3) == [Return(3, True)]
    assert returns([tube], [*before, {}, {2: seen}, {1: seen}]) == [Return(3, False)]
    assert returns([tube], before + [{}] * 3) == [Return(3, None)]
    # What nobody stood for before has not come back, and what stays away is not judged.
    assert returns([tube], [{}] * 5 + [{1: seen}] * 3) == []
    assert returns([tube[:5]], before) == []


def test_every_absence_is_one_of_its_own_and_the_identity_last_seen_counts():
    seen, gone = box(4), None
    tube = [seen, gone, seen, gone, gone, seen, gone, seen]
    predictions = [{1: seen}, {}, {2: seen}, {}, {}, {2: seen}, {}, {}]
    assert returns([tube], predictions) == [Return(1, False), Return(2, True), Return(1, None)]
    # Leaving again before it was found.
    assert returns([[seen, gone, seen, gone, seen]], [{1: seen}, {}, {}, {}, {1: seen}]) == [
        Return(1, None),
        Return(1, True),
    ]


def test_found_late_is_not_found():
    seen = box(4)
    tube = [seen, None, *[seen] * (FOUND_WITHIN + 1)]
    for late, found in ((FOUND_WITHIN - 1, True), (FOUND_WITHIN, None)):
        predictions = [{1: seen}, {}, *[{}] * late, *[{1: seen}] * (FOUND_WITHIN + 1 - late)]
        assert returns([tube], predictions) == [Return(1, found)]
