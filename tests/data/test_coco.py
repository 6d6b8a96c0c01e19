"""COCO pseudo-videos: the camera moves smoothly, the masks with it."""

import json

import cv2
import numpy as np
import pytest

from l2g.contract import PAD_VALUE
from l2g.data.clips import sample_clip
from l2g.data.coco import Trajectory, load_coco
from l2g.data.registry import load_dataset
from l2g.errors import DataError
from tests.data.layouts import compressed, write_picture

H, W = 90, 120


def _data():
    square = [[40.0, 30.0, 80.0, 30.0, 80.0, 60.0, 40.0, 60.0]]
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in (1, 2)],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 18, "iscrowd": 0, "segmentation": square},
            {"id": 6, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": compressed(np.ones((H, W), bool))},
            {"id": 7, "image_id": 2, "category_id": 1, "iscrowd": 0, "segmentation": square},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


def _write(root, data):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_train2017.json").write_text(json.dumps(data))
    rgb = np.full((H, W, 3), 10, np.uint8)
    rgb[30:60, 40:80] = 250
    for record in data["images"]:
        write_picture(root / "train2017" / record["file_name"], rgb)


def test_masks_follow_the_camera(tmp_path):
    _write(tmp_path, _data())
    dataset = load_dataset(f"coco:{tmp_path}")
    assert dataset.class_names == ("person", "dog")
    rng = np.random.default_rng(0)
    shifts, sizes = [], []
    for _ in range(30):
        clip = dataset.videos[0].read(range(8), rng)
        assert clip.labels.tolist() == [1]  # the crowd is left out
        bright = (clip.frames[..., 0] > 180) & (clip.frames[..., 2] > 180)
        assert (bright != clip.masks[0]).mean() < 0.03
        steps = np.linalg.norm(np.diff(clip.boxes[0, :, :2], axis=0), axis=1)[
            clip.present[0, 1:] & clip.present[0, :-1]
        ]
        shifts.append(steps.max(initial=0))
        sizes.append(clip.masks[0].sum((1, 2)))
    assert 0.005 < np.median(shifts) < 0.15  # it moves, and never jumps
    assert max(shifts) < 0.3
    assert np.ptp([size[0] for size in sizes]) > 300  # zoom differs from clip to clip


def test_a_still_camera_shows_the_picture(tmp_path):
    _write(tmp_path, _data())
    still = Trajectory(rotation=0, shear=0, zoom=(1, 1), travel=0, flip=0)
    clip = load_coco(tmp_path, trajectory=still).videos[0].read([0, 3])
    expected = cv2.imread(str(tmp_path / "train2017/1.png"))[..., ::-1]
    np.testing.assert_array_equal(clip.frames, [expected, expected])
    assert clip.masks.sum() == 2 * 30 * 40
    mirrored = Trajectory(rotation=0, shear=0, zoom=(1, 1), travel=0, flip=1)
    flipped = load_coco(tmp_path, trajectory=mirrored).videos[0].read([0])
    np.testing.assert_array_equal(flipped.masks[0, 0], clip.masks[0, 0][:, ::-1])


def test_beyond_the_picture_is_padding(tmp_path):
    _write(tmp_path, _data())
    far = Trajectory(rotation=0, shear=0, zoom=(1, 1), travel=0.9, flip=0)
    frames = load_coco(tmp_path, trajectory=far).videos[0].read([0], np.random.default_rng(1)).frames
    assert (frames == PAD_VALUE).all(-1).mean() > 0.1


def test_paths_are_random_with_a_generator_and_fixed_without(tmp_path):
    _write(tmp_path, _data())
    dataset = load_coco(tmp_path)
    video = dataset.videos[0]
    np.testing.assert_array_equal(video.read([2]).frames[0], video.frame(2))
    rng = np.random.default_rng(0)
    assert (video.read([2], rng).frames != video.read([2], rng).frames).any()
    clip = sample_clip(dataset, rng, 4)
    assert clip.frames.shape == (4, H, W, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: d["annotations"][0].update(category_id=2),
            "corrupt annotation: annotation 5 of '1.png': .*category 2",
        ),
        (lambda d: d["annotations"][0].update(segmentation=[]), "annotation 5 of '1.png': it has no segmentation"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2]]), "annotation 5 of '1.png': polygon"),
        (lambda d: d["images"][0].update(height="x"), "corrupt annotation: 1.png"),
        (lambda d: d["images"][0].pop("id"), "corrupt annotation: 1.png"),
    ],
)
def test_damage_is_named_and_can_be_skipped(tmp_path, change, words):
    data = _data()
    change(data)
    _write(tmp_path, data)
    with pytest.raises(DataError, match=words):
        load_coco(tmp_path)
    dataset = load_coco(tmp_path, skip_broken=True, drop_empty=True)
    assert [v.name for v in dataset.videos] == ["2.png"]
    assert dataset.class_names == ("person",)
    kinds = [(p.kind, p.where) for p in dataset.problems if not p.fatal]
    assert ("category without instances", "dog") in kinds


def test_missing_picture(tmp_path):
    _write(tmp_path, _data())
    (tmp_path / "train2017/1.png").unlink()
    with pytest.raises(DataError, match=r"missing frame: 1\.png"):
        load_coco(tmp_path)
