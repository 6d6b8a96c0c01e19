"""Slots of an image model get lasting identities whatever order they come in."""

import numpy as np
import pytest

from l2g.errors import L2GError
from l2g.runtime.identity.slots import SlotLinker, match_queries
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.postprocess import select_detections

SLOTS, CHANNELS = 12, 32


def _frame(rng, queries):
    """Outputs that carry each slot's identity in every tensor, so that a mixed-up permutation shows."""
    identity = np.arange(SLOTS, dtype=np.float32)
    return RawOutputs(
        queries[None] + rng.normal(scale=0.05, size=(1, SLOTS, CHANNELS)).astype(np.float32),
        np.repeat(identity[None, :, None], 4, axis=2),
        identity[None, :, None] * np.array([[[0.1, 0.2]]], np.float32),
        np.broadcast_to(identity[None, :, None, None] - 5.5, (1, SLOTS, 2, 3)).copy(),
    )


@pytest.fixture
def video():
    """Ten frames whose slots are shuffled, each with the permutation that was used; embeddings drift slowly."""
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(SLOTS, CHANNELS)).astype(np.float32)
    frames = []
    for index in range(10):
        order = rng.permutation(SLOTS) if index else np.arange(SLOTS)
        frames.append(_frame(rng, queries).permuted(order))
        queries = queries + rng.normal(scale=0.2, size=queries.shape).astype(np.float32)
    return frames


def test_shuffled_raw_outputs_come_back_in_the_first_order(video):
    linker = SlotLinker()
    identity = np.arange(SLOTS)
    shuffled = 0
    for frame in video:
        shuffled += not np.array_equal(frame.boxes[0, :, 0], identity)
        linked = linker.link(frame)
        np.testing.assert_array_equal(linked.boxes[0, :, 0], identity)
        np.testing.assert_allclose(linked.logits[0, :, 1], identity * 0.2, rtol=1e-6)
        np.testing.assert_array_equal(linked.mask_logits[0, :, 1, 2], identity - 5.5)
    assert shuffled >= 8


def test_detections_name_the_same_slots_as_raw_outputs(video):
    raw_linker, linker = SlotLinker(), SlotLinker()
    for frame in video:
        expected = select_detections(raw_linker.link(frame), 5)
        got = linker.link(select_detections(frame, 5))
        np.testing.assert_array_equal(got.slots, expected.slots)
        np.testing.assert_array_equal(got.slots, [[11, 10, 9, 8, 7]])
        np.testing.assert_array_equal(got.masks, expected.masks)
        np.testing.assert_array_equal(got.queries, expected.queries)
        assert got.slots.dtype == np.int32


def test_without_linking_the_identities_are_lost(video):
    """The test above means something: unlinked frames do differ."""
    assert not np.array_equal(video[0].boxes[0, :, 0], video[1].boxes[0, :, 0])


def test_length_of_an_embedding_does_not_count():
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(SLOTS, CHANNELS)).astype(np.float32)
    order = rng.permutation(SLOTS)
    scaled = queries[order] * rng.uniform(0.01, 100, size=(SLOTS, 1)).astype(np.float32)
    np.testing.assert_array_equal(order[match_queries(queries, scaled)], np.arange(SLOTS))


def test_the_assignment_is_the_best_in_sum_not_greedy():
    previous = np.array([[1.0, 0.0], [0.8, 0.6]])
    current = np.array([[0.9, 0.4359], [-0.6, 0.8]])
    # Greedy would give row 1 its nearest (row 0, cosine 0.98) and leave row 0 with -0.6.
    np.testing.assert_array_equal(match_queries(previous, current), [0, 1])


def test_reset_forgets(video):
    linker = SlotLinker()
    linker.link(video[0])
    linker.reset()
    np.testing.assert_array_equal(linker.link(video[1]).boxes, video[1].boxes)


def test_a_zero_embedding_is_no_crash_and_nan_is_an_error():
    queries = np.eye(4, dtype=np.float32)
    queries[0] = 0
    assert sorted(match_queries(queries, queries)) == [0, 1, 2, 3]
    queries[1, 1] = np.nan
    with pytest.raises(L2GError, match="NaN"):
        match_queries(np.eye(4), queries)
