"""YouTube-VIS and OVIS: layouts, masks in all encodings, and every kind of damage by name."""

import numpy as np
import pytest

from l2g.cli.learning.data_check import main
from l2g.data.ovis import load_ovis
from l2g.data.registry import load_dataset
from l2g.data.youtube_vis import ground_truth, load_youtube_vis
from l2g.errors import DataError
from tests.data.layouts import box_mask, compressed, picture, write_youtube_vis, youtube_vis_json


@pytest.mark.parametrize(
    ("name", "annotations", "frames", "split"),
    [
        ("youtube_vis_2019", "train.json", "train/JPEGImages", "train"),
        ("youtube_vis_2019", "valid.json", "valid/JPEGImages", "val"),
        ("youtube_vis_2021", "train/instances.json", "train/JPEGImages", "train"),
        ("youtube_vis_2021", "annotations/instances_val_sub.json", "train/JPEGImages", "val"),
        ("youtube_vis_2022", "valid/instances.json", "valid/JPEGImages", "valid"),
        ("ovis", "annotations_train.json", "train", "train"),
        ("ovis", "annotations/annotations_valid.json", "valid", "val"),
        ("youtube_vis", "instances.json", "JPEGImages", "train"),
    ],
)
def test_layouts(tmp_path, name, annotations, frames, split):
    write_youtube_vis(tmp_path, youtube_vis_json(), annotations, frames)
    dataset = load_dataset(f"{name}:{tmp_path}", split)
    assert [video.name for video in dataset.videos] == ["cat", "dog"]
    np.testing.assert_array_equal(dataset.videos[1].frame(2), picture([12, 2]))


def test_labels_follow_ascending_ids(tmp_path):
    write_youtube_vis(tmp_path, youtube_vis_json())
    dataset = load_youtube_vis(tmp_path)
    assert dataset.class_names == ("dog", "owl", "cat")
    assert [c.id for c in dataset.categories] == [3, 5, 7]
    assert [o.label for o in dataset.videos[0].objects] == [2, 0]


def test_masks_in_every_encoding(tmp_path):
    write_youtube_vis(tmp_path, youtube_vis_json())
    cat, dog = load_youtube_vis(tmp_path).videos
    box = box_mask(4, 2, 14, 10)
    assert cat.mask(0, 0) is None
    np.testing.assert_array_equal(cat.mask(0, 1), box)
    np.testing.assert_array_equal(cat.mask(0, 2), box)
    np.testing.assert_array_equal(cat.mask(1, 0), box_mask(20, 5, 30, 15))
    clip = cat.read([2, 0])
    assert clip.labels.tolist() == [2, 0]
    assert clip.present.tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(clip.boxes[0, 0], [9 / 40, 6 / 24, 10 / 40, 8 / 24])
    assert clip.boxes[0, 1].tolist() == [0, 0, 0, 0]
    assert (clip.video, clip.times.tolist(), clip.content) == ("cat", [2, 0], (24, 40))
    assert dog.read([0]).labels.tolist() == []  # a crowd is nothing to learn
    assert dog.annotated_frames().tolist() == [2]


def _edit(change):
    data = youtube_vis_json()
    change(data)
    return data


def _mark(key, value, which=0):
    return lambda data: data["annotations"][which].__setitem__(key, value)


def _segmentation(value):
    return lambda data: data["annotations"][0]["segmentations"].__setitem__(1, value)


def _size(value):
    rle = compressed(box_mask(4, 2, 14, 10))
    return {**rle, "size": value}


RLE = compressed(box_mask(4, 2, 14, 10))["counts"]
DAMAGE = [
    (_mark("video_id", 99), "corrupt annotation", "annotation 1", "no video 99"),
    (_mark("category_id", 4), "corrupt annotation", "annotation 1 of video 'cat'", "no category 4"),
    (
        _mark("segmentations", [None]),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "1 entries, the video 3 frames",
    ),
    (_mark("segmentations", None), "corrupt annotation", "annotation 1 of video 'cat'", "None"),
    (_mark("segmentations", [None] * 3), "corrupt annotation", "annotation 1 of video 'cat'", "no segmentation"),
    (_segmentation(_size([40, 24])), "corrupt annotation", "annotation 1 of video 'cat'", "frame 1: RLE of 40x24"),
    (
        _segmentation({"size": [24, 40], "counts": [5, 6]}),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "11 pixels",
    ),
    (
        _segmentation({"size": [24, 40], "counts": [-5, 965]}),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "960",
    ),
    (_segmentation({"size": [24, 40], "counts": RLE[:-1]}), "corrupt annotation", "annotation 1 of video 'cat'", "RLE"),
    (
        _segmentation({"size": [24, 40], "counts": RLE + "X"}),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "cut off",
    ),
    (
        _segmentation({"size": [24, 40], "counts": "\n" + RLE}),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "characters that no compressed RLE has",
    ),
    (_segmentation({"size": [24, 40]}), "corrupt annotation", "annotation 1 of video 'cat'", "counts"),
    (_segmentation([[1.0, 2.0, 3.0, 4.0]]), "corrupt annotation", "annotation 1 of video 'cat'", "polygon"),
    (
        _segmentation([[1.0, 2.0, "x", 4.0, 5.0, 6.0]]),
        "corrupt annotation",
        "annotation 1 of video 'cat'",
        "other than numbers",
    ),
    (lambda d: d["videos"][1].update(length=4), "corrupt annotation", "dog", "'length' is 4"),
    (lambda d: d["videos"][1].update(height=None), "corrupt annotation", "dog", "'height' is None"),
    (lambda d: d["videos"][1].update(file_names=[]), "empty video", "video 12", "no frames"),
]


