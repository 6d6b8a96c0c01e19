"""What is drawn is what was found."""

import itertools

import numpy as np

from l2g.runtime.assembler import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.overlay import draw_overlay, track_color


def _instance(track_id, patch, top, left, size, label=0):
    return TrackedInstance(track_id, 0, label, 0.87, label, InstanceMask.from_patch(patch, top, left, *size))


def test_mask_is_tinted_and_the_rest_is_untouched():
    image = np.full((200, 300, 3), 90, np.uint8)
    patch = np.ones((60, 80), bool)
    patch[20:40, 30:50] = False
    drawn = draw_overlay(image, FrameResult(0, 0.0, (_instance(3, patch, 100, 150, (200, 300)),)), ["cat"])
    assert (image == 90).all(), "the frame that was given must stay as it is"
    color = np.array(track_color(3))
    inside = drawn[105:115, 155:225].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(inside, 90 * 0.55 + color * 0.45, atol=1.5)
    assert (drawn[123:137, 183:197] == 90).all(), "a hole stays a hole"
    assert (drawn[165:] == 90).all()
    assert (drawn[:, :145] == 90).all()
    np.testing.assert_allclose(drawn[100, 230 - 2], color, atol=90)
    label = drawn[70:100, 150:230]
    assert (label == color.astype(np.uint8)).all(axis=2).mean() > 0.1, "the label lies above the object"


def test_a_track_keeps_its_color_and_neighbours_differ():
    colors = [track_color(track_id) for track_id in range(1, 40)]
    assert colors[4] == track_color(5)
    for first, second in itertools.pairwise(colors):
        assert np.abs(np.subtract(first, second)).sum() > 100
    assert len(set(colors)) == len(colors)


def test_objects_at_the_rim_and_names_beyond_ascii_are_no_crash():
    for height, width in [(40, 60), (1, 1), (7, 500), (1080, 1920)]:
        image = np.zeros((height, width, 3), np.uint8)
        whole = _instance(1, np.ones((height, width), bool), 0, 0, (height, width))
        corner = _instance(2, np.ones((1, 1), bool), height - 1, width - 1, (height, width), label=1)
        drawn = draw_overlay(image, FrameResult(0, 0.0, (whole, corner)), ["Hündchen", "猫"])
        assert drawn.shape == image.shape
        assert drawn.any()
