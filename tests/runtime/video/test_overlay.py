"""What is drawn is what was found."""

import itertools

import numpy as np
import pytest

from l2g.errors import L2GError
from l2g.runtime.assembler import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.overlay import OverlayPainter, OverlayStyle, draw_overlay, track_color


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


def test_in_place_is_the_same_picture_where_it_can_be():
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    result = FrameResult(0, 0.0, (_instance(3, np.ones((60, 80), bool), 100, 150, (200, 300)),))
    expected = draw_overlay(picture, result, ["cat"])
    frozen, padded = picture.copy(), np.zeros((200, 310, 3), np.uint8)[:, :300]
    frozen.flags.writeable, padded[...] = False, picture
    for image in (frozen, padded, picture):
        np.testing.assert_array_equal(OverlayPainter(["cat"]).draw(image, result, in_place=True), expected)
    assert (frozen != expected).any(), "what cannot be drawn on stays"
    np.testing.assert_array_equal(picture, expected)


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


def test_what_lies_behind_keeps_its_contour():
    image = np.full((200, 200, 3), 90, np.uint8)
    behind, before = (
        _instance(1, np.ones((60, 60), bool), 70, 70, (200, 200)),
        _instance(2, np.ones((120, 120), bool), 40, 40, (200, 200)),
    )
    behind, before = (
        TrackedInstance(i.track_id, 0, 0, score, 0, i.mask) for i, score in ((behind, 0.6), (before, 0.9))
    )
    drawn = draw_overlay(image, FrameResult(0, 0.0, (before, behind)), ["cat"], OverlayStyle(labels=False, opacity=1.0))
    assert (drawn[100, 100] == track_color(2)).all(), "an opaque mask hides what is behind it"
    for y, x in [(70, 100), (129, 100), (100, 70), (100, 129)]:
        np.testing.assert_allclose(drawn[y, x], track_color(1), atol=40, err_msg="but not its outline")


def test_opacity_is_the_share_of_the_color():
    image = np.full((100, 100, 3), 90, np.uint8)
    result = FrameResult(0, 0.0, (_instance(3, np.ones((60, 60), bool), 20, 20, (100, 100)),))
    for opacity in (0.0, 0.25, 1.0):
        drawn = draw_overlay(image, result, ["cat"], OverlayStyle(labels=False, opacity=opacity))
        np.testing.assert_allclose(drawn[50, 50], 90 * (1 - opacity) + opacity * np.array(track_color(3)), atol=0.51)


def test_without_labels_there_is_nothing_but_masks():
    image = np.zeros((200, 300, 3), np.uint8)
    result = FrameResult(0, 0.0, (_instance(3, np.ones((40, 40), bool), 100, 100, (200, 300)),))
    assert not draw_overlay(image, result, ["cat"], OverlayStyle(labels=False))[:98].any()
    assert draw_overlay(image, result, ["cat"])[:98].any()


def test_trails_join_the_centres_of_the_last_frames_and_end_with_the_track():
    painter = OverlayPainter(["cat"], OverlayStyle(labels=False, opacity=0.0, trails=4))
    blank = np.zeros((100, 200, 3), np.uint8)
    drawn = blank
    for t in range(10):
        mask = np.zeros((11, 11), bool)
        mask[:, :6] = True  # the centre is the mask's, not the box's
        mask[5, :] = True
        drawn = painter.draw(blank, FrameResult(t, t / 10, (_instance(5, mask, 20 + 5 * t, 10 + 15 * t, (100, 200)),)))
    ys, xs = np.mgrid[:11, :11][:, mask]
    last, first = (np.array([25 - 5 + ys.mean() + 5 * t, 10 + xs.mean() + 15 * t]) for t in (9, 5))
    for share in (0.1, 0.5, 0.9):
        y, x = np.rint(first + share * (last - first)).astype(int)
        assert drawn[y - 1 : y + 2, x - 1 : x + 2].any(), f"{share} of the way"
    y, x = np.rint(first - 0.4 * (last - first)).astype(int)
    assert not drawn[y - 3 : y + 4, x - 3 : x + 4].any(), "older than the trail is long"
    for t in range(10, 16):
        drawn = painter.draw(blank, FrameResult(t, t / 10, ()))
    assert not drawn.any()


def test_the_hud_shows_frame_time_and_rate_and_is_dropped_where_it_does_not_fit():
    def shown(index, time, rate, size=(120, 640)):
        painter = OverlayPainter([], OverlayStyle(hud=True))
        return painter.draw(np.full((*size, 3), 100, np.uint8), FrameResult(index, time, ()), rate)

    one = shown(7, 1.5, 24.0)
    assert not (one[:10, :60] == 100).all()
    assert (one[40:] == 100).all()
    for other in (shown(8, 1.5, 24.0), shown(7, 1.6, 24.0), shown(7, 1.5, 25.0), shown(7, 1.5, None)):
        assert (one != other).any(), "each number is seen"
    words = np.flatnonzero((shown(7, 1.5, None) != 100).any(axis=(0, 2))).max()
    assert (shown(7, 1.5, 24.0, (120, words + 5)) == shown(7, 1.5, None, (120, words + 5))).all(), "the rate goes first"
    assert (shown(7, 1.5, 24.0, (6, 640)) == 100).all()


def test_labels_stay_off_the_hud():
    style, image = OverlayStyle(hud=True, opacity=0.0), np.zeros((300, 400, 3), np.uint8)
    corner = _instance(1, np.ones((30, 30), bool), 0, 0, (300, 400))
    with_label = OverlayPainter(["cat"], style).draw(image, FrameResult(0, 0.0, (corner,)))
    without = OverlayPainter(["cat"], OverlayStyle(labels=False, hud=True, opacity=0.0)).draw(
        image, FrameResult(0, 0.0, (corner,))
    )
    assert (with_label[:14, :100] == without[:14, :100]).all()
    assert (with_label != without).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"opacity": 1.5}, "opacity 1.5 found, 0"),
        ({"opacity": float("nan")}, "opacity nan found"),
        ({"trails": -1}, "trails of -1 frames found"),
    ],
)
def test_a_style_out_of_range_is_refused(wrong, message):
    with pytest.raises(L2GError, match=message):
        OverlayStyle(**wrong)