@pytest.mark.parametrize(("change", "kind", "where", "detail"), DAMAGE)
def test_damage_is_named_and_can_be_skipped(tmp_path, change, kind, where, detail):
    write_youtube_vis(tmp_path, _edit(change))
    with pytest.raises(DataError, match="skip") as refused:
        load_youtube_vis(tmp_path)
    assert all(part in str(refused.value) for part in (kind, where, detail))
    dataset = load_youtube_vis(tmp_path, skip_broken=True)
    fatal = [p for p in dataset.problems if p.fatal]
    assert [(p.kind, p.where) for p in fatal] == [(kind, where)]
    assert detail in fatal[0].detail
    left = ground_truth(dataset)
    if where.startswith("annotation"):
        assert [m["id"] for m in left["annotations"]] == [2, 3, 4]
    else:
        assert [m["id"] for m in left["annotations"]] == [1, 2]
        assert [v["id"] for v in left["videos"]] == [11]
    for video in dataset.videos:
        video.read(range(3))


def test_missing_frame(tmp_path):
    write_youtube_vis(tmp_path, youtube_vis_json())
    (tmp_path / "train/JPEGImages/dog/00001.png").unlink()
    with pytest.raises(DataError, match=r"missing frame: dog: no file 'dog/00001.png'"):
        load_youtube_vis(tmp_path)
    dataset = load_youtube_vis(tmp_path, skip_broken=True)
    assert [v.name for v in dataset.videos] == ["cat"]
    assert [p.kind for p in dataset.problems if p.fatal] == ["missing frame"]


def test_frame_that_cannot_be_read(tmp_path):
    write_youtube_vis(tmp_path, youtube_vis_json())
    broken = tmp_path / "train/JPEGImages/dog/00001.png"
    dataset = load_youtube_vis(tmp_path)
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"dog/00001.png' is not a picture"):
        dataset.videos[1].frame(1)
    broken.unlink()
    with pytest.raises(DataError, match="does not exist"):
        dataset.videos[1].frame(1)


def test_frame_of_another_size(tmp_path):
    data = _edit(lambda d: None)
    write_youtube_vis(tmp_path, data)
    from tests.data.layouts import write_picture

    write_picture(tmp_path / "train/JPEGImages/dog/00001.png", picture(0, 10, 12))
    with pytest.raises(DataError, match="10x12 pixels, the annotation says 24x40"):
        load_youtube_vis(tmp_path).videos[1].frame(1)


def test_what_is_odd_is_reported_and_can_be_dropped(tmp_path):
    data = _edit(lambda d: d["annotations"].__delitem__(slice(2, 4)))
    write_youtube_vis(tmp_path, data)
    dataset = load_youtube_vis(tmp_path)
    assert [(p.kind, p.where) for p in dataset.problems] == [
        ("empty video", "dog"),
        ("category without instances", "owl"),
    ]
    assert len(dataset) == 2
    assert len(dataset.categories) == 3
    small = load_youtube_vis(tmp_path, drop_empty=True)
    assert [v.name for v in small.videos] == ["cat"]
    assert small.class_names == ("dog", "cat")
    assert [o.label for o in small.videos[0].objects] == [1, 0]


def test_a_test_set_has_no_annotations(tmp_path):
    write_youtube_vis(tmp_path, _edit(lambda d: d.update(annotations=None)))
    dataset = load_youtube_vis(tmp_path)
    assert (len(dataset), dataset.problems) == (2, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "found a list"),
        ("{}", "'videos'"),
        ('{"videos": [], "categories": [{}]}', "category ids"),
    ],
)
def test_files_that_are_no_annotation(tmp_path, text, words):
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=words):
        load_youtube_vis(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"no annotation of split 'val'.*valid\.json"):
        load_youtube_vis(tmp_path, "val")


def test_ground_truth_is_the_file(tmp_path):
    data = youtube_vis_json()
    write_youtube_vis(tmp_path, data)
    truth = ground_truth(load_youtube_vis(tmp_path))
    assert truth["annotations"] == data["annotations"]
    assert truth["videos"] == data["videos"]


def test_validation_command(tmp_path, capsys):
    write_youtube_vis(tmp_path, _edit(_mark("category_id", 4)))
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "corrupt annotation: annotation 1 of video 'cat': there is no category 4" in out
    assert "category without instances: owl" in out
    assert main([str(tmp_path / "none")]) == 2
    write_youtube_vis(tmp_path, youtube_vis_json())
    assert main([str(tmp_path)]) == 0  # a category that nothing has is odd, not broken


@pytest.mark.parametrize("grades", [["no_occlusion"], [None, "no_occlusion", "bad"], [None, None, "no_occlusion"]])
def test_ovis_grades(tmp_path, grades):
    data = youtube_vis_json()
    write_youtube_vis(tmp_path, _edit(_mark("occlusion", [None, "severe_occlusion", "no_occlusion"])))
    assert len(load_ovis(tmp_path).videos[0].objects) == 2
    data["annotations"][0]["occlusion"] = grades
    write_youtube_vis(tmp_path, data)
    with pytest.raises(DataError, match=r"annotation 1 of video 'cat'.*occlusion"):
        load_ovis(tmp_path)
    dataset = load_ovis(tmp_path, skip_broken=True)
    assert [o.id for o in dataset.videos[0].objects] == [2]
