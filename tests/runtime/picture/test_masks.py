"""Run-length codes equal pycocotools' and patches stand where they belong."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.runtime.picture.masks import InstanceMask


def _mask(full):
    return InstanceMask.from_patch(full, 0, 0, *full.shape)


def _random(seed, density):
    rng = np.random.default_rng(seed)
    full = np.zeros((37, 53), bool)
    y, x = rng.integers(0, 20, 2)
    h, w = rng.integers(1, 17, 2)
    full[y : y + h, x : x + w] = rng.random((h, w)) < density
    return full


def _case(name):
    full = np.zeros((6, 5), bool)
    if name == "all set":
        full[:] = True
    elif name == "first pixel":
        full[0, 0] = True
    elif name == "last pixel":
        full[-1, -1] = True
    elif name == "runs that continue in the next column":
        full[3:, 1] = full[:, 2] = full[:2, 3] = True
    elif name == "full columns with gaps between":
        full[:, 0] = full[:, 2] = full[:, 4] = True
    return full


CASES = {
    name: _case(name)
    for name in (
        "empty",
        "all set",
        "first pixel",
        "last pixel",
        "runs that continue in the next column",
        "full columns with gaps between",
    )
}
CASES.update({f"random {seed}": _random(seed, 0.15 + 0.17 * (seed % 5)) for seed in range(20)})


@pytest.mark.parametrize("full", CASES.values(), ids=CASES.keys())
def test_mask_and_code_survive(full):
    mask = _mask(full)
    np.testing.assert_array_equal(mask.full(), full)
    assert mask.area == full.sum()
    expected = coco_mask.encode(np.asfortranarray(full.astype(np.uint8)))
    assert mask.rle() == {"size": list(full.shape), "counts": expected["counts"].decode()}


def test_box_is_tight_and_ends_past_the_last_pixel():
    patch = np.zeros((4, 6), bool)
    patch[1:3, 2:5] = True
    mask = InstanceMask.from_patch(patch, 10, 20, 100, 200)
    assert mask.box == (22, 11, 25, 13)
    assert mask.patch.shape == (2, 3)
    assert np.argwhere(mask.full()).tolist() == [[y, x] for y in (11, 12) for x in (22, 23, 24)]


def test_empty_mask_has_an_empty_box():
    mask = InstanceMask.from_patch(np.zeros((3, 4), bool), 5, 5, 20, 30)
    assert mask.box == (0, 0, 0, 0)
    assert mask.full().shape == (20, 30)
