"""Raw outputs and detections answer the same questions alike."""

import dataclasses

import numpy as np
import pytest

from l2g.runtime.outputs import OUTPUT_KINDS, RawOutputs, SoftmaxOutputs
from l2g.runtime.picture.postprocess import select_detections

SLOTS, CLASSES, CHANNELS = 6, 3, 4


@pytest.fixture
def raw():
    """Two streams; no two scores are equal, and no mask map is all of one sign."""
    rng = np.random.default_rng(3)
    shapes = {"queries": (CHANNELS,), "boxes": (4,), "logits": (CLASSES,), "mask_logits": (5, 7)}
    return RawOutputs(**{name: rng.normal(size=(2, SLOTS, *s)).astype(np.float32) for name, s in shapes.items()})


@pytest.fixture(params=["raw", "all", "four"])
def outputs(request, raw):
    """One stream's; of detections all slots, or the best four."""
    row = raw.stream(1)
    return row if request.param == "raw" else select_detections(row, {"all": SLOTS, "four": 4}[request.param])


def probability(raw, slot):
    return 1 / (1 + np.exp(-raw.logits[1, slot].astype(np.float64)))


def test_a_stream_is_a_view_of_its_row(raw):
    for kind in (raw, select_detections(raw, 3)):
        row = kind.stream(1)
        for name, array in kind.arrays().items():
            np.testing.assert_array_equal(getattr(row, name), array[1:])
            assert np.shares_memory(getattr(row, name), array)


def test_the_best_slots_are_the_most_probable(raw, outputs):
    order = sorted(range(SLOTS), key=lambda slot: -probability(raw, slot).max())
    found = outputs.best(3)
    assert found.slots.tolist() == order[:3]
    assert found.labels.tolist() == [probability(raw, slot).argmax() for slot in order[:3]]
    np.testing.assert_allclose(found.scores, [probability(raw, slot).max() for slot in order[:3]], rtol=1e-6)


def test_rows_tell_of_slots_their_probabilities_and_masks(raw, outputs):
    slots, probabilities = outputs.slot_probabilities(CLASSES)
    masks = outputs.binary_masks(np.arange(len(slots)))
    assert sorted(set(slots)) == sorted(slots)
    for slot, row, mask in zip(slots, probabilities, masks, strict=True):
        expected = probability(raw, slot)
        assert row.argmax() == expected.argmax()
        assert row.max() == pytest.approx(expected.max(), rel=1e-6)
        np.testing.assert_array_equal(mask, raw.mask_logits[1, slot] > 0)
        np.testing.assert_array_equal(outputs.mask_logits_of(slot) > 0, mask)
    np.testing.assert_array_equal(outputs.binary_masks(np.array([2, 0])), masks[[2, 0]])


def test_renamed_slots_keep_what_they_show(outputs):
    order = np.array([2, 0, 5, 1, 4, 3])
    renamed = outputs.permuted(order)
    assert type(renamed) is type(outputs)
    before, after = outputs.best(4), renamed.best(4)
    assert [order[slot] for slot in after.slots] == before.slots.tolist()
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(renamed.queries[0], outputs.queries[0, order])
    for slot in after.slots:
        np.testing.assert_array_equal(renamed.mask_logits_of(slot), outputs.mask_logits_of(order[slot]))
    assert outputs.permuted(np.arange(SLOTS)) is outputs


def test_masks_that_are_not_shown_are_empty(outputs):
    kept = outputs.best(2).slots.astype(np.int64)
    shown = outputs.with_masks_of(kept)
    slots, _ = shown.slot_probabilities(CLASSES)
    for slot, mask in zip(slots, shown.binary_masks(np.arange(len(slots))), strict=True):
        assert mask.any() == (slot in kept)
    np.testing.assert_array_equal(shown.best(4).scores, outputs.best(4).scores)
    assert outputs.binary_masks(np.arange(len(slots))).any(axis=(1, 2)).all()  # what was given is untouched


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_is_found(raw, poison):
    assert raw.finite()
    for name, array in vars(raw).items():
        bad = array.copy()
        bad.flat[-1] = poison
        assert not dataclasses.replace(raw, **{name: bad}).finite()


def test_every_kind_has_its_fields_named_as_the_contracts_outputs():
    for kind in (each for kinds in OUTPUT_KINDS.values() for each in kinds.values()):
        assert "queries" in kind.__dataclass_fields__


def softmax(logits):
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def softmax_outputs(logits):
    slots = logits.shape[1]
    queries = np.zeros((1, slots, 2), np.float32)
    return SoftmaxOutputs(queries, None, logits.astype(np.float32), np.ones((1, slots, 2, 2), np.float32))


def test_softmax_outputs_leave_no_object_out():
    logits = np.random.default_rng(1).normal(0, 3, (1, SLOTS, CLASSES + 1))
    found = softmax_outputs(logits)
    expected = softmax(logits)[..., :-1]
    np.testing.assert_allclose(found.probabilities(), expected, rtol=1e-5)
    best = found.best(4)
    order = np.argsort(-expected[0].max(1))[:4]
    assert best.slots.tolist() == order.tolist()
    assert best.labels.tolist() == expected[0, order].argmax(1).tolist()
    np.testing.assert_allclose(best.scores, expected[0, order].max(1), rtol=1e-5)
    np.testing.assert_allclose(select_detections(found, 4).scores[0], expected[0, order].max(1), rtol=1e-5)


def test_a_slot_of_no_object_is_no_object():
    found = softmax_outputs(np.array([[[1.0, 2.0, 0.0, 9.0], [4.0, 1.0, 0.0, -2.0]]]))
    assert found.best(2).slots.tolist() == [1, 0]
    assert found.probabilities()[0, 0].max() < 0.001


@pytest.mark.parametrize("margin", [10, 40, 80])
def test_softmax_is_exact_where_one_class_is_nearly_all(margin):
    """Log-odds from probabilities in float32 would all be the same from a margin of 17 on."""
    logits = np.array([[[margin, 0.0, 0.0, 0.0], [margin + 1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, margin]]])
    odds = softmax_outputs(logits).class_logits()
    np.testing.assert_allclose(odds[0, :2, 0], [margin - np.log(3), margin + 1 - np.log(3)], rtol=1e-5)
    np.testing.assert_allclose(odds[0, 2], -margin, atol=1e-3)
    assert softmax_outputs(logits).best(1).slots.tolist() == [1]


def test_outputs_without_boxes_do_all_that_others_do():
    found = softmax_outputs(np.random.default_rng(1).normal(size=(1, SLOTS, CLASSES + 1)))
    order = np.roll(np.arange(SLOTS), 1)
    assert found.permuted(order).boxes is None
    np.testing.assert_array_equal(found.permuted(order).logits, found.logits[:, order])
    assert found.stream(0).boxes is None
    assert found.finite()
    assert not dataclasses.replace(found, logits=found.logits * np.inf).finite()
    assert type(found.with_masks_of(np.array([1]))) is SoftmaxOutputs
