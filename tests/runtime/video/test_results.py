"""The result files: format, agreement with each other, survival."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.errors import VideoError
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.assembler import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.results import JsonLinesSink, LiveLines, Rotation, TubeResultsSink, first_number

HEIGHT, WIDTH = 20, 30


def _instance(track_id, label, score, box, frame_label=None):
    x1, y1, x2, y2 = box
    mask = InstanceMask.from_patch(np.ones((y2 - y1, x2 - x1), bool), y1, x1, HEIGHT, WIDTH)
    return TrackedInstance(track_id, 5, label, score, label if frame_label is None else frame_label, mask)


FRAMES = [
    FrameResult(0, 0.0, (_instance(1, 2, 0.9, (1, 2, 5, 9)),)),
    FrameResult(2, 0.2, (_instance(1, 2, 0.7, (2, 2, 6, 9)), _instance(2, 0, 0.6, (10, 10, 30, 20)))),
    FrameResult(4, 0.4, ()),
    FrameResult(6, 0.6, (_instance(1, 2, 0.5, (4, 2, 8, 9), frame_label=1),)),
]


def _write(path):
    with TubeResultsSink(path / "results.json", video_id=7) as tubes, JsonLinesSink(path / "f.jsonl", "abc") as lines:
        for frame in FRAMES:
            tubes.write(frame)
            lines.write(frame)
    results = json.loads((path / "results.json").read_text())
    return results, [json.loads(line) for line in (path / "f.jsonl").read_text().splitlines()]


def _pixels(rle):
    return coco_mask.decode(rle).astype(bool)


def test_results_are_in_youtube_vis_format(tmp_path):
    results, _ = _write(tmp_path)
    assert [(r["video_id"], r["track_id"], r["category_id"]) for r in results] == [(7, 1, 3), (7, 1, 2), (7, 2, 1)]
    np.testing.assert_allclose([r["score"] for r in results], [1.6 / 3, 0.5 / 3, 0.6])
    present = [[s is not None for s in r["segmentations"]] for r in results]
    assert present == [[True, True, False, True]] * 2 + [[False, True, False, False]]
    for result in results:
        for rle in filter(None, result["segmentations"]):
            assert isinstance(rle["counts"], str)
            assert rle["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(_pixels(results[2]["segmentations"][1])[10:20, 10:30], True)
    assert _pixels(results[2]["segmentations"][1]).sum() == 200


def test_lines_hold_every_frame_and_agree_with_the_results(tmp_path):
    results, lines = _write(tmp_path)
    assert [(line["index"], line["time"]) for line in lines] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6)]
    first = lines[0]["tracks"][0]
    assert set(first) == {"id", "label", "name", "score", "box", "segmentation"}
    assert (first["id"], first["label"], first["name"], first["score"]) == (1, 2, "c", 0.9)
    assert first["box"] == [1, 2, 5, 9]
    for position, line in enumerate(lines):
        for track in line["tracks"]:
            entry = next(r for r in results if r["track_id"] == track["id"])
            assert entry["segmentations"][position] == track["segmentation"]
            rows, columns = np.nonzero(_pixels(track["segmentation"]))
            assert track["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_our_own_evaluator_reads_the_results(tmp_path):
    """The format is the one that AP is computed from: these very masks as ground truth give AP 1 for their classes."""
    vis_ap = pytest.importorskip("l2g.cli.learning.vis_ap")
    results, _ = _write(tmp_path)
    truth = {
        "videos": [{"id": 7, "width": WIDTH, "height": HEIGHT, "length": 4, "file_names": ["a"] * 4}],
        "categories": [{"id": i + 1, "name": "abc"[i]} for i in range(3)],
        "annotations": [
            {
                "id": i + 1,
                "video_id": 7,
                "category_id": results[k]["category_id"],
                "iscrowd": 0,
                "segmentations": results[k]["segmentations"],
                "areas": [None if s is None else int(coco_mask.area(s)) for s in results[k]["segmentations"]],
                "bboxes": [None if s is None else coco_mask.toBbox(s).tolist() for s in results[k]["segmentations"]],
            }
            for i, k in enumerate((0, 2))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    report = tmp_path / "ap.json"
    arguments = ["--ground-truth", str(tmp_path / "truth.json"), "--results", str(tmp_path / "results.json")]
    assert vis_ap.main([*arguments, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["AP"] == pytest.approx(100.0)


def test_no_tracks_is_an_empty_list(tmp_path):
    with TubeResultsSink(tmp_path / "r.json") as sink:
        sink.write(FrameResult(0, 0.0, ()))
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_files_appear_when_they_are_done_and_survive_an_interrupt(tmp_path):
    def interrupted():
        with TubeResultsSink(tmp_path / "r.json") as tubes, JsonLinesSink(tmp_path / "f.jsonl", "abc") as lines:
            for frame in FRAMES[:2]:
                tubes.write(frame)
                lines.write(frame)
            assert not (tmp_path / "r.json").exists()
            assert not (tmp_path / "f.jsonl").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f.jsonl", "r.json"]
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 2
    assert [len(r["segmentations"]) for r in json.loads((tmp_path / "r.json").read_text())] == [2, 2]


def test_an_older_result_is_replaced_only_at_the_end(tmp_path):
    (tmp_path / "f.jsonl").write_text("old\n")
    with JsonLinesSink(tmp_path / "f.jsonl", "abc") as lines:
        lines.write(FRAMES[0])
        assert (tmp_path / "f.jsonl").read_text() == "old\n"
    assert "old" not in (tmp_path / "f.jsonl").read_text()


@pytest.mark.parametrize("sink", [TubeResultsSink, lambda path: JsonLinesSink(path, "abc")])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, sink):
    with pytest.raises(VideoError, match="cannot be written"):
        sink(tmp_path / "no" / "file.json")


def _stream(folder, frames, life=20, objects=3):
    """So many objects come by every `life` frames."""
    with TubeResultsSink(folder / f"{frames}.json") as sink:
        for index in range(frames):
            first = index // life * objects + 1
            tracks = tuple(_instance(first + k, 1, 0.8, (k, 2, k + 5, 9)) for k in range(objects))
            sink.write(FrameResult(index, index / 30, tracks))
    return folder / f"{frames}.json"


@pytest.mark.parametrize(
    ("life", "objects"), [(20, 3), (1, 1), (5, 1), (50, 1), (100, 1), (7, 2), (300, 1), (10, 1), (2, 1), (3, 1)]
)
def test_the_file_grows_with_what_was_seen(tmp_path, life, objects):
    """However short tracks live and however many there are."""
    sizes = [_stream(tmp_path, frames, life, objects).stat().st_size for frames in (600, 1200)]
    assert 1.9 < sizes[1] / sizes[0] < 2.1


def test_a_long_video_s_lists_begin_at_the_first_frame_and_score_as_whole_ones(tmp_path):
    path = _stream(tmp_path, 600)
    short, long = json.loads(_stream(tmp_path, 500).read_text()), json.loads(path.read_text())
    assert {len(entry["segmentations"]) for entry in short} == {500}
    assert {"first_frame" in entry for entry in short} == {False}
    assert [(e["first_frame"], len(e["segmentations"])) for e in long[:6]] == [(0, 20)] * 3 + [(20, 20)] * 3
    annotations = [
        {
            "id": number,
            "video_id": 1,
            "category_id": entry["category_id"],
            "iscrowd": 0,
            "segmentations": [None] * entry["first_frame"]
            + entry["segmentations"]
            + [None] * (580 - entry["first_frame"]),
        }
        for number, entry in enumerate(long, start=1)
    ]
    for mark in annotations:
        mark["areas"] = [None if s is None else int(coco_mask.area(s)) for s in mark["segmentations"]]
        mark["bboxes"] = [None if s is None else coco_mask.toBbox(s).tolist() for s in mark["segmentations"]]
    truth = {
        "videos": [{"id": 1, "height": HEIGHT, "width": WIDTH, "length": 600, "file_names": ["a"] * 600}],
        "categories": [{"id": i + 1, "name": "abc"[i]} for i in range(3)],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    report = evaluate_vis(tmp_path / "truth.json", path)
    assert report.stats["AP"] == pytest.approx(1.0)
    assert "other length" not in report.table()


def test_live_lines_can_be_read_as_they_come(tmp_path):
    path = tmp_path / "f.jsonl"
    path.symlink_to(tmp_path / "elsewhere")
    with LiveLines(path, "abc") as lines:
        for count, frame in enumerate(FRAMES, start=1):
            lines.write(frame)
            assert len(path.read_text().splitlines()) == count
    assert not (tmp_path / "elsewhere").exists()
    with JsonLinesSink(tmp_path / "g.jsonl", "abc") as lines:
        for frame in FRAMES:
            lines.write(frame)
    assert path.read_text() == (tmp_path / "g.jsonl").read_text()


def test_live_lines_go_on_in_new_files(tmp_path):
    with LiveLines(tmp_path / "f.jsonl", "abc", rotate=Rotation(0.35)) as lines:
        for frame in FRAMES:
            lines.write(frame)
    parts = [[json.loads(line)["index"] for line in path.read_text().splitlines()] for path in lines.paths]
    assert parts == [[0, 2], [4, 6]]
    assert [path.name for path in lines.paths] == ["f-0000.jsonl", "f-0001.jsonl"]


def test_live_lines_go_on_by_size_after_what_an_earlier_run_left(tmp_path):
    (tmp_path / "f-0006.jsonl").write_text("of a run before")
    (tmp_path / "f-x.jsonl").touch()
    with LiveLines(path := tmp_path / "g.jsonl", "abc") as lines:
        for frame in FRAMES:
            lines.write(frame)
    sizes = [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    first = first_number([tmp_path / "f.jsonl", tmp_path / "g.jsonl"])
    assert first == 7
    with LiveLines(tmp_path / "f.jsonl", "abc", rotate=Rotation(size=sizes[0]), first=first) as lines:
        for frame in FRAMES:
            lines.write(frame)
    assert [path.name for path in lines.paths] == ["f-0007.jsonl", "f-0008.jsonl", "f-0009.jsonl"]
    assert [path.stat().st_size for path in lines.paths] == [sizes[0], sizes[1], sum(sizes[2:])]
    assert (tmp_path / "f-0006.jsonl").read_text() == "of a run before"


def test_without_a_frame_earlier_results_stay(tmp_path):
    """A run that fails before its first frame costs nothing of the run before."""
    for sink in (JsonLinesSink(tmp_path / "frames.jsonl", "abc"), TubeResultsSink(tmp_path / "results.json")):
        sink.path.write_text("of the run before")
        sink.close()
        assert sink.path.read_text() == "of the run before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["frames.jsonl", "results.json"]
