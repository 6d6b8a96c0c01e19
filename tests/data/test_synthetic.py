"""Synthetic video: what it is made of, and that it never changes."""

import hashlib
import itertools

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.data.synthetic.shapes import CLASSES
from l2g.data.synthetic.video import MIN_VISIBLE, SPLITS, synthetic_image, synthetic_video
from l2g.errors import DataError


@pytest.fixture(scope="module")
def sampled():
    """Per split its videos (the first 64), every sixth frame of 36 or every 20th of 300."""
    return {
        name: [
            synthetic_video(name, index, frames=range(0, SPLITS[name].frames, 6 if SPLITS[name].frames < 100 else 20))
            for index in range(min(SPLITS[name].videos, 64))
        ]
        for name in ("train", "val", "occluded", "long")
    }


def _hidden(videos):
    return np.concatenate([video.hidden[video.present] for video in videos])


@pytest.mark.parametrize(("split", "least"), [("train", 0.2), ("val", 0.2), ("long", 0.2), ("occluded", 0.4)])
def test_share_of_hidden_objects(sampled, split, least):
    hidden = _hidden(sampled[split])
    assert (hidden > 0.3).mean() >= least
    assert (hidden < 0.05).mean() > 0.2  # and plenty in full view
    assert hidden.min() >= 0
    assert hidden.max() <= 1


@pytest.mark.parametrize("split", ["train", "val", "occluded", "long"])
def test_objects_and_classes(sampled, split):
    counts = np.array([len(video.labels) for video in sampled[split]])
    assert counts.min() >= 2
    assert counts.max() <= 8
    assert len(set(counts)) >= 4
    shares = (
        np.bincount(np.concatenate([video.labels for video in sampled[split]]), minlength=len(CLASSES)) / counts.sum()
    )
    assert len(shares) == len(CLASSES) >= 8
    assert shares.min() > 0.04  # an even share is 0.125
    assert shares.max() < 0.25


def test_classes_differ_by_shape_and_by_texture():
    shapes, textures = zip(*CLASSES, strict=True)
    assert len(set(shapes)) == len(set(textures)) == len(CLASSES)


def test_objects_leave_and_come_back(sampled):
    """In 300 frames many objects are out of the picture for a while; some return, as the same object."""
    outside = [np.isnan(video.hidden[:, i]) for video in sampled["long"] for i in range(len(video.labels))]
    assert np.mean([gone.any() for gone in outside]) > 0.2
    returns = [np.flatnonzero(np.diff(gone.astype(int)) == -1).size and not gone[0] for gone in outside]
    assert sum(map(bool, returns)) >= 3


def test_things_move_turn_and_grow(sampled):
    """Between frames six apart centres move by 3 to 15 pixels as a rule; areas of objects in full view change."""
    steps, growth = [], []
    for video in sampled["val"]:
        for i, masks in enumerate(video.masks()):
            open_view = video.present[:, i] & (video.hidden[:, i] < 0.02)
            centres = [np.argwhere(mask).mean(0) if mask.any() else None for mask in masks]
            for a, b in itertools.pairwise(np.flatnonzero(open_view)):
                if b == a + 1:
                    steps.append(np.linalg.norm(centres[b] - centres[a]))
                    growth.append(masks[b].sum() / masks[a].sum())
    assert 3 < np.median(steps) < 15
    assert np.std(growth) > 0.05


def test_masks_are_the_visible_pixels():
    video = synthetic_video("occluded", 3, frames=12)
    masks = video.masks()
    assert masks.sum(0).max() == 1
    np.testing.assert_array_equal(masks.sum((2, 3)).T >= MIN_VISIBLE, video.present)
    assert masks[~video.present.T].sum() == 0
    assert video.present.any(0).all()


def test_a_hidden_object_keeps_its_number():
    """Found once: an object that is null in the middle of its video and there again afterwards."""
    for index in range(40):
        video = synthetic_video("long", index, frames=range(0, 300, 10))
        for present in video.present.T:
            if present[0] and present[-1] and not present.all():
                return
    pytest.fail("no object of 40 long videos is away for a while")


def test_the_drawing_is_pinned():
    video = synthetic_video("val", 0, frames=range(0, 36, 7))
    assert video.labels.tolist() == [6, 5, 1, 5]
    assert hashlib.sha256(video.label_map.tobytes()).hexdigest()[:16] == "db840dd43b3d1410"
    np.testing.assert_allclose(video.frames.mean((0, 1, 2)), [99.278, 86.083, 99.453], atol=0.05)
    np.testing.assert_allclose(video.frames.std(), 42.674, atol=0.05)


def test_any_frame_can_be_drawn_alone():
    whole = synthetic_video("train", 5, seed=3, frames=12)
    some = synthetic_video("train", 5, seed=3, frames=[11, 0, 4])
    np.testing.assert_array_equal(some.frames, whole.frames[[11, 0, 4]])
    np.testing.assert_array_equal(some.masks().any(0), whole.masks().any(0)[[11, 0, 4]])


