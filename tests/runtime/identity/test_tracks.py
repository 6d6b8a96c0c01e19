"""Birth, death and reuse of slots; labels by vote."""

import pytest

from l2g.errors import ConfigError
from l2g.runtime.identity.tracks import SlotTracker, TrackParameters


def _run(parameters, scores_per_frame, slot=3, label=0):
    """Track ids reported for one slot, frame by frame; None where nothing is reported."""
    tracker = SlotTracker(parameters)
    ids = []
    for score in scores_per_frame:
        seen = tracker.update([slot], [score], [label])
        ids.append(seen[0].track_id if seen else None)
    return ids


def test_a_track_is_born_at_the_threshold_and_not_below():
    assert _run(TrackParameters(birth_score=0.5), [0.49, 0.5, 0.9]) == [None, 1, 1]


def test_a_living_track_is_seen_down_to_the_death_score():
    parameters = TrackParameters(birth_score=0.6, death_score=0.3)
    assert _run(parameters, [0.4, 0.6, 0.4, 0.3, 0.29, 0.4]) == [None, 1, 1, 1, None, 1]


def test_without_a_death_score_nothing_below_the_birth_score_is_shown():
    assert _run(TrackParameters(birth_score=0.6), [0.6, 0.59, 0.6]) == [1, None, 1]


@pytest.mark.parametrize(("hidden", "expected"), [(2, 1), (3, 2)])
def test_a_track_outlives_max_age_hidden_frames_and_no_more(hidden, expected):
    ids = _run(TrackParameters(max_age=2), [0.9] + [0.0] * hidden + [0.9])
    assert ids == [1] + [None] * hidden + [expected]


def test_hidden_frames_must_be_in_a_row():
    assert _run(TrackParameters(max_age=1), [0.9, 0, 0.9, 0, 0.9, 0, 0, 0.9]) == [1, None, 1, None, 1, None, None, 2]


def test_a_slot_that_is_not_listed_is_unseen():
    tracker = SlotTracker(TrackParameters(max_age=1))
    assert tracker.update([5], [0.9], [0])[0].track_id == 1
    tracker.update([], [], [])
    tracker.update([7], [0.9], [0])
    assert tracker.update([5], [0.9], [0])[0].track_id == 3


def test_ids_are_never_used_twice_even_after_a_reset():
    tracker = SlotTracker()
    tracker.update([0, 1], [0.9, 0.8], [0, 0])
    tracker.reset()
    assert [seen.track_id for seen in tracker.update([0, 1], [0.9, 0.8], [0, 0])] == [3, 4]
    assert tracker.born == 4


def test_confirmation_hides_what_flickers_up():
    parameters = TrackParameters(confirm_frames=3)
    assert _run(parameters, [0.9, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9]) == [None, None, None, None, None, 1, 1]


def test_the_order_is_that_of_the_arguments():
    seen = SlotTracker().update([9, 4, 2], [0.9, 0.2, 0.7], [1, 0, 2])
    assert [(s.slot, s.frame_label, s.score, s.track_id) for s in seen] == [
        (9, 1, 0.9, 1),
        (2, 2, 0.7, 2),
    ]


def test_the_label_is_the_class_with_the_largest_sum_of_scores():
    tracker = SlotTracker(TrackParameters(birth_score=0.3))
    labels = []
    for score, label in [(0.6, 2), (0.5, 7), (0.9, 7), (0.85, 2), (0.95, 2)]:
        (seen,) = tracker.update([0], [score], [label])
        assert seen.frame_label == label
        labels.append(seen.label)
    assert labels == [2, 2, 7, 2, 2]


def test_a_new_track_in_the_slot_starts_its_vote_anew():
    tracker = SlotTracker(TrackParameters(max_age=0))
    for _ in range(5):
        tracker.update([0], [0.9], [1])
    tracker.update([0], [0.0], [1])
    (seen,) = tracker.update([0], [0.6], [4])
    assert (seen.track_id, seen.label) == (2, 4)


def test_memory_is_bounded_by_the_slots():
    tracker = SlotTracker(TrackParameters(max_age=0))
    for frame in range(500):
        tracker.update([frame % 20], [0.9], [0])
    assert tracker.born == 500
    assert len(tracker._tracks) <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"birth_score": 1.5},
        {"birth_score": -0.1},
        {"birth_score": 0.4, "death_score": 0.5},
        {"max_age": -1},
        {"confirm_frames": 0},
    ],
)
def test_parameters_out_of_range_are_refused(arguments):
    with pytest.raises(ConfigError, match="expected"):
        TrackParameters(**arguments)
