"""Augmentation: the same for all frames, masks with their pixels, padding where it belongs."""

import colorsys

import numpy as np
import pytest

from l2g.contract import PAD_VALUE
from l2g.data.dataset import make_clip
from l2g.data.transforms import Augment, fitted, recoloured
from l2g.errors import DataError


def _clip(height=60, width=80, frames=3, seed=0):
    """Bright discs on black: a pixel belongs to the mask exactly where it is bright."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((2, frames, height, width), bool)
    for i in range(2):
        cy, cx = rng.uniform(15, 45), rng.uniform(15, 65)
        for t in range(frames):
            masks[i, t] = (y - cy - t) ** 2 + (x - cx - 2 * t) ** 2 < 11**2
    masks[1] &= ~masks[0]
    pictures = np.zeros((frames, height, width, 3), np.uint8)
    pictures[masks.any(0)] = 255
    return make_clip(pictures, np.array([1, 2]), masks)


@pytest.mark.parametrize(
    "settings",
    [
        {"canvas": (96, 160)},
        {"canvas": (32, 64)},
        {"canvas": (64, 96), "flip": 1.0},
        {"canvas": (96, 128), "crop": 1.0, "shortest_edge": (48, 64)},
    ],
)
def test_masks_stay_on_their_pixels(settings):
    augment = Augment(**settings)
    for seed in range(10):
        clip = augment(_clip(seed=seed), np.random.default_rng(seed))
        height, width = clip.content
        assert clip.frames.shape == (3, *settings["canvas"], 3)
        assert clip.masks.shape == (len(clip.labels), 3, *settings["canvas"])
        bright = clip.frames[:, :height, :width, 0] > 127
        union = clip.masks.any(0)
        assert (bright != union[:, :height, :width]).sum() < 0.04 * union.sum() + 12  # edges of a resized disc
        assert not union[:, height:].any()
        assert not union[:, :, width:].any()
        assert (clip.frames[:, height:] == PAD_VALUE).all()
        assert (clip.frames[:, :, width:] == PAD_VALUE).all()


def test_flip_is_a_mirror_image():
    before = _clip()
    after = Augment((64, 96), flip=1.0, shortest_edge=(60,))(before, np.random.default_rng(0))
    assert after.content == (60, 80)
    np.testing.assert_array_equal(after.frames[:, :60, :80], before.frames[:, :, ::-1])
    np.testing.assert_array_equal(after.masks[..., :60, :80], before.masks[..., ::-1])
    np.testing.assert_allclose(after.boxes[..., 0] * 96, 80 - before.boxes[..., 0] * 80, atol=1e-4)


def test_all_frames_are_cropped_and_coloured_alike():
    """Frames that are equal before stay equal to each other."""
    clip = _clip(frames=1, seed=3)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    still = make_clip(np.stack([noise] * 4), clip.labels, np.repeat(clip.masks, 4, 1))
    augment = Augment((96, 160), (40, 60, 90), 1.0, (0.5, 0.9), 0.5, 0.4, 0.4, 0.4, 30.0)
    seen = set()
    for seed in range(8):
        after = augment(still, np.random.default_rng(seed))
        assert (after.frames == after.frames[:1]).all()
        assert (after.masks == after.masks[:, :1]).all()
        seen.add(after.frames.tobytes())
    assert len(seen) == 8


def test_content_is_always_letterboxed():
    assert fitted((480, 640), (96, 160)) == (96, 128)
    assert fitted((640, 480), (96, 160)) == (96, 72)
    assert fitted((90, 160), (96, 160)) == (90, 160)
    assert fitted((480, 640), (480, 864), 360) == (360, 480)
    assert fitted((480, 640), (480, 864), 720) == (480, 640)  # never beyond the canvas
    assert fitted((1, 5000), (96, 160)) == (1, 160)


def test_a_crop_never_loses_every_instance():
    masks = np.zeros((1, 2, 60, 80), bool)
    masks[..., 0, 0] = True
    clip = make_clip(np.zeros((2, 60, 80, 3), np.uint8), np.array([1]), masks)
    augment = Augment((64, 96), crop=1.0, crop_scale=(0.3, 0.6))
    for seed in range(30):
        assert augment(clip, np.random.default_rng(seed)).labels.tolist() == [1]


def test_objects_cut_away_are_dropped():
    augment = Augment((64, 96), crop=1.0, crop_scale=(0.3, 0.4))
    counts = {len(augment(_clip(), np.random.default_rng(seed)).labels) for seed in range(40)}
    assert counts == {1, 2}


def test_colours():
    """Greys keep their colour under hue and saturation; hue turns as HSV says; brightness and contrast are factors."""
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(5):
        np.testing.assert_array_equal(
            recoloured(grey, Augment((32, 32), saturation=0.9, hue=90)._colour_matrix(rng)), grey
        )
    scaled = [
        int(recoloured(grey, Augment((32, 32), brightness=0.5)._colour_matrix(rng))[0, 0, 0, 0]) for _ in range(200)
    ]
    assert 50 <= min(scaled) < 60
    assert 140 < max(scaled) <= 150
    middle = np.full((1, 4, 4, 3), 128, np.uint8)
    np.testing.assert_array_equal(recoloured(middle, Augment((32, 32), contrast=0.9)._colour_matrix(rng)), middle)

    class Highest:
        def uniform(self, low, high, count):
            return np.full(count, high, float)

    turned = recoloured(
        np.full((1, 1, 1, 3), (200, 80, 80), np.uint8), Augment((32, 32), hue=120)._colour_matrix(Highest())
    )
    hue = colorsys.rgb_to_hsv(*(turned[0, 0, 0] / 255.0))[0]
    assert abs(hue - 1 / 3) < 0.01


@pytest.mark.parametrize(
    "wrong", [{"canvas": (90, 160)}, {"canvas": (0, 32)}, {"canvas": (32, 32), "crop_scale": (0.9, 0.5)}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(DataError):
        Augment(**wrong)
