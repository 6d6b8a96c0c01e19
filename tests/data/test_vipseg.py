"""VIPSeg: things and stuff from panoptic maps."""

import json

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.data.vipseg import load_vipseg
from l2g.errors import DataError
from tests.data.layouts import HEIGHT, WIDTH, picture, write_picture

WALL, PERSON, SKY = 0, 60, 122
# Segment ids beyond one byte: 300 = (44, 1, 0), 70000 = (112, 17, 1).
IDS = np.zeros((2, HEIGHT, WIDTH), np.uint32)
IDS[:, :12] = 300
IDS[0, 14:20, 4:10] = 70000
IDS[1, 14:20, 8:14] = 70000
IDS[1, 20:, 20:] = 5


def _rgb(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def _data():
    wall, person, crowd = (
        {"id": 300, "category_id": WALL, "iscrowd": 0, "area": 480},
        {"id": 70000, "category_id": PERSON, "iscrowd": 0, "area": 36},
        {"id": 5, "category_id": PERSON, "iscrowd": 1, "area": 80},
    )
    images = [{"id": f"{t:08d}", "file_name": f"{t:08d}.jpg", "width": WIDTH, "height": HEIGHT} for t in range(2)]
    marks = [
        {"image_id": f"{t:08d}", "file_name": f"{t:08d}.png", "segments_info": [wall, person] + [crowd] * t}
        for t in range(2)
    ]
    return {
        "videos": [{"video_id": "0_abc", "images": images}],
        "annotations": [{"video_id": "0_abc", "annotations": marks}],
        "categories": [
            {"id": SKY, "name": "sky", "isthing": 0},
            {"id": WALL, "name": "wall", "isthing": 0},
            {"id": PERSON, "name": "person", "isthing": 1},
        ],
    }


def _write(root, data):
    base = root / "VIPSeg_720P"
    for t in range(2):
        write_picture(base / f"images/0_abc/{t:08d}.jpg", picture(t))
        write_picture(base / f"panomasksRGB/0_abc/{t:08d}.png", _rgb(IDS[t]))
    (base / "panoptic_gt_VIPSeg_val.json").write_text(json.dumps(data))
    return base


def test_things_and_stuff(tmp_path):
    _write(tmp_path, _data())
    dataset = load_dataset(f"vipseg:{tmp_path}", "val")
    assert [(c.id, c.name, c.is_thing) for c in dataset.categories] == [
        (0, "wall", False),
        (60, "person", True),
        (122, "sky", False),
    ]
    assert [str(p) for p in dataset.problems] == ["category without instances: sky: category 122 is never used"]
    (video,) = dataset.videos
    assert (video.id, video.length, video.height, video.width) == ("0_abc", 2, HEIGHT, WIDTH)
    np.testing.assert_array_equal(video.panoptic(1), IDS[1])
    clip = video.read([0, 1])
    assert clip.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(clip.masks, np.stack([IDS == 300, IDS == 70000]))
    assert load_vipseg(tmp_path, "val", drop_empty=True).class_names == ("wall", "person")


def _mark(t):
    return lambda data: data["annotations"][0]["annotations"][t]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["annotations"][0].update(annotations=[]), "empty video: 0_abc"),
        (lambda d: d["annotations"][0].update(annotations=None), "corrupt annotation: 0_abc"),
        (lambda d: _mark(1)(d).update(image_id="x"), "corrupt annotation: 0_abc"),
        (lambda d: _mark(1)(d)["segments_info"][0].update(category_id=9), "corrupt annotation: 0_abc"),
        (
            lambda d: _mark(1)(d).update(segments_info=[{"id": 300, "category_id": SKY}]),
            "frame 1: segment 300 changes its category",
        ),
        (lambda d: _mark(1)(d).update(file_name="7.png"), "missing frame: 0_abc: no file 'panomasksRGB/0_abc/7.png'"),
    ],
)
def test_damage_is_named_and_can_be_skipped(tmp_path, change, words):
    data = _data()
    change(data)
    _write(tmp_path, data)
    with pytest.raises(DataError, match=words):
        load_vipseg(tmp_path, "val")
    assert len(load_vipseg(tmp_path, "val", skip_broken=True)) == 0


def test_a_map_with_a_stray_segment(tmp_path):
    data = _data()
    data["annotations"][0]["annotations"][1]["segments_info"].pop()
    _write(tmp_path, data)
    video = load_vipseg(tmp_path, "val").videos[0]
    with pytest.raises(DataError, match="'0_abc', frame 1: segment 5 "):
        video.read([1])


def test_a_segment_that_is_a_crowd_for_a_while(tmp_path):
    data = _data()
    data["annotations"][0]["annotations"][0]["segments_info"][1]["iscrowd"] = 0
    later = dict(data["annotations"][0]["annotations"][1]["segments_info"][1], iscrowd=1)
    data["annotations"][0]["annotations"][1]["segments_info"][1] = later
    _write(tmp_path, data)
    clip = load_vipseg(tmp_path, "val").videos[0].read([0, 1])
    assert clip.present.tolist() == [[True, True], [True, False]]


def test_valid_is_another_name_of_val(tmp_path):
    """As of YouTube-VIS: a run that is scored as it goes asks every data set for its "valid"."""
    _write(tmp_path, _data())
    assert [video.name for video in load_vipseg(tmp_path, "valid").videos] == ["0_abc"]
    with pytest.raises(DataError, match="panoptic_gt_VIPSeg_train"):
        load_vipseg(tmp_path, "train")
