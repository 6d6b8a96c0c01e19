"""Synthetic panoptic video: what it is made of, on disk, by name, and that it never changes."""

import hashlib
import itertools
import json
import os

import numpy as np
import pytest

from l2g.cli.learning.data_draw import main
from l2g.data.registry import load_dataset
from l2g.data.synthetic.panoptic import CATEGORIES, THINGS, panoptic_dataset, panoptic_video, write_panoptic
from l2g.data.synthetic.stuff import STUFF_NAMES
from l2g.data.synthetic.video import MIN_VISIBLE, synthetic_video
from l2g.data.vipseg import load_vipseg
from l2g.errors import DataError
from l2g.metrics.stq import evaluate_stq
from l2g.metrics.vpq import evaluate_vpq


@pytest.fixture(scope="module")
def videos():
    return [panoptic_video("val", index, frames=[0, 12, 35]) for index in range(32)]


def test_the_things_are_those_of_the_instance_split():
    for split, index, size, cuts in (("val", 0, (96, 160), 0), ("occluded", 3, (64, 96), 1), ("long", 1, (96, 160), 0)):
        plain = synthetic_video(split, index, seed=2, frames=[0, 9, 33], size=size, cuts=cuts)
        drawn = panoptic_video(split, index, seed=2, frames=[0, 9, 33], size=size, cuts=cuts)
        np.testing.assert_array_equal(drawn.things.label_map, plain.label_map)
        np.testing.assert_array_equal(drawn.labels[: len(plain.labels)], plain.labels)
        assert (drawn.stuff[plain.label_map > 0] == 0).all()
        assert (drawn.frames != plain.frames).any(-1)[plain.label_map == 0].mean() > 0.6  # the rest are occluders


def test_every_class_of_stuff_shows_its_share(videos):
    assert len(STUFF_NAMES) >= 4
    shares = np.bincount(np.concatenate([video.stuff.ravel() for video in videos]), minlength=len(STUFF_NAMES) + 1)
    shares = shares / shares.sum()
    assert shares[0] < 0.5  # objects and occluders
    assert shares[1:].min() > 0.07
    assert {len(video.stuff_labels) for video in videos} == {2, 3, 4}


def test_stuff_changes_along_the_video(videos):
    """Regions move, and what shows in them scrolls: where a class stays, its picture is another."""
    kept, moved = [], []
    for video in videos:
        first, last = video.stuff[0], video.stuff[2]
        both = (first > 0) & (last > 0)
        kept.append((first == last)[both].mean())
        steady = both & (first == last)
        change = np.abs(video.frames[0].astype(int) - video.frames[2].astype(int)).mean(-1)
        moved.append(change[steady].mean())
    assert 0.6 < np.mean(kept) < 0.93
    assert np.mean(moved) > 8  # of 255; the sensor's noise alone gives 2 to 6
    assert min(moved) > 3


def test_textures_tell_the_classes_apart():
    """Of every two classes one has twice the other's contrast at some distance, beside their hues."""
    from l2g.data.synthetic.stuff import texture

    def profile(label):
        tile = texture(label).astype(float)
        spread = tile.var()
        return np.array(
            [((tile - np.roll(tile, step, axis)) ** 2).mean() / (2 * spread) for axis in (0, 1) for step in (4, 8, 16)]
        )

    profiles = [profile(label) for label in range(len(STUFF_NAMES))]
    for one, other in itertools.combinations(profiles, 2):
        assert np.abs(np.log2(one / other)).max() > 1


def test_the_drawing_is_pinned():
    video = panoptic_video("val", 0, frames=range(0, 36, 7))
    assert [CATEGORIES[label].name for label in video.labels[-4:]] == list(STUFF_NAMES)
    assert hashlib.sha256(video.maps().tobytes()).hexdigest()[:16] == "9b56fa99de95dc44"
    np.testing.assert_allclose(video.frames.mean((0, 1, 2)), [101.866, 105.035, 103.568], atol=0.05)
    np.testing.assert_allclose(video.frames.std(), 49.159, atol=0.05)


def test_any_frame_can_be_drawn_alone_and_splits_share_nothing():
    whole = panoptic_video("train", 5, seed=3, frames=12)
    some = panoptic_video("train", 5, seed=3, frames=[11, 0])
    np.testing.assert_array_equal(some.frames, whole.frames[[11, 0]])
    np.testing.assert_array_equal(some.maps() % 100, whole.maps()[[11, 0]] % 100)
    keys = itertools.product(("train", "val", "occluded", "long"), (0, 1), (0, 1))
    sums = {panoptic_video(split, index, seed=seed, frames=[0]).stuff.tobytes() for split, seed, index in keys}
    assert len(sums) == 16


