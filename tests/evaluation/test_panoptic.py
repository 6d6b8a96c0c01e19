"""Things and stuff through the whole path: a model's outputs, merged maps, files, VPQ and STQ."""

import dataclasses
import json

import numpy as np
import pytest

from l2g.cli.learning import stq, vpq
from l2g.cli.running import evaluate
from l2g.cli.running.evaluate import keep_maps
from l2g.data.registry import load_dataset
from l2g.data.synthetic.panoptic import write_panoptic
from l2g.errors import DataError
from l2g.evaluation.panoptic import evaluate_panoptic
from tests.evaluation.replay import ReplayBackend, write_vipseg
from tests.metrics.fixtures import PANOPTIC_CASES, load, panoptic
from tests.runtime.blob_dataset import write_blob_dataset


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """name -> (its data set's folder, a backend that gives its results, the case)."""
    made = {}

    def write(name):
        if name not in made:
            case = load(name)
            truth, maps, results, result_maps = panoptic(case, name)
            folder = write_vipseg(tmp_path_factory.mktemp(name), truth, maps)
            things = {category["id"]: bool(category["isthing"]) for category in truth["categories"]}
            made[name] = folder, (truth, maps), ReplayBackend(results, result_maps, sorted(things), things), case
        return made[name]

    return write


