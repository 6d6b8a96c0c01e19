"""Which frames a clip has, and the boxes and flags that follow from its masks."""

import numpy as np
import pytest

from l2g.data.clips import clip_times, sample_clip
from l2g.data.dataset import Clip, Video, VideoDataset, make_clip
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.data.transforms import Augment
from l2g.errors import DataError


def test_clip_times_hold_the_reference_at_an_even_stride():
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(3000):
        total, length, stride = (int(rng.integers(1, high)) for high in (25, 8, 5))
        reference = int(rng.integers(total))
        times = clip_times(reference, total, length, stride, rng)
        assert len(times) == length
        assert reference in times
        assert 0 <= min(times) <= max(times) < total
        steps = set(np.diff(times).tolist())
        if total >= length:
            assert len(steps) <= 1
            assert steps <= set(range(1, stride + 1))
        else:
            assert steps <= {-1, 0, 1}
    for _ in range(200):
        starts.add(clip_times(20, 41, 5, 2, rng)[0])
    assert starts == {12, 14, 16, 18, 20}  # the reference is anywhere in the clip


def test_long_strides_are_kept_where_there_is_room():
    times = clip_times(50, 100, 4, 7, np.random.default_rng(1))
    assert set(np.diff(times)) == {7}


class _Counting(Video):
    """Frame t is filled with t; one object, shown in the frames of `shown` only."""

    def __init__(self, length, shown):
        self.id = self.name = "counting"
        self.height, self.width, self.length, self.shown = 32, 32, length, shown

    def frame(self, t):
        return np.full((32, 32, 3), t, np.uint8)

    def annotated_frames(self):
        return np.array(self.shown, np.int64)

    def read(self, times, rng=None):
        masks = np.zeros((1, len(times), 32, 32), bool)
        masks[0, [t in self.shown for t in times], 4:10, 6:20] = True
        return make_clip(np.stack([self.frame(t) for t in times]), np.array([3]), masks, times=np.array(times))


def test_every_clip_shows_an_instance():
    dataset = VideoDataset("counting", (), [_Counting(60, []), _Counting(60, [41])])
    rng = np.random.default_rng(2)
    for _ in range(50):
        clip = sample_clip(dataset, rng, 3, (1, 2))
        assert clip.labels.tolist() == [3]
        assert 41 in clip.times
        np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], clip.times)
        np.testing.assert_array_equal(clip.present[0], clip.times == 41)


def test_a_set_in_which_nearly_every_video_is_empty_gives_clips():
    """A camera that mostly sees nothing: of 50 draws of 1000 videos hardly one finds the object."""
    dataset = VideoDataset("watching", (), [_Counting(60, [])] * 999 + [_Counting(60, [41])])
    for seed in range(5):
        assert 41 in sample_clip(dataset, np.random.default_rng(seed), 3).times


def test_a_frame_that_shows_nothing_after_all_is_tried_again():
    """A drawn video cannot tell which of its frames have a visible object."""

    class Vague(_Counting):
        def annotated_frames(self):
            return np.arange(self.length)

    rng = np.random.default_rng(2)
    dataset = VideoDataset("vague", (), [Vague(9, [3])])
    assert [sample_clip(dataset, rng, 1).times.tolist() for _ in range(9)] == [[3]] * 9


def test_clips_run_backwards_when_asked():
    dataset = VideoDataset("counting", (), [_Counting(60, list(range(60)))])
    rng = np.random.default_rng(3)
    signs = [np.sign(np.diff(sample_clip(dataset, rng, 4, reverse=0.5).times)[0]) for _ in range(60)]
    assert 10 < signs.count(1) < 50


def test_strides_cover_their_range():
    dataset = VideoDataset("counting", (), [_Counting(60, list(range(60)))])
    rng = np.random.default_rng(4)
    strides = {int(np.diff(sample_clip(dataset, rng, 4, (2, 5)).times)[0]) for _ in range(100)}
    assert strides == {2, 3, 4, 5}


@pytest.mark.parametrize("videos", [[], [_Counting(9, [])]])
def test_a_data_set_without_instances_is_refused(videos):
    with pytest.raises(DataError, match=r"'bare'.*none with an instance"):
        sample_clip(VideoDataset("bare", (), videos), np.random.default_rng(0), 2)


def test_the_same_seed_gives_the_same_clip():
    dataset = synthetic_dataset("train")
    augment = Augment((96, 160), flip=0.5, crop=0.5, brightness=0.2)
    a, b = (sample_clip(dataset, np.random.default_rng(5), 3, (1, 3), augment) for _ in range(2))
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.masks, b.masks)


def test_boxes_and_presence_of_masks():
    masks = np.zeros((3, 2, 20, 40), bool)
    masks[0, 1, 5, 7] = True  # one pixel
    masks[2, 0] = True  # everything
    clip = make_clip(np.zeros((2, 20, 40, 3), np.uint8), np.array([4, 5, 6]), masks)
    assert isinstance(clip, Clip)
    assert clip.labels.tolist() == [4, 6]  # the second is nowhere to be seen
    assert clip.labels.dtype == np.int64
    assert clip.present.tolist() == [[False, True], [True, False]]
    expected = [[[0, 0, 0, 0], [7.5 / 40, 5.5 / 20, 1 / 40, 1 / 20]], [[0.5, 0.5, 1, 1], [0, 0, 0, 0]]]
    np.testing.assert_allclose(clip.boxes, expected, atol=1e-7)
    assert clip.boxes.dtype == np.float32


def test_a_clip_without_instances_has_empty_arrays():
    clip = make_clip(np.zeros((2, 20, 40, 3), np.uint8), np.zeros(0, np.int64), np.zeros((0, 2, 20, 40), bool))
    assert (clip.masks.shape, clip.present.shape, clip.boxes.shape) == ((0, 2, 20, 40), (0, 2), (0, 2, 4))