def test_written_and_read_back(tmp_path, capsys):
    out = tmp_path / "set"
    arguments = ["--panoptic", "--split", "occluded", "--seed", "7", "--videos", "2", "--frames", "9"]
    assert main([*arguments, "--output", str(out)]) == 0
    dataset = load_vipseg(out, "occluded")
    assert [(c.name, c.is_thing) for c in dataset.categories] == [(c.name, c.is_thing) for c in CATEGORIES]
    assert not any(problem.fatal for problem in dataset.problems)
    for index, video in enumerate(dataset.videos):
        drawn = panoptic_video("occluded", index, seed=7, frames=9)
        for t in range(9):
            np.testing.assert_array_equal(video.panoptic(t), drawn.maps()[t])
        assert np.abs(video.frame(8).astype(int) - drawn.frames[8]).mean() < 3
        clip = video.read(range(9))
        found = sorted(zip(clip.labels.tolist(), clip.masks.sum((1, 2, 3)).tolist(), strict=True))
        assert found == sorted(zip(drawn.labels.tolist(), drawn.masks().sum((1, 2, 3)).tolist(), strict=True))
    capsys.readouterr()
    assert main([*arguments, "--output", str(out)]) == 2  # never over somebody's data
    assert main([*arguments, "--format", "png", "--output", str(tmp_path / "other")]) == 2
    assert "jpg" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_truth_as_a_prediction_is_perfect(tmp_path):
    """By the ids of the maps themselves, and by others: an identity is no number."""
    write_panoptic(tmp_path / "set", "val", videos=3, frames=10)
    truth = json.loads((tmp_path / "set" / "panoptic_gt_VIPSeg_val.json").read_text())
    maps = tmp_path / "set" / "panomasksRGB"
    drawn = {f"val_0_{i:04d}": panoptic_video("val", i, frames=10).maps() for i in range(3)}
    for predictions, by in ((truth, maps), (truth, drawn), (_renumbered(truth), {k: v * 7 for k, v in drawn.items()})):
        vpq = evaluate_vpq(truth, maps, predictions, by)
        assert vpq.mean((1, 2, 4, 6, 8)) == {"VPQ": 100, "VPQ_thing": 100, "VPQ_stuff": 100}
        stq = evaluate_stq(truth, maps, predictions, by)
        assert (stq.total.stq, stq.total.aq, stq.total.sq) == pytest.approx((1, 1, 1), abs=1e-12)
        assert (*vpq.notes, *stq.notes) == ()
    assert stq.total.tubes == sum(len(panoptic_video("val", i, frames=10).things.labels) for i in range(3))


def _renumbered(truth):
    other = json.loads(json.dumps(truth))
    for video in other["annotations"]:
        for frame in video["annotations"]:
            for segment in frame["segments_info"]:
                segment["id"] *= 7
    return other


def test_named_sets_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    first = load_dataset("synthetic_panoptic:val", videos=1)
    (annotation,) = tmp_path.rglob("panoptic_gt_VIPSeg_val.json")
    stamp = os.stat(annotation).st_mtime_ns
    again = load_dataset("synthetic_panoptic:val", videos=1)
    assert os.stat(annotation).st_mtime_ns == stamp
    assert first.name == again.name == "synthetic_panoptic:val"
    assert first.videos[0].length == 36
    assert first.class_names == tuple(category.name for category in CATEGORIES)
    other = load_dataset("synthetic_panoptic:val", videos=1, seed=1)
    assert (other.videos[0].panoptic(0) != first.videos[0].panoptic(0)).any()
    with pytest.raises(DataError, match="synthetic_panoptic"):
        load_dataset("no such set")


def test_training_draws_without_a_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    dataset = load_dataset("synthetic_panoptic:train", seed=4)
    clip = dataset.videos[10**9].read([3, 5])
    drawn = panoptic_video("train", 10**9, seed=4, frames=[3, 5])
    np.testing.assert_array_equal(clip.frames, drawn.frames)
    np.testing.assert_array_equal(clip.masks, drawn.masks())
    assert clip.labels.max() >= len(THINGS)
    assert not any(tmp_path.iterdir())
    assert len(panoptic_dataset("val")) == 64


def test_crumbs_are_void():
    """In these frames gravel comes into sight; with 1 and 14 pixels it is nothing yet."""
    video = panoptic_video("val", 35, frames=[3, 6, 9])
    sizes = [np.bincount(frame.ravel(), minlength=5)[4] for frame in video.stuff]
    assert sizes[:2] == [0, 0]
    assert sizes[2] >= MIN_VISIBLE
