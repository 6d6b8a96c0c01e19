"""Merging against the public description, pixel by pixel, and each of its rules by itself."""

import math

import numpy as np
import pytest

from l2g.errors import L2GError
from l2g.runtime.outputs import Contenders, Detections, RawOutputs, SoftmaxOutputs
from l2g.runtime.panoptic.merge import merge_panoptic, merge_semantic
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.panoptic.segmentation import rgb_of
from l2g.runtime.picture.logits import sharpened

RAW = PanopticOptions(temperature=0)


def plain_panoptic(logits, masks, stuff, threshold, overlap, temperature):
    """What the public Mask DINO says of its panoptic inference, for one pixel after another, in Python's floats.

    {(slot of a thing or class of stuff): set of pixels}
    """
    probability = [[1 / (1 + math.exp(-x)) for x in row] for row in logits]
    kept = []
    for slot, row in enumerate(probability):
        if max(row) > threshold:
            weights = [math.exp(p / temperature) for p in row] if temperature else row
            weight = max(weights) / sum(weights) if temperature else max(weights)
            kept.append((slot, weights.index(max(weights)), weight))
    height, width = masks.shape[1:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    inside = {slot: [(y, x) for y, x in pixels if 1 / (1 + math.exp(-masks[slot, y, x])) >= 0.5] for slot, _, _ in kept}
    winner = {}
    for y, x in pixels:
        best = -1.0
        for slot, _, weight in kept:
            value = weight / (1 + math.exp(-masks[slot, y, x]))
            if value > best:
                best, winner[y, x] = value, slot
    found = {}
    for slot, label, _ in kept:
        won = [pixel for pixel in pixels if winner[pixel] == slot]
        left = [pixel for pixel in inside[slot] if winner[pixel] == slot]
        if left and len(won) / len(inside[slot]) >= overlap:
            key = ("stuff", label) if label in stuff else ("thing", slot)
            found.setdefault(key, set()).update(left)
    return found


def smooth(rng, count, height, width):
    """Mask logits with regions of many sizes, which meet and overlap; float64."""
    coarse = rng.normal(0, 6, (count, 4, 5))
    rows, columns = np.linspace(0, 3, height), np.linspace(0, 4, width)
    top, left = np.minimum(rows.astype(int), 2), np.minimum(columns.astype(int), 3)
    fy, fx = (rows - top)[:, None], (columns - left)[None]
    grid = [coarse[:, top + dy][:, :, left + dx] for dy in (0, 1) for dx in (0, 1)]
    mixed = (grid[0] * (1 - fx) + grid[1] * fx) * (1 - fy) + (grid[2] * (1 - fx) + grid[3] * fx) * fy
    mixed += rng.normal(0, 0.3, mixed.shape)
    # Slots shy of each other, as a model's are, but not quite.
    order = np.sort(mixed, axis=0)
    others = np.where(mixed == order[-1], order[-2], order[-1])
    return mixed - 0.9 * others


def contenders(logits, temperature):
    """As the outputs of a model give them, but in float64."""
    probability = 1 / (1 + np.exp(-logits))
    labels = probability.argmax(1)
    weights = sharpened(probability, temperature).max(1)
    return Contenders(np.arange(len(logits)), labels, probability.max(1), weights)


def shown(merged, stuff):
    regions = {}
    for region in merged.regions:
        key = ("stuff", region.label) if region.label in stuff else ("thing", region.slot)
        pixels = set(zip(*(axis.tolist() for axis in np.nonzero(merged.numbers == region.number)), strict=True))
        assert len(pixels) == region.area
        regions[key] = pixels
    assert sum(map(len, regions.values())) == np.count_nonzero(merged.numbers)
    return regions


@pytest.mark.parametrize("temperature", [0.06, 0])
@pytest.mark.parametrize("seed", range(6))
def test_as_the_public_description_has_it(seed, temperature):
    rng = np.random.default_rng([seed, int(temperature > 0)])
    logits, masks = rng.normal(-0.5, 1.5, (9, 6)), smooth(rng, 9, 24, 31)
    stuff = {1, 4, 5}
    options = PanopticOptions(overlap_threshold=0.4 + 0.1 * seed, temperature=temperature)
    merged = merge_panoptic(contenders(logits, temperature), masks.__getitem__, (24, 31), stuff, 0.3, options)
    expected = plain_panoptic(logits, masks, stuff, 0.3, options.overlap_threshold, temperature)
    assert shown(merged, stuff) == expected
    assert len(expected) >= 2  # or nothing was compared


def test_semantic_as_the_public_description_has_it():
    rng = np.random.default_rng(5)
    probability, masks = rng.uniform(0, 1, (7, 4)), smooth(rng, 7, 70, 20)
    merged = merge_semantic(probability, lambda start, stop: masks[:, start:stop], (70, 20), RAW)
    label_of = {region.number: region.label for region in merged.regions}
    for y in range(70):
        for x in range(20):
            sums = [sum(probability[q, c] / (1 + math.exp(-masks[q, y, x])) for q in range(7)) for c in range(4)]
            assert label_of[merged.numbers[y, x]] == sums.index(max(sums))


def case(scores, labels, masks, **changes):
    """Merge masks that are boolean, with a weight of each slot's score; 2 is stuff."""
    scores = np.array(scores)
    given = Contenders(np.arange(len(scores)), np.array(labels), scores, scores)
    options = PanopticOptions(temperature=0, **changes)
    logits = np.where(np.array(masks, bool), 8.0, -8.0)
    return merge_panoptic(given, logits.__getitem__, logits.shape[1:], {2}, 0.25, options)


def test_slots_of_one_class_of_stuff_become_one_region_and_things_do_not():
    left, right = [[1, 1, 0, 0]], [[0, 0, 1, 1]]
    (one,) = case([0.6, 0.9], [2, 2], [left, right]).regions
    assert (one.label, one.slot, one.score, one.area) == (2, 1, 0.9, 4)
    assert [(r.slot, r.area) for r in case([0.6, 0.9], [0, 0], [left, right]).regions] == [(0, 2), (1, 2)]


def test_a_slot_of_which_too_little_is_left_is_dropped_and_its_pixels_are_nobodys():
    wide, over = [[1, 1, 1, 1, 0, 0]], [[0, 1, 1, 1, 1, 1]]
    merged = case([0.5, 0.9], [0, 1], [wide, over])
    assert merged.numbers.tolist() == [[0, 1, 1, 1, 1, 1]]
    # A quarter of it is left.
    assert case([0.5, 0.9], [0, 1], [wide, over], overlap_threshold=0.25).numbers.tolist() == [[1, 2, 2, 2, 2, 2]]


def test_a_score_that_is_only_as_high_as_the_threshold_does_not_count():
    assert case([0.25], [0], [[[1, 1]]]).regions == ()
    assert len(case([0.26], [0], [[[1, 1]]]).regions) == 1


def test_small_segments_are_left_out_stuff_once_it_is_one():
    masks = [[[1, 0, 0, 0, 0]], [[0, 1, 1, 0, 0]], [[0, 0, 0, 1, 1]]]
    assert case([0.9] * 3, [0, 2, 2], masks, min_thing_area=2, min_stuff_area=4).numbers.tolist() == [[0, 1, 1, 1, 1]]
    assert case([0.9] * 3, [0, 2, 2], masks, min_stuff_area=5).numbers.tolist() == [[1, 0, 0, 0, 0]]


def test_no_slot_at_all():
    merged = case([0.1], [0], [[[1, 1]]])
    assert merged.numbers.tolist() == [[0, 0]]
    assert merged.regions == ()


def test_sharpened_scores_are_a_softmax_of_the_probabilities():
    probability = np.array([[0.9, 0.3, 0.1], [0.2, 0.2, 0.2]])
    weights = [[math.exp(p / 0.06) for p in row] for row in probability]
    expected = [[w / sum(row) for w in row] for row in weights]
    np.testing.assert_allclose(sharpened(probability, 0.06), expected, rtol=1e-12)


def test_contenders_of_each_kind_of_outputs():
    logits = np.array([[[2.0, -1.0, 0.5], [-3.0, 1.0, 3.0]]], np.float32)
    queries, masks = np.zeros((1, 2, 4), np.float32), np.zeros((1, 2, 3, 3), np.float32)
    raw = RawOutputs(queries, None, logits, masks).contenders(0.06)
    probability = 1 / (1 + np.exp(-logits[0].astype(float)))
    assert raw.labels.tolist() == [0, 2]
    np.testing.assert_allclose(raw.scores, probability.max(1), rtol=1e-6)
    np.testing.assert_allclose(raw.weights, sharpened(probability, 0.06).max(1), rtol=1e-5)
    # The second slot is rather nothing than a class.
    softmax = SoftmaxOutputs(queries, None, logits, masks).contenders(0.06)
    share = np.exp(2.0) / np.exp(logits[0, 0].astype(float)).sum()
    assert softmax.slots.tolist() == [0]
    assert softmax.labels.tolist() == [0]
    np.testing.assert_allclose([softmax.scores, softmax.weights], share, rtol=1e-6)
    chosen = {"scores": np.array([[0.8, 0.6]], np.float32), "labels": np.array([[1, 0]], np.int32)}
    chosen |= {"slots": np.array([[1, 0]], np.int32), "masks": np.zeros((1, 2, 3, 3), np.uint8), "queries": queries}
    assert Detections.of(chosen).contenders(0.06).weights.tolist() == pytest.approx([0.8, 0.6])
    chosen["weights"] = np.array([[0.99, 0.5]], np.float32)
    assert Detections.of(chosen).contenders(0.06).weights.tolist() == pytest.approx([0.99, 0.5])
    assert Detections.of(chosen).contenders(0).weights.tolist() == pytest.approx([0.8, 0.6])


@pytest.mark.parametrize(
    "wrong",
    [{"object_mask_threshold": 1.5}, {"overlap_threshold": -0.1}, {"temperature": -1}, {"min_thing_area": -1}],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(L2GError, match="expected"):
        PanopticOptions(**wrong)


def test_the_threshold_is_that_of_the_scoring_unless_given():
    assert PanopticOptions().threshold("sigmoid") == 0.25
    assert PanopticOptions().threshold("softmax") == 0.8
    assert PanopticOptions(0.4).threshold("softmax") == 0.4


def test_ids_of_three_bytes_come_back_from_their_map():
    ids = np.array([[0, 1, 255], [256, 65535, 70000], [16777215, 4660, 1193046]], np.int32)
    red, green, blue = (rgb_of(ids)[..., channel].astype(int) for channel in range(3))
    assert np.array_equal(red + 256 * green + 65536 * blue, ids)