def test_splits_seeds_and_videos_share_nothing():
    keys = itertools.product(SPLITS, (0, 1), (0, 1))
    pictures = [synthetic_image(split, index, seed=seed).frames for split, seed, index in keys]
    assert len({picture.tobytes() for picture in pictures}) == len(SPLITS) * 4
    assert len({split.tag for split in SPLITS.values()}) == len(SPLITS)


def test_other_sizes_show_the_same_scene():
    small = synthetic_video("val", 2, frames=[0, 10])
    large = synthetic_video("val", 2, frames=[0, 10], size=(288, 480))
    np.testing.assert_array_equal(small.labels, large.labels)
    for a, b in zip(small.masks(), large.masks()[:, :, 1::3, 1::3], strict=True):
        assert (a & b).sum() / (a | b).sum() > 0.85


def test_a_cut_changes_everything_at_once():
    video = synthetic_video("val", 1, frames=36, cuts=1)
    change = np.abs(np.diff(video.frames.astype(int), axis=0)).mean((1, 2, 3))
    still = np.abs(np.diff(synthetic_video("val", 1, frames=36).frames.astype(int), axis=0)).mean((1, 2, 3))
    assert change.max() > 2 * np.median(change)
    assert (change > 2 * np.median(change)).sum() == 1
    assert still.max() < 2 * np.median(still)


@pytest.mark.parametrize(
    "wrong",
    [{"split": "test"}, {"size": (16, 160)}, {"frames": 0}, {"frames": [-1]}, {"seed": -1}, {"index": -1}],
)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(DataError, match="synthetic"):
        synthetic_video(**{"split": "val", "index": 0, **wrong})


def test_a_window_of_one_pixel():
    """Where a sprite just touches a corner; OpenCV's compare refuses such a window."""
    for index, t in ((364, 12), (539, 20)):
        assert synthetic_video("train", index, frames=[t]).frames.any()


def test_some_objects_are_gone_after_a_cut():
    """Without a cut, of the objects there are at first nearly all are still there 12 frames on."""
    kept = {0: [], 1: []}
    for cuts, index in itertools.product(kept, range(24)):
        present = synthetic_video("val", index, frames=[10, 25], cuts=cuts).present
        kept[cuts] += present[1, present[0]].tolist()
    assert np.mean(kept[0]) > 0.9
    assert 0.4 < np.mean(kept[1]) < 0.85


def _runs(flags):
    """(start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_crossing_pairs_hide_each_other_for_a_while():
    """Every object has a twin of its class; most of the times one is more than a third hidden last 5 to 40 frames."""
    lengths, twins = [], 0
    for index in range(12):
        video = synthetic_video("crossing", index)
        counts = np.bincount(video.labels)
        twins += (counts[counts > 0] >= 2).mean() / 12
        hidden = np.nan_to_num(video.hidden, nan=0) > 0.33
        lengths += [end - start for each in hidden.T for start, end in _runs(each)]
    assert twins > 0.7
    assert len(lengths) > 60
    assert np.mean([5 <= length <= 40 for length in lengths]) > 0.6


def test_crossing_objects_change_their_colours_at_once_and_return():
    """The colour of an object in full view jumps between two frames in most videos, as it never does in `long`; objects
    are gone for a while and come back."""
    jumps, returns = {"crossing": 0, "long": 0}, 0
    for split, index in itertools.product(jumps, range(6)):
        video = synthetic_video(split, index, frames=range(240))
        largest = 0.0
        for n, masks in enumerate(video.masks()):
            clear = video.present[:, n] & (video.hidden[:, n] < 0.3)
            colours = {t: np.median(video.frames[t][masks[t]], 0) for t in np.flatnonzero(clear)}
            largest = max([largest, *(np.abs(colours[t] - colours[t - 1]).max() for t in colours if t - 1 in colours)])
            gone = _runs(np.isnan(video.hidden[:, n]))
            returns += split == "crossing" and any(start > 0 and end < 240 for start, end in gone)
        jumps[split] += largest > 60
    assert jumps["crossing"] >= 4
    assert jumps["long"] <= 1
    assert returns >= 4, "of some 30 objects"


def test_a_part_of_an_endless_split_draws_nothing():
    videos = load_dataset("synthetic:train").videos
    assert len(videos[:]) == len(videos) > 10**9
    assert [video.name for video in videos[3:9:3]] == [videos[3].name, videos[6].name]
    assert len(videos[5:][:7]) == 7
    np.testing.assert_array_equal(videos[5:][1].frame(2), synthetic_video("train", 6, frames=[2]).frames[0])
    with pytest.raises(IndexError):
        videos[:3][3]
