"""Onto the canvas and back: sizes, padding, positions, against sampling written out by hand."""

import sys

import cv2
import numpy as np
import pytest

from l2g.contract import PAD_VALUE
from l2g.errors import L2GError
from l2g.runtime.picture import letterbox as picture_room
from l2g.runtime.picture.letterbox import Letterbox, Squash

SIZES = [(270, 480), (1080, 1920), (480, 270), (101, 150), (33, 500), (64, 96), (7, 5)]


def _sample(logits, letterbox, stride=4):
    """Bilinear sampling of a map at the centre of every source pixel, in float64."""

    def axis(length, content, cells):
        at = (np.arange(length) + 0.5) * content / length / stride - 0.5
        low = np.floor(at).astype(int)
        return np.clip(low, 0, cells - 1), np.clip(low + 1, 0, cells - 1), at - low

    y0, y1, fy = axis(letterbox.source_height, letterbox.content_height, logits.shape[0])
    x0, x1, fx = axis(letterbox.source_width, letterbox.content_width, logits.shape[1])
    rows = logits[y0] * (1 - fy)[:, None] + logits[y1] * fy[:, None]
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_content_keeps_the_aspect_ratio_and_fills_one_side(height, width):
    box = Letterbox(height, width, 128, 192)
    assert box.content_height == 128 or box.content_width == 192
    assert box.content_height <= 128
    assert box.content_width <= 192
    assert abs(box.content_height - height * box.scale) <= 0.5
    assert abs(box.content_width - width * box.scale) <= 0.5


def test_picture_is_top_left_and_the_rest_is_padding():
    frame = np.full((50, 100, 3), 200, np.uint8)
    canvas = Letterbox(50, 100, 96, 128).to_canvas(frame)
    assert canvas.shape == (96, 128, 3)
    assert canvas.dtype == np.uint8
    assert (canvas[:64] == 200).all()
    assert (canvas[64:] == PAD_VALUE).all()


def test_same_size_is_copied_untouched():
    frame = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    canvas = Letterbox(64, 96, 64, 96).to_canvas(frame)
    np.testing.assert_array_equal(canvas, frame)
    assert not np.shares_memory(canvas, frame)


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((256, 384, 3), np.uint8)
    stripes[::2] = 255
    canvas = Letterbox(256, 384, 64, 96).to_canvas(stripes)
    assert np.abs(canvas.astype(int) - 127).max() <= 1


def test_growing_is_bilinear():
    frame = np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    expected = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(Letterbox(32, 48, 64, 96).to_canvas(frame), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", [4, 3.2, 16])
def test_mask_is_the_interpolated_map_above_zero(height, width, stride):
    size = (round(128 / stride), round(192 / stride))
    box = Letterbox(height, width, 128, 192, mask_size=None if stride == 4 else size)
    rng = np.random.default_rng(height)
    logits = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), 2) * 10
    got = box.mask_to_source(logits).full()
    np.testing.assert_array_equal(got, box.map_to_source(logits) > 0)
    expected = _sample(logits.astype(np.float64), box, stride)
    assert got.shape == (height, width)
    # Older OpenCV rounds positions to 1/32 of a cell, unless a cell is a whole number of pixels.
    slope = max(np.abs(np.diff(logits, axis=axis)).max() for axis in (0, 1))
    pixels = np.array([height / box.content_height * 128 / size[0], width / box.content_width * 192 / size[1]])
    tolerance = 1e-4 if np.allclose(pixels, np.rint(pixels), atol=1e-9) else slope / 32
    wrong = got != (expected > 0)
    assert not (wrong & (np.abs(expected) > tolerance)).any()
    assert wrong.mean() < 5e-3