@pytest.mark.parametrize("name", PANOPTIC_CASES)
def test_the_official_answers_come_out_at_the_end_of_the_path(written, name, tmp_path):
    folder, _, backend, case = written(name)
    found = evaluate_panoptic(backend, load_dataset(f"vipseg:{folder}", "val"), progress=False, folder=tmp_path)
    official = case["expected"]["vpq"]
    for length, window in official["per_window"].items():
        mine = found.vpq.windows[int(length)]
        assert [mine.vpq, mine.vpq_thing, mine.vpq_stuff] == pytest.approx(
            [window["VPQ"], window["VPQ_thing"], window["VPQ_stuff"]], abs=1e-9
        )
    mean, quality = official["mean_1_2_4_6"], case["expected"]["stq"]
    stats = found.stats()
    assert [stats["VPQ"], stats["VPQ_things"], stats["VPQ_stuff"]] == pytest.approx(
        [mean["VPQ"], mean["VPQ_thing"], mean["VPQ_stuff"]], abs=1e-9
    )
    assert [stats["STQ"], stats["AQ"], stats["SQ"]] == pytest.approx(
        [100 * quality["STQ"], 100 * quality["AQ"], 100 * quality["IoU_SQ"]], abs=1e-9
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two short videos of things and stuff: (data set, its annotation as results, its maps)."""
    folder = tmp_path_factory.mktemp("drawn") / "set"
    source = write_panoptic(folder, "val", videos=2, frames=4, size=(64, 96))
    data = json.loads((source / "panoptic_gt_VIPSeg_val.json").read_text())
    videos = load_dataset(f"vipseg:{source}", "val").videos
    maps = {video.id: np.stack([video.panoptic(t) for t in range(video.length)]) for video in videos}
    target = write_vipseg(tmp_path_factory.mktemp("coded"), data, maps)
    return load_dataset(f"vipseg:{target}", "val"), data, maps


def replay(drawn, **changes):
    _, data, maps = drawn
    things = {category["id"]: bool(category["isthing"]) for category in data["categories"]}
    return ReplayBackend(data, maps, changes.pop("classes", sorted(things)), things, **changes)


def test_the_ground_truth_as_prediction_scores_100_everywhere(drawn, tmp_path, capsys):
    found = evaluate_panoptic(replay(drawn), drawn[0], progress=False, folder=tmp_path)
    assert found.windows == (1, 2, 4)
    for window in found.windows:
        quality = found.vpq.windows[window]
        assert (quality.vpq, quality.vpq_thing, quality.vpq_stuff) == (100, 100, 100)
    assert list(found.stats().values()) == [100] * 6
    # What lies in the folder is what the official evaluators read.
    truth = drawn[0].videos[0]._maps[0].parents[2]
    files = ["--ground-truth", str(truth / "panoptic_gt_VIPSeg_val.json")]
    files += ["--ground-truth-maps", str(truth / "panomasksRGB"), "--results", str(tmp_path)]
    assert vpq.main([*files, "--windows", "1", "4", "--json", str(tmp_path / "vpq.json")]) == 0
    assert stq.main([*files, "--json", str(tmp_path / "stq.json")]) == 0
    assert json.loads((tmp_path / "vpq.json").read_text())["VPQ_1_4"] == 100
    assert json.loads((tmp_path / "stq.json").read_text())["STQ"] == 100


def test_one_wrong_label_in_one_frame_does_not_change_a_tracks_category(drawn, tmp_path):
    dataset, data, maps = drawn
    changed = json.loads(json.dumps(data))
    things = {category["id"] for category in data["categories"] if category["isthing"]}
    segment = next(
        s for s in changed["annotations"][0]["annotations"][0]["segments_info"] if s["category_id"] in things
    )
    segment["category_id"] = min(things - {segment["category_id"]})
    found = evaluate_panoptic(replay((dataset, changed, maps)), dataset, progress=False, folder=tmp_path)
    assert found.stats()["VPQ"] == 100
    written = json.loads((tmp_path / "pred.json").read_text())["annotations"][0]["annotations"]
    categories = {}
    for frame in written:
        for entry in frame["segments_info"]:
            assert categories.setdefault(entry["id"], entry["category_id"]) == entry["category_id"]


def test_classes_are_matched_by_name_and_stuff_is_the_data_sets_where_the_model_knows_none(drawn):
    dataset, data, _ = drawn
    ids = sorted((category["id"] for category in data["categories"]), reverse=True)
    backend = replay(drawn, classes=ids)
    backend.contract = dataclasses.replace(backend.contract, stuff_classes=())
    found = evaluate_panoptic(backend, dataset, progress=False)
    assert found.stats()["VPQ"] == 100
    assert "in another order" in found.notes[0]


def test_a_data_set_without_maps_is_refused(drawn, tmp_path):
    dataset = load_dataset(str(write_blob_dataset(tmp_path)), "valid")
    backend = replay(drawn)
    backend.contract = dataclasses.replace(backend.contract, class_names=dataset.class_names, stuff_classes=(1,))
    with pytest.raises(DataError, match="no maps of things and stuff"):
        evaluate_panoptic(backend, dataset, progress=False)


@pytest.mark.parametrize("file", ["images/{}/0002.jpg", "panomasksRGB/{}/0002.png"])
def test_a_frame_or_map_that_cannot_be_read_leaves_what_was_done(drawn, file, tmp_path):
    _, data, maps = drawn
    copied = write_vipseg(tmp_path / "set", data, maps)
    (copied / file.format(data["annotations"][1]["video_id"])).write_bytes(b"no picture")
    broken = load_dataset(f"vipseg:{copied}", "val")
    with pytest.raises(DataError, match="--skip-broken"):
        evaluate_panoptic(replay(drawn), broken, streams=1, progress=False, folder=tmp_path / "a", keep=keep_maps)
    assert len(json.loads((tmp_path / "a/pred.partial.json").read_text())["annotations"]) == 1
    found = evaluate_panoptic(replay(drawn), broken, progress=False, skip_broken=True, folder=tmp_path / "a")
    assert found.stats()["VPQ"] == 100
    assert [problem.where for problem in found.left_out] == [broken.videos[1].name]
    assert not (tmp_path / "a/pred.partial.json").exists()


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_segments_that_vpq_cannot_count_are_refused_before_anything_runs(drawn, key, tmp_path):
    _, data, maps = drawn
    data = json.loads(json.dumps(data))
    del data["annotations"][1]["annotations"][3]["segments_info"][0][key]
    dataset = load_dataset(f"vipseg:{write_vipseg(tmp_path, data, maps)}", "val")
    backend = replay(drawn)
    backend.step = None
    with pytest.raises(DataError, match=f"frame 3, segment .*: has no '{key}', which VPQ needs"):
        evaluate_panoptic(backend, dataset, progress=False)


def test_a_class_is_scored_in_the_windows_that_it_occurs_in(tmp_path):
    """One that is only in a video of two frames has no windows of four, and is not worse for it."""
    maps = {"short": np.ones((2, 8, 8), np.int64), "long": np.ones((5, 8, 8), np.int64)}
    segment = {"id": 1, "area": 64, "iscrowd": 0}
    data = {
        "categories": [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}],
        "annotations": [
            {"video_id": name, "annotations": [{"segments_info": [{**segment, "category_id": k}]} for _ in maps[name]]}
            for k, name in ((1, "short"), (2, "long"))
        ],
    }
    dataset = load_dataset(f"vipseg:{write_vipseg(tmp_path, data, maps)}", "val")
    found = evaluate_panoptic(replay((dataset, data, maps)), dataset, progress=False)
    assert found.windows == (1, 2, 4)
    assert [row["VPQ"] for row in found.per_category()] == [100, 100]
    assert found.stats()["VPQ"] == 100


def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", None)
    folder = drawn[0].videos[0]._maps[0].parents[2]
    words = ["--model", "m", "--dataset", f"vipseg:{folder}", "--split", "val", "--report", str(tmp_path / "no/r.json")]
    assert evaluate.main(words) == 2
    assert "no" in capsys.readouterr().err
