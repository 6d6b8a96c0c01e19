"""Run-length masks: measured and encoded like pycocotools does, damaged ones found."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.metrics.rle import BadMaskError, compress, encode, intersections, measure


def random_masks(rng, n, height, width):
    """Noise, blocks, empty and full masks: short runs and long ones, an odd and an even number of them."""
    masks = []
    for _ in range(n):
        kind = rng.integers(4)
        mask = np.zeros((height, width), np.uint8, order="F")
        if kind == 0:
            mask[:] = rng.random((height, width)) < rng.random()
        elif kind == 1:
            y, x = rng.integers(height), rng.integers(width)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = 1
        elif kind == 2:
            mask[:] = 1
        masks.append(mask)
    return masks


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (40, 33), (300, 500)])
def test_measure_equals_pixel_counts(height, width):
    masks = random_masks(np.random.default_rng(height), 30, height, width)
    packed = [coco_mask.encode(mask) for mask in masks]
    text = [{"size": p["size"], "counts": p["counts"].decode()} for p in packed]
    mixed = [t if i % 2 else p for i, (p, t) in enumerate(zip(packed, text, strict=True))]
    for form in (packed, text, mixed, text * 100):
        measures = measure(form)
        assert measures.areas.tolist() == [int(mask.sum()) for mask in masks] * (len(form) // len(masks))
        assert set(measures.sizes.tolist()) == {height << 32 | width}


def runs_of(counts):
    """The run lengths in a compressed RLE, read one character after the other; None if it ends within a number."""
    runs, number, bits = [], 0, 0
    for character in counts:
        code = ord(character) - 48
        number, bits = number | (code & 31) << bits, bits + 5
        if code < 32:
            number -= (code & 16) << bits - 4
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number, bits = 0, 0
    return None if bits else runs


def test_measure_finds_exactly_what_is_damaged():
    """Every string one character off a good one: refused unless it happens to be another sound mask of the size."""
    rng, refused, sound = np.random.default_rng(1), 0, 0
    for mask in random_masks(rng, 4, 24, 20):
        mask[3:9, 4:7] = 1
        good = coco_mask.encode(mask)["counts"].decode()
        for place in range(len(good)):
            for other in map(chr, range(48, 112)):
                counts = good[:place] + other + good[place + 1 :]
                masks = [{"size": [24, 20], "counts": text} for text in (good, counts, good)]
                runs = runs_of(counts)
                if runs is not None and sum(runs) == 480 and min(runs) >= 0:
                    assert measure(masks).areas.tolist() == [mask.sum(), sum(runs[1::2]), mask.sum()]
                    sound += 1
                else:
                    with pytest.raises(BadMaskError) as error:
                        measure(masks)
                    assert error.value.index == 1
                    refused += 1
    assert refused > 3000
    assert sound > 50


@pytest.mark.parametrize("height", [1080, 2160, 4320])
def test_masks_of_large_video_are_sound_however_many_they_are(height):
    """Their pixels together are more than 32 bits count."""
    width = height * 16 // 9
    counts = [[100 + n, 5 + n % 7, height * width - 105 - n - n % 7] for n in range(900)]
    masks = coco_mask.frPyObjects([{"size": [height, width], "counts": runs} for runs in counts], height, width)
    measures = measure(masks)
    assert measures.areas.tolist() == [runs[1] for runs in counts]
    masks[700] = {**masks[700], "counts": masks[700]["counts"] + b"5"}  # goes on beyond its last pixel
    with pytest.raises(BadMaskError) as refusal:
        measure(masks)
    assert refusal.value.index == 700


@pytest.mark.parametrize("size", [[24.0, 20.0], [24], [24, 20, 1], [0, 480], [-24, -20], None, "ab", [480000, 1]])
def test_measure_refuses_sizes_that_are_none(size):
    with pytest.raises(BadMaskError, match="'size' is"):
        measure([{"size": [1, 1], "counts": "1"}, {"size": size, "counts": "P?"}])


def test_measure_refuses_a_run_of_negative_length():
    """Runs that overlap may sum to the mask all the same; pycocotools would never return from comparing it."""
    counts = encode(np.array([10, 8, -3, 5, 4]), np.array([5]))[0]
    with pytest.raises(BadMaskError, match="4 x 6"):
        measure([{"size": [4, 6], "counts": counts}])


def test_encode_equals_pycocotools():
    rng = np.random.default_rng(2)
    runs = [rng.integers(0, limit, rng.integers(1, 40)) for limit in (1, 2, 40, 1000, 70000, 3_000_000) * 10]
    lengths = np.array([len(one) for one in runs])
    expected = [coco_mask.frPyObjects({"size": [1, int(r.sum())], "counts": r.tolist()}, 1, 1)["counts"] for r in runs]
    assert encode(np.concatenate(runs), lengths) == expected


def test_compress_takes_every_form():
    mask = np.zeros((12, 10), np.uint8, order="F")
    mask[2:6, 3:8] = 1
    packed = coco_mask.encode(mask)
    flat = mask.ravel(order="F")
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    polygon = [[3.0, 2.0, 8.0, 2.0, 8.0, 6.0, 3.0, 6.0]]
    frames = compress([None, {"size": [12, 10], "counts": runs}, packed, polygon, []], 12, 10)
    assert frames[0] is None
    assert frames[4] is None
    for frame in frames[1:4]:
        np.testing.assert_array_equal(coco_mask.decode(frame), mask)


def test_compress_names_the_bad_frame():
    good, bad = {"size": [4, 4], "counts": [3, 13]}, {"size": [4, 4], "counts": [3, 14]}
    with pytest.raises(BadMaskError, match="4, 4") as error:
        compress([good, None, bad], 4, 4)
    assert error.value.index == 2
    with pytest.raises(BadMaskError, match="'height' and 'width'"):
        compress([[[0, 0, 1, 0, 1, 1]]], None, None)


def test_intersections_are_exact():
    rng = np.random.default_rng(3)
    masks = random_masks(rng, 40, 211, 187)
    masks = [mask for mask in masks if mask.any()]
    packed = [coco_mask.encode(mask) for mask in masks]
    areas = measure(packed).areas
    found = intersections(packed, packed[:9], areas, areas[:9])
    expected = [[int((a & b).sum()) for b in masks[:9]] for a in masks]
    assert found.tolist() == expected
