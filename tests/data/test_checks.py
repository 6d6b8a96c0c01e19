"""What `l2g data check` finds before it costs somebody a night: broken entries, odd ones, files that lead elsewhere."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2g.cli.learning.data_check import main
from l2g.data.coco import load_coco
from l2g.data.dataset import check_segmentation
from l2g.data.registry import load_dataset
from l2g.data.youtube_vis import ground_truth, load_youtube_vis
from l2g.errors import DataError
from l2g.metrics.vis_ap import evaluate_vis
from tests.data.layouts import picture, write_picture, write_youtube_vis, youtube_vis_json

CASES = Path(__file__).parents[1] / "assets" / "cases" / "datasets"


def case(name):
    return json.loads((CASES / name / "instances.json").read_text("utf-8-sig"))


def written(tmp_path, change):
    data = youtube_vis_json()
    write_youtube_vis(tmp_path, data)
    change(data)
    (tmp_path / "train.json").write_text(json.dumps(data))
    return tmp_path


def test_areas_that_lack_are_those_of_the_masks():
    truth = ground_truth(load_youtube_vis(CASES / "no_areas"))
    expected = {mark["id"]: mark["areas"] for mark in case("other_order")["annotations"]}
    assert {mark["id"]: mark["areas"] for mark in truth["annotations"]} == expected
    (problem,) = (p for p in load_youtube_vis(CASES / "no_areas").problems if p.kind == "missing field")
    assert (problem.fatal, problem.detail) == (False, "6 of 6 have no valid 'areas'; computed from the masks")


@pytest.mark.parametrize("areas", [None, [80], "80", [None, -1, 80], [None, "a", 80], [None, 10**400, 80], [True] * 3])
def test_areas_that_no_evaluator_takes_are_computed(tmp_path, areas):
    dataset = load_youtube_vis(written(tmp_path, lambda d: d["annotations"][0].update(areas=areas)))
    assert ground_truth(dataset)["annotations"][0]["areas"] == [None, 80, 80]


def test_areas_of_polygons(tmp_path):
    dataset = load_youtube_vis(written(tmp_path, lambda d: d["annotations"][1].pop("areas")))
    assert ground_truth(dataset)["annotations"][1]["areas"] == [100, 100, None]


def test_areas_in_the_file_stay():
    """Also where they are not those of the masks: the official evaluator takes them."""
    data = youtube_vis_json()
    marks = data["annotations"]
    marks[0]["areas"] = [7, None, 12.5]
    from l2g.data.checks import check_annotations

    found, problems = check_annotations(marks, {v["id"]: v for v in data["videos"]}, {3, 5, 7})
    assert found[0] is marks[0]
    assert problems == []


def test_ids_and_crowds_that_lack_are_given(tmp_path):
    def change(data):
        for mark in data["annotations"]:
            mark.pop("iscrowd")
        for mark in data["annotations"][:2]:
            mark.pop("id")

    truth = ground_truth(load_youtube_vis(written(tmp_path, change)))
    assert [mark["id"] for mark in truth["annotations"]] == [5, 6, 3, 4]
    assert [mark["iscrowd"] for mark in truth["annotations"]] == [0, 0, 0, 0]
    evaluate_vis(truth, [], allow_empty=True)


def test_two_videos_with_one_id(capsys):
    assert main([str(CASES / "duplicate_video_id")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "corrupt annotation: val_7_0000: id 1 is also that of video 'val_7_0001'; give every video its own",
        "corrupt annotation: val_7_0001: id 1 is also that of video 'val_7_0000'; give every video its own",
    ]
    assert len(load_youtube_vis(CASES / "duplicate_video_id", skip_broken=True)) == 0  # whose objects are whose?


def _double(videos=(), annotations=(), categories=()):
    """A change that gives the second of each pair the id of the first."""

    def change(data):
        for key, pairs in (("videos", videos), ("annotations", annotations), ("categories", categories)):
            for first, second in pairs:
                data[key][second]["id"] = data[key][first]["id"]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_double(videos=[(0, 1)]), "id 11 is also that of video"),
        (_double(videos=[(1, 0)]), "id 12 is also that of video"),
        (lambda d: d["videos"].append(dict(d["videos"][0])), "id 11 is also that of video 'cat'"),
        (lambda d: d["videos"].extend([dict(d["videos"][1])] * 2), "id 12 is also that of video 'dog'"),
        (_double(annotations=[(0, 1)]), "another annotation has this id"),
        (_double(annotations=[(0, 2)]), "another annotation has this id"),
        (_double(annotations=[(3, 0)]), "another annotation has this id"),
        (_double(annotations=[(0, 1), (0, 2), (0, 3)]), "another annotation has this id"),
        (lambda d: d["annotations"].append(dict(d["annotations"][0])), "another annotation has this id"),
        (_double(categories=[(0, 1)]), "category ids"),
        (_double(categories=[(2, 0)]), "category ids"),
        (lambda d: d["categories"].append({"id": 7, "name": "owl"}), "category ids"),
    ],
)
def test_ids_that_stand_twice_are_named(tmp_path, capsys, change, words):
    folder = written(tmp_path, change)
    assert main([str(folder)]) in (1, 2)
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
    with pytest.raises(DataError, match="expected different integers" if words == "category ids" else words):
        load_youtube_vis(folder)


def test_two_annotations_with_one_id(tmp_path):
    folder = written(tmp_path, lambda d: d["annotations"][2].update(id=1))
    with pytest.raises(DataError, match="annotation 1 of video 'dog': another annotation has this id"):
        load_youtube_vis(folder)


def test_advice_exists_for_the_command_at_hand():
    with pytest.raises(
        DataError, match=r"annotation 999 .*leave it out\nmend them, or leave them out with --skip-broken"
    ):
        load_youtube_vis(CASES / "all_null")


def test_byte_order_marks_and_other_encodings(tmp_path):
    assert len(load_youtube_vis(CASES / "bom")) == 2
    folder = written(tmp_path, lambda d: None)
    text = (folder / "train.json").read_text()
    for encoding in ("utf-8-sig", "utf-16", "utf-32-le"):
        (folder / "train.json").write_bytes(text.encode(encoding))
        assert len(load_youtube_vis(folder)) == 2


STRANGE = [
    ("id", [1]),
    ("id", {}),
    ("id", 1.5),
    ("id", True),
    ("id", "11"),
    ("id", 10**400),
    ("width", 10**9),
    ("height", 0),
    ("height", 24.0),
    ("length", "3"),
    ("length", [3]),
    ("file_names", {"a": 1}),
    ("file_names", ["a\0/b.jpg"] * 3),
    ("file_names", ["\ud800/b.jpg"] * 3),
    ("file_names", ["x" * 5000] * 3),
    ("file_names", [1, 2, 3]),
    ("file_names", [""] * 3),
    ("file_names", ["cat/"] * 3),
]


@pytest.mark.parametrize(("key", "value"), STRANGE)
def test_strange_videos_are_named(tmp_path, capsys, key, value):
    folder = written(tmp_path, lambda d: d["videos"][0].update({key: value}))
    assert main([str(folder)]) == 1
    printed = capsys.readouterr()
    assert len([line for line in printed.out.splitlines() if not line.startswith(("category", "empty"))]) <= 4
    assert "Traceback" not in printed.err
    assert [v.id for v in load_youtube_vis(folder, skip_broken=True).videos] == [12]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("id", "video_id", "category_id") for value in ([1], {}, "1", 1.5, 10**400, True)],
        *[("iscrowd", value) for value in (2, "0", [0], 0.5)],
        *[("segmentations", value) for value in (None, {}, 3, [None], [None] * 3, [3, None, None], [{}, {}, {"a": 1}])],
        *[("segmentations", [{"size": size, "counts": "0"}] * 3) for size in ([1], 3, None, [24, "40"], [24, 40, 3])],
        *[
            ("segmentations", [{"size": [24, 40], "counts": counts}] * 3)
            for counts in ([1e300], [10**400], [960.0], ["960"], [-1, 961], [], "", None, 3, {}, "ÿ", "0\0")
        ],
    ],
)
def test_strange_annotations_are_named(tmp_path, capsys, key, value):
    folder = written(tmp_path, lambda d: d["annotations"][1].update({key: value}))
    assert main([str(folder)]) == 1
    assert "corrupt annotation: annotation" in capsys.readouterr().out
    assert [m["id"] for m in ground_truth(load_youtube_vis(folder, skip_broken=True))["annotations"]] == [1, 3, 4]


@pytest.mark.parametrize("ids", [[7, 3, [5]], [7, 3, 3], [7, 3, 10**400], [7, 3, True], [7, 3, None]])
def test_strange_categories_are_refused(tmp_path, ids):
    def change(data):
        for kind, value in zip(data["categories"], ids, strict=True):
            kind["id"] = value

    with pytest.raises(DataError, match=r"category ids .*; expected different integers"):
        load_youtube_vis(written(tmp_path, change))


def test_deep_json_is_refused(tmp_path):
    (tmp_path / "instances.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="nested too deep"):
        load_youtube_vis(tmp_path)


# --- polygons: pycocotools walks along every edge and keeps every step -------------------------------------------


@pytest.mark.parametrize(
    ("polygons", "words"),
    [
        ([[0, 0, 1e9, 0, 0, 5]], r"corner at \(1e\+09, 0\), far outside of its frame of 40 x 24"),
        ([[0, 0, 5, -1e9, 0, 5]], "far outside"),
        ([[0, 0, 5, 5, 0, 49]], "far outside"),
        ([[0, 0, 81, 0, 0, 5]], "far outside"),
        ([[0, 0, 40, 24] * 3000], "longer"),
        ([[1, 1] * 20_000], "longer"),
        ([[0, 0, float("nan"), 0, 0, 5]], "finite"),
        ([[0, 0, 10**400, 0, 0, 5]], "other than numbers"),
        ([[0, 0, 1, 1]], "three"),
        ([[[0, 0], [1, 1], [2, 2]]], "three"),
        ([3], "three"),
        ("abc", "other than numbers"),
    ],
)
def test_polygons_are_checked_against_the_frame(polygons, words):
    with pytest.raises(DataError, match=words):
        check_segmentation(polygons, 24, 40)


def test_polygons_that_people_draw_pass():
    check_segmentation([[-0.5, -0.5, 40.5, -0.5, 40.5, 24.5, -0.5, 24.5]], 24, 40)  # around the whole frame
    check_segmentation([[-30, 5, 60, 5, 60, 10, -30, 10]], 24, 40)  # an object that goes on beyond it
    zigzag = [[v for y in range(24) for v in ((0, y, 40, y) if y % 2 else (40, y, 0, y))]]
    check_segmentation(zigzag, 24, 40)


def test_a_far_corner_takes_no_memory(tmp_path):
    """In a process of its own that may have 2 GiB; without the check it takes all of them and is killed."""
    far = [[0.0, 0.0, 1e9, 3.0, 0.0, 20.0]]
    folder = written(tmp_path, lambda d: d["annotations"][1].update(segmentations=[far, far, None]))
    code = "import sys; from l2g.cli.learning.data_check import main; sys.exit(main([sys.argv[1]]))"
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, preexec_fn=limit, timeout=60
    )
    assert (done.returncode, "far outside" in done.stdout) == (1, True), done.stderr[-300:]
    with pytest.raises(DataError, match="far outside"):
        evaluate_vis(json.loads((folder / "train.json").read_text()), [], allow_empty=True)


# --- names that lead out of the folder ------------------------------------------------------------------------------


def outside_by_dots(folder, other):
    return [f"../../../{other.name}/{t:05d}.png" for t in range(3)]


def outside_by_absolute_name(folder, other):
    return [str(other / f"{t:05d}.png") for t in range(3)]


def outside_by_linked_folder(folder, other):
    (folder / "train/JPEGImages/far").symlink_to(other)
    return [f"far/{t:05d}.png" for t in range(3)]


def outside_by_linked_file(folder, other):
    (folder / "train/JPEGImages/far").mkdir()
    for t in range(3):
        (folder / f"train/JPEGImages/far/{t:05d}.png").symlink_to(other / f"{t:05d}.png")
    return [f"far/{t:05d}.png" for t in range(3)]


def outside_by_dots_within(folder, other):
    return [f"cat/../../../../{other.name}/{t:05d}.png" for t in range(3)]


def outside_by_a_link_to_a_link(folder, other):
    (folder / "train/JPEGImages/two").symlink_to(other)
    (folder / "train/JPEGImages/one").symlink_to("two")
    return [f"one/{t:05d}.png" for t in range(3)]


def outside_by_a_link_further_down(folder, other):
    (folder / "train/JPEGImages/cat/deep").symlink_to(other.parent)
    return [f"cat/deep/{other.name}/{t:05d}.png" for t in range(3)]


def outside_by_doubled_slashes(folder, other):
    return [f"/{other}//{t:05d}.png" for t in range(3)]


def outside_by_one_frame_of_three(folder, other):
    return ["cat/00000.png", str(other / "00001.png"), "cat/00002.png"]


def outside_by_a_folder_whose_name_begins_alike(folder, other):
    alike = folder / "train" / "JPEGImages.old"
    alike.mkdir()
    for t in range(3):
        (alike / f"{t:05d}.png").write_bytes((other / f"{t:05d}.png").read_bytes())
    return [f"../JPEGImages.old/{t:05d}.png" for t in range(3)]


def outside_by_a_link_and_back(folder, other):
    (folder / "train/JPEGImages/in").symlink_to(other / "deep")
    return [f"in/../{t:05d}.png" for t in range(3)]


@pytest.mark.parametrize(
    "way",
    [
        outside_by_dots,
        outside_by_absolute_name,
        outside_by_linked_folder,
        outside_by_linked_file,
        outside_by_a_link_and_back,
        outside_by_dots_within,
        outside_by_a_link_to_a_link,
        outside_by_a_link_further_down,
        outside_by_doubled_slashes,
        outside_by_one_frame_of_three,
        outside_by_a_folder_whose_name_begins_alike,
    ],
)
def test_names_that_leave_the_folder(tmp_path, capsys, way):
    other = tmp_path / "elsewhere"
    (other / "deep").mkdir(parents=True)
    for t in range(3):
        write_picture(other / f"{t:05d}.png", picture(t))
    folder = tmp_path / "data"
    write_youtube_vis(folder, youtube_vis_json())
    data = youtube_vis_json()
    data["videos"][0]["file_names"] = way(folder, other)
    (folder / "train.json").write_text(json.dumps(data))
    assert main([str(folder)]) == 1
    assert "outside of the folder: " in capsys.readouterr().out
    with pytest.raises(DataError, match="allow that with --allow-outside"):
        load_dataset(str(folder))
    assert main([str(folder), "--allow-outside"]) == 0
    np.testing.assert_array_equal(load_dataset(str(folder), allow_outside=True).videos[0].frame(1), picture(1))


def test_links_that_stay_are_fine(tmp_path):
    """The folder of frames may be a link, as large data sets often are, and links may lead about in it."""
    write_youtube_vis(tmp_path / "real", youtube_vis_json())
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "JPEGImages").symlink_to(tmp_path / "real" / "train" / "JPEGImages")
    os.replace(tmp_path / "real" / "train.json", tmp_path / "data" / "train.json")
    frames = tmp_path / "real" / "train" / "JPEGImages"
    (frames / "dog" / "00002.png").unlink()
    (frames / "dog" / "00002.png").symlink_to(frames / "cat" / "00000.png")
    dataset = load_youtube_vis(tmp_path / "data")
    assert not [problem for problem in dataset.problems if problem.fatal]
    np.testing.assert_array_equal(dataset.videos[1].frame(2), picture([11, 0]))


def test_coco_is_checked_alike(tmp_path):
    write_picture(tmp_path / "train2017" / "a.png", picture(0))
    write_picture(tmp_path / "outside.png", picture(1))
    image = {"height": 24, "width": 40}
    images = [
        {"id": 1, "file_name": "a.png", **image},
        {"id": 1, "file_name": "a.png", **image},
        {"id": [2], "file_name": "a.png", **image},
        {"id": 3, "file_name": 7, **image},
        {"id": 4, "file_name": "../outside.png", **image},
        {"id": 5, "file_name": "a\0.png", **image},
        {"id": 6, "file_name": "a.png", "height": 10**9, "width": 10**9},
    ]
    marks = [{"id": 1, "image_id": {}, "category_id": 1}, {"id": 2, "image_id": 1, "category_id": [1]}]
    data = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    found = load_coco(tmp_path, skip_broken=True)
    assert [video.id for video in found.videos] == [1]
    kinds = ["corrupt annotation"] * 3 + ["outside of the folder", "missing frame"] + ["corrupt annotation"] * 2
    assert [problem.kind for problem in found.problems if problem.fatal] == kinds
    with pytest.raises(DataError, match="has 7 broken entries"):
        load_coco(tmp_path)


def test_names_that_no_terminal_takes(tmp_path, capsys):
    folder = written(tmp_path, lambda d: d["categories"][2].update(name="owl \ud800"))
    assert main([str(folder)]) == 0
    assert r"category without instances: owl \ud800" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["", "youtube_vis:", "ovis:", "vipseg:", "coco:"])
@pytest.mark.parametrize("name", ["no", "a\0b", "x" * 5000, "\ud800", "/dev/null"])
def test_directories_that_are_none(kind, name):
    with pytest.raises(DataError):
        load_dataset(kind + name)
