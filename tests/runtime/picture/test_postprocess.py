"""Mask DINO's post-processing against what its public implementation gave for the same predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

from l2g.errors import L2GError
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.picture.logits import probability_logits, sigmoid
from l2g.runtime.picture.postprocess import image_instances, select_detections

GOLDEN = Path(__file__).parents[2] / "assets" / "maskdino"


@pytest.mark.parametrize("name", ["golden_tiny_seed0", "golden_tiny_seed1", "golden_tiny_pad_seed0"])
def test_instances_equal_the_public_implementation(name):
    with np.load(GOLDEN / f"{name}.npz") as golden:
        meta = json.loads(bytes(golden["meta_json"]))
        expected = {key: golden[f"out/inst.{key}"] for key in ("scores", "classes", "boxes")}
        count, height, width = golden["out/inst.masks_shape"]
        expected_masks = np.unpackbits(golden["out/inst.masks_packed"], axis=-1)[..., :width].astype(bool)
        predictions = [golden[f"out/pred_{key}"][0] for key in ("logits", "boxes", "masks")]
    got = image_instances(*predictions, meta["hw"], (int(height), int(width)), top_k=int(count))

    assert got.masks.shape == (count, height, width) == expected_masks.shape
    ours = np.lexsort((got.scores, got.labels))
    theirs = np.lexsort((expected["scores"], expected["classes"]))
    np.testing.assert_array_equal(got.labels[ours], expected["classes"][theirs])
    np.testing.assert_allclose(got.scores[ours], expected["scores"][theirs], atol=2e-6)
    np.testing.assert_allclose(got.boxes[ours], expected["boxes"][theirs], atol=1e-4, rtol=1e-6)
    np.testing.assert_array_equal(got.masks[ours], expected_masks[theirs])


def _raw(logits, mask_logits=None):
    logits = np.asarray(logits, np.float32)
    streams, slots = logits.shape[:2]
    mask_logits = np.zeros((streams, slots, 2, 3), np.float32) if mask_logits is None else mask_logits
    return RawOutputs(
        np.zeros((streams, slots, 4), np.float32), np.zeros((streams, slots, 4), np.float32), logits, mask_logits
    )


def test_detections_are_the_best_slots_with_their_best_class():
    raw = _raw([[[0.0, 1.0], [3.0, 2.0], [-1.0, -2.0]], [[0.0, -1.0], [-3.0, 4.0], [2.0, 5.0]]])
    chosen = select_detections(raw, 2)
    np.testing.assert_array_equal(chosen.slots, [[1, 0], [2, 1]])
    np.testing.assert_array_equal(chosen.labels, [[0, 1], [1, 1]])
    np.testing.assert_allclose(chosen.scores, 1 / (1 + np.exp([[-3.0, -1.0], [-5.0, -4.0]])), rtol=1e-6)
    assert (chosen.scores.dtype, chosen.labels.dtype, chosen.slots.dtype) == (np.float32, np.int32, np.int32)


def test_equal_scores_keep_the_order_of_slots_and_labels():
    chosen = select_detections(_raw([[[1.0, 1.0], [2.0, 0.0], [1.0, 1.0], [2.0, 2.0]]]), 4)
    np.testing.assert_array_equal(chosen.slots, [[1, 3, 0, 2]])
    np.testing.assert_array_equal(chosen.labels, [[0, 0, 0, 0]])


def test_saturated_scores_are_still_ordered_by_logit():
    assert select_detections(_raw([[[40.0], [60.0], [50.0]]]), 3).slots.tolist() == [[1, 2, 0]]


def test_more_slots_asked_for_than_there_are():
    assert select_detections(_raw([[[0.0], [1.0]]]), 10).slots.tolist() == [[1, 0]]


def test_masks_are_bytes_of_probability_of_the_chosen_slots():
    masks = np.array([[[[-9.0, 0.0, 9.0]], [[-0.1, 0.1, 1.0]]]], np.float32)
    chosen = select_detections(_raw([[[0.0], [1.0]]], masks), 2)
    np.testing.assert_array_equal(chosen.masks[0, 1, 0], [0, 128, 255])
    np.testing.assert_array_equal(chosen.masks[0, 0, 0], [121, 134, 186])


def test_bytes_become_logits_with_the_edge_between_127_and_128():
    logits = probability_logits(np.arange(256, dtype=np.uint8))
    assert (logits[:128] < 0).all()
    assert (logits[128:] > 0).all()
    assert (np.diff(logits) > 0).all()
    np.testing.assert_allclose(sigmoid(logits[1:-1]), np.arange(1, 255) / 255, atol=1e-6)
    with pytest.raises(L2GError, match="uint8"):
        probability_logits(np.zeros((2, 2), np.float32))


def test_sigmoid_neither_overflows_nor_loses_small_probabilities():
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(sigmoid(np.array([-1e4, 0.0, 1e4])), [0, 0.5, 1], atol=1e-30)
    np.testing.assert_allclose(sigmoid(np.float32(-30.0)), 9.357623e-14, rtol=1e-5)


def test_bytes_lose_little_of_the_masks():
    """Masks cut from bytes against masks cut from the raw logits, on the public implementation's predictions."""
    with np.load(GOLDEN / "golden_tiny_seed0.npz") as golden:
        logits = golden["out/pred_masks"][0]
    letterbox = Letterbox(384, 480, 128, 160)
    overlaps = []
    for raw, byte in zip(logits, np.rint(sigmoid(logits) * 255).astype(np.uint8), strict=True):
        one, other = (letterbox.mask_to_source(m).full() for m in (raw, probability_logits(byte)))
        overlaps.append((one & other).sum() / (one | other).sum())
    assert np.mean(overlaps) > 0.985