@pytest.mark.parametrize("cell", [(0, 0), (31, 47), (0, 47), (31, 0), (15, 20)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_positive_cell_is_not_lost_at_the_rim(cell, height, width):
    """The window that is resized must hold every pixel that the cell reaches."""
    box = Letterbox(height, width, 128, 192)
    logits = np.full((32, 48), -1.0, np.float32)
    logits[cell] = 30.0
    expected = _sample(logits.astype(np.float64), box)
    got = box.mask_to_source(logits).full()
    assert not ((got != (expected > 0)) & (np.abs(expected) > 0.2)).any()


def test_mask_of_the_padding_is_empty():
    logits = np.full((24, 32), -5.0, np.float32)
    logits[20:] = 5.0
    mask = Letterbox(50, 100, 96, 128).mask_to_source(logits)
    assert mask.area == 0
    assert mask.full().shape == (50, 100)


def test_mask_of_a_block_lies_where_the_block_is():
    """A block painted on the source, thresholded on the canvas' quarter, comes back within a cell of itself."""
    for height, width in [(270, 480), (101, 150), (480, 270)]:
        frame = np.zeros((height, width, 3), np.uint8)
        y1, y2, x1, x2 = height // 4, height * 3 // 4, width // 3, width * 2 // 3
        frame[y1:y2, x1:x2] = 255
        box = Letterbox(height, width, 128, 192)
        canvas = box.to_canvas(frame, (0, 0, 0))[..., 0].astype(np.float32)
        logits = cv2.resize(canvas, (48, 32), interpolation=cv2.INTER_AREA) - 127.5
        got = box.mask_to_source(logits).box
        assert np.abs(np.subtract(got, (x1, y1, x2, y2))).max() <= 2 / box.scale


def test_boxes_scale_with_the_content_not_the_canvas():
    box = Letterbox(50, 100, 96, 128)  # content is 64 x 128
    whole = box.boxes_to_source(np.array([[0.5, 64 / 96 / 2, 1.0, 64 / 96]]))
    np.testing.assert_allclose(whole, [[0, 0, 100, 50]], atol=1e-4)
    point = box.boxes_to_source(np.array([[0.25, 0.25, 0.0, 0.0]]))
    np.testing.assert_allclose(point, [[25, 18.75, 25, 18.75]], atol=1e-4)
    upright = Letterbox(100, 50, 96, 128)  # content is 96 x 48
    point = upright.boxes_to_source(np.array([[0.25, 0.25, 0.1, 0.1]]))
    x, y, w, h = 0.25 * 128 / 48 * 50, 25.0, 0.1 * 128 / 48 * 50, 10.0
    np.testing.assert_allclose(point, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Letterbox(0, 10, 64, 64), "at least 1"),
        (lambda: Letterbox(10, 10, 62, 64), "multiples of 4"),
        (lambda: Letterbox(10, 10, 64, 64).to_canvas(np.zeros((10, 9, 3), np.uint8)), r"\[10, 9, 3\]"),
        (lambda: Letterbox(10, 10, 64, 64).to_canvas(np.zeros((10, 10, 3), np.float32)), "float32"),
        (lambda: Letterbox(10, 10, 64, 64).mask_to_source(np.zeros((64, 64), np.float32)), r"\[16, 16\]"),
    ],
)
def test_wrong_sizes_are_named(make, message):
    with pytest.raises(L2GError, match=message):
        make()


def test_squashing_without_pillow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(L2GError, match="pip install pillow"):
        Squash(20, 30, 32, 32).to_canvas(np.zeros((20, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((720, 1280), (92, 160)), ((1080, 1920), (92, 160)), ((480, 640), (96, 128)), ((700, 1400), (100, 200))],
)
def test_whole_blocks_are_averaged_as_opencv_does(size, canvas, monkeypatch):
    """To the bit: scores and ids must not depend on how the sums are made."""
    blocks = []
    averaged = picture_room._averaged
    monkeypatch.setattr(
        picture_room, "_averaged", lambda frame, *block: blocks.append(block) or averaged(frame, *block)
    )
    rng = np.random.default_rng(size[0])
    letterbox = Letterbox(*size, *canvas)
    # Halves, which are rounded to even, are frequent among two values.
    for low, high in ((0, 256), (7, 9)):
        picture = rng.integers(low, high, (*size, 3), np.uint8)
        content = letterbox.content(letterbox.to_canvas(picture))
        expected = cv2.resize(picture, content.shape[1::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(content, expected)
    assert blocks == [(size[0] // content.shape[0],) * 2] * 2
