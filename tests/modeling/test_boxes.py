"""Masks to boxes, pixel by pixel, and the logit space of boxes."""

import math

import numpy as np
import pytest
import torch

from l2g.modeling.boxes import inverse_sigmoid, mask_to_box

H, W = 6, 10


def mask(*pixels: tuple[int, int]) -> torch.Tensor:
    """[1, 1, H, W] logits, positive at the given (y, x)."""
    logits = torch.full((1, 1, H, W), -1.0)
    for y, x in pixels:
        logits[0, 0, y, x] = 1.0
    return logits


@pytest.mark.parametrize(
    ("pixels", "mask2box", "bitmask"),
    [
        ([(2, 3)], (0.3, 2 / 6, 0.0, 0.0), (0.35, 2.5 / 6, 0.1, 1 / 6)),
        ([(0, 0)], (0.0, 0.0, 0.0, 0.0), (0.05, 0.5 / 6, 0.1, 1 / 6)),
        ([(5, 9)], (0.9, 5 / 6, 0.0, 0.0), (0.95, 5.5 / 6, 0.1, 1 / 6)),
        ([(1, 2), (4, 7)], (0.45, 2.5 / 6, 0.5, 3 / 6), (0.5, 3 / 6, 0.6, 4 / 6)),
        ([(1, 7), (4, 2)], (0.45, 2.5 / 6, 0.5, 3 / 6), (0.5, 3 / 6, 0.6, 4 / 6)),
        ([(3, x) for x in range(W)], (0.45, 0.5, 0.9, 0.0), (0.5, 3.5 / 6, 1.0, 1 / 6)),
        ([(y, x) for y in range(H) for x in range(W)], (0.45, 2.5 / 6, 0.9, 5 / 6), (0.5, 0.5, 1.0, 1.0)),
        ([], (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    ],
    ids=["pixel", "first pixel", "last pixel", "diagonal", "other diagonal", "line", "full", "empty"],
)
def test_documented_boxes(pixels, mask2box, bitmask):
    for box_init, expected in (("mask2box", mask2box), ("bitmask", bitmask)):
        box = mask_to_box(mask(*pixels), box_init)
        assert box.dtype == torch.float32
        assert box.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_the_threshold_is_above_zero():
    logits = mask((2, 3))
    logits[0, 0, 5, 9] = 0.0
    assert mask_to_box(logits).flatten().tolist() == pytest.approx((0.3, 2 / 6, 0.0, 0.0))


@pytest.mark.parametrize("box_init", ["mask2box", "bitmask"])
def test_only_empty_masks_take_the_fallback(box_init):
    logits = torch.cat([mask(), mask((2, 3)), mask()], dim=1)
    empty = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    found = mask_to_box(logits, box_init, empty)
    assert torch.equal(found[:, ::2], empty[:, ::2])
    assert torch.equal(found[:, 1], mask_to_box(mask((2, 3)), box_init)[:, 0])


@pytest.mark.parametrize("far", [0, 1])
def test_random_masks_against_a_loop(far):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, H, W)).astype(np.float32) - 1.5
    found = mask_to_box(torch.from_numpy(logits), "bitmask" if far else "mask2box").numpy()
    for b, n in np.ndindex(2, 5):
        ys, xs = np.nonzero(logits[b, n] > 0)
        x1, x2, y1, y2 = xs.min() / W, (xs.max() + far) / W, ys.min() / H, (ys.max() + far) / H
        np.testing.assert_allclose(found[b, n], ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), atol=1e-6)


def test_inverse_sigmoid():
    x = torch.tensor([0.0, 1.0, 0.5, 0.25, -3.0, 7.0], dtype=torch.float64)
    most = math.log(1 / 1e-5)
    expected = [-most, most, 0.0, math.log(1 / 3), -most, most]
    assert inverse_sigmoid(x).tolist() == pytest.approx(expected, abs=1e-4)
    # Half precision cannot tell 1 - 1e-5 from 1.
    assert inverse_sigmoid(x.half()).tolist() == pytest.approx(expected, abs=1e-4)
