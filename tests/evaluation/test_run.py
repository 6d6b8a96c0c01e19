"""A backend over a data set: classes by name, videos that cannot be read, and results that are kept."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from l2g.checkpoint import load_checkpoint
from l2g.cli.running import evaluate, parity
from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.errors import ContractError, DataError, L2GError
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.evaluation.precision import measure
from l2g.evaluation.run import ScoringOptions, evaluate_backend
from l2g.export.exporter import ExportOptions, export
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import BlobBackend

CASES = Path(__file__).parents[1] / "assets" / "cases" / "datasets"
RENAMED = {"tomato": "red", "lime": "green", "sky": "blue"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_blob_dataset(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def tiny_graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(load_checkpoint("l2g_tiny"), path, ExportOptions())
    return path


def copied(folder, target, change):
    """The data set with an edited annotation."""
    shutil.copytree(folder, target)
    data = json.loads((target / "instances.json").read_text())
    change(data)
    (target / "instances.json").write_text(json.dumps(data))
    return load_dataset(str(target), "valid")


def in_other_order(data):
    """Blue, green, red in place of red, green, blue."""
    for mark in data["annotations"]:
        mark["category_id"] = 4 - mark["category_id"]
    for kind in data["categories"]:
        kind["id"] = 4 - kind["id"]


def renamed(data):
    for kind, name in zip(data["categories"], RENAMED, strict=True):
        kind["name"] = name


def in_other_order_and_renamed(data):
    renamed(data)
    in_other_order(data)


def by_name(evaluation, dataset):
    """{(video, class name, score)} of the results."""
    names = {category.id: category.name for category in dataset.categories}
    return {(e["video_id"], names[e["category_id"]], round(e["score"], 6)) for e in evaluation.results}


def test_classes_in_another_order_give_the_same_scores(folder, tmp_path):
    dataset, other = load_dataset(str(folder), "valid"), copied(folder, tmp_path / "other", in_other_order)
    expected = evaluate_backend(BlobBackend(), dataset, progress=False)
    found = evaluate_backend(BlobBackend(), other, progress=False)
    assert expected.report.stats["AP"] > 0.5
    assert found.report.stats == expected.report.stats
    assert by_name(found, other) == by_name(expected, dataset)
    assert "another order" in found.notes[0]
    assert found.to_json()["notes"][0] == found.notes[0]
    assert expected.notes == ()


def test_other_names_need_a_map_and_are_then_the_same(folder, tmp_path):
    expected = evaluate_backend(BlobBackend(), load_dataset(str(folder), "valid"), progress=False)
    other = copied(folder, tmp_path / "other", in_other_order_and_renamed)
    with pytest.raises(DataError, match=r"names differ: .*'tomato'.*--classes FILE"):
        evaluate_backend(BlobBackend(), other, progress=False)
    found = evaluate_backend(BlobBackend(), dataclasses.replace(other, class_map=RENAMED), progress=False)
    assert found.report.stats == expected.report.stats
    assert "3 classes of the mapping" in found.notes[0]


def test_a_map_scores_what_is_in_it(folder):
    dataset = load_dataset(str(folder), "valid")
    whole = evaluate_backend(BlobBackend(), dataset, progress=False).report.per_category
    some = dataclasses.replace(dataset, class_map={"green": "green", "red": "red"})
    found = evaluate_backend(BlobBackend(), some, progress=False).report.per_category
    assert found == {key: whole[key] for key in (1, 2)}


def test_parity_and_precision_match_by_name_too(folder, tmp_path):
    dataset, other = load_dataset(str(folder), "valid"), copied(folder, tmp_path / "other", in_other_order)
    expected = 100 * evaluate_backend(BlobBackend(), dataset, progress=False).report.stats["AP"]
    report = run_parity(BlobBackend(), BlobBackend(), BlobBackend(), other, progress=False)
    assert report.ap_reference["AP"] == report.ap_candidate["AP"] == expected
    assert "another order" in report.to_json()["notes"][0]
    reference, candidates = measure(BlobBackend(), {"a": BlobBackend()}, other, progress=False)
    assert reference.ap == candidates["a"].ap == expected
    foreign = copied(folder, tmp_path / "foreign", renamed)
    with pytest.raises(DataError, match="names differ"):
        measure(BlobBackend(), {}, foreign, progress=False)
    with pytest.raises(DataError, match=r"names differ.*--no-ap"):
        run_parity(BlobBackend(), BlobBackend(), BlobBackend(), foreign, progress=False)
    options = ParityOptions(ap=False)
    assert run_parity(BlobBackend(), BlobBackend(), BlobBackend(), foreign, options=options, progress=False).passed


def test_precision_runs_nothing_that_cannot_be_scored():
    drawn = synthetic_dataset("train", videos=2)
    backend = BlobBackend()
    backend.contract = dataclasses.replace(backend.contract, class_names=drawn.class_names)
    backend.step = None
    with pytest.raises(DataError, match="not in the YouTube-VIS format"):
        measure(backend, {}, drawn, progress=False)


@pytest.mark.parametrize("names", [("blue", "green", "red"), ("red", "green", "violet")])
def test_two_models_with_other_classes_are_not_compared(folder, names):
    candidate = BlobBackend()
    candidate.contract = dataclasses.replace(candidate.contract, class_names=names)
    with pytest.raises(ContractError, match=r"class names: the candidate has '(blue|violet)' where the reference has"):
        run_parity(BlobBackend(), candidate, candidate, load_dataset(str(folder), "valid"), progress=False)


def test_the_shared_case_by_checkpoint_and_graph(tiny_graph, tmp_path, capsys):
    """8 classes with other ids. 82.5 is what the same videos give with the model's own ids."""
    for model in ("l2g_tiny", str(tiny_graph)):
        command = ["--model", model, "--dataset", str(CASES / "other_order"), "--report", str(tmp_path / "r.json")]
        assert evaluate.main([*command, "--quiet"]) == 0
        printed = capsys.readouterr()
        assert "AP            82.50\n" in printed.out
        assert printed.err.count("another order; matched by name") == 1
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["AP"] == pytest.approx(82.5, abs=0.01)
        assert "another order" in report["notes"][0]
    both = ["--reference", "l2g_tiny", "--candidate", str(tiny_graph), "--dataset", str(CASES / "other_order")]
    assert parity.main([*both, "--report", str(tmp_path / "parity"), "--quiet"]) == 0
    report = json.loads((tmp_path / "parity" / "parity.json").read_text())
    assert report["ap"]["reference"]["AP"] == pytest.approx(82.5, abs=0.01)


def test_the_command_takes_a_map(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", lambda *_, **__: BlobBackend())
    copied(folder, tmp_path / "data", renamed)
    command = ["--model", "m", "--dataset", str(tmp_path / "data"), "--quiet"]
    assert evaluate.main([*command, "--streams", "1"]) == 2
    assert "only the data set has 'tomato', 'lime', 'sky'; only the model has 'red'" in capsys.readouterr().err
    (tmp_path / "map.yaml").write_text("tomato: red\nlime: green\nsky: blue\n")
    assert evaluate.main([*command, "--classes", str(tmp_path / "map.yaml")]) == 0
    expected = evaluate_backend(BlobBackend(), load_dataset(str(folder), "valid"), progress=False)
    printed = capsys.readouterr()
    assert f"AP            {100 * expected.report.stats['AP']:.2f}\n" in printed.out
    assert printed.err.count("note: ") == 1
    assert evaluate.main([*command, "--classes", "coco-ovis"]) == 2  # its names are on neither side


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(folder, tmp_path):
    """Three videos of 6, 4 and 7 frames; the third frame of the second is no picture."""
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "JPEGImages" / "blobs_1" / "00002.png").write_bytes(b"no picture")
    return tmp_path / "damaged"


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_a_broken_video_is_left_out_and_named(folder, damaged, streams):
    whole = load_dataset(str(folder), "valid")
    others = dataclasses.replace(whole, videos=[whole.videos[0], whole.videos[2]])
    expected = evaluate_backend(BlobBackend(), others, progress=False)
    dataset = load_dataset(str(damaged), "valid")
    found = evaluate_backend(BlobBackend(), dataset, streams=streams, progress=False, skip_broken=True)
    assert found.report.stats == expected.report.stats
    assert found.identities == expected.identities
    assert found.results == expected.results
    assert [(p.kind, p.where) for p in found.left_out] == [("unreadable frame", "blobs_1")]
    assert found.to_json()["left_out"] == [str(found.left_out[0])]
    with pytest.raises(DataError, match=r"blobs_1/00002.png' is not a picture.*--skip-broken"):
        evaluate_backend(BlobBackend(), dataset, streams=streams, progress=False)


def test_all_videos_broken(damaged):
    for n in (0, 2):
        (damaged / "JPEGImages" / f"blobs_{n}" / "00000.png").write_bytes(b"")
    dataset = load_dataset(str(damaged), "valid")
    with pytest.raises(DataError, match="no video can be read to its end"):
        evaluate_backend(BlobBackend(), dataset, progress=False, skip_broken=True)


@pytest.fixture
def command(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", lambda *_, **__: BlobBackend())
    (tmp_path / "results.json").write_text('"of the run before"')
    return ["--model", "m", "--dataset", str(damaged), "--quiet", "--results", str(tmp_path / "results.json")]


def test_the_results_so_far_are_kept_and_those_of_the_run_before_stay(command, folder, tmp_path, capsys):
    assert evaluate.main([*command, "--streams", "1"]) == 2
    error = capsys.readouterr().err
    assert "blobs_1/00002.png" in error
    assert "kept: the results of 1 of 3 videos" in error
    assert (tmp_path / "results.json").read_text() == '"of the run before"'
    kept = json.loads((tmp_path / "results.partial.json").read_text())
    whole = evaluate_backend(BlobBackend(), load_dataset(str(folder), "valid"), progress=False).results
    assert kept == json.loads(json.dumps([e for e in whole if e["video_id"] == 1], default=bytes.decode))


def test_a_video_that_ends_in_the_same_round_is_kept(command, damaged, tmp_path):
    """The first video is as long as the second is until its damage."""
    data = json.loads((damaged / "instances.json").read_text())
    data["videos"][0].update(length=3, file_names=data["videos"][0]["file_names"][:3])
    data["annotations"] = [mark for mark in data["annotations"] if mark["video_id"] != 1]
    (damaged / "instances.json").write_text(json.dumps(data))
    assert evaluate.main([*command, "--streams", "3"]) == 2
    assert {e["video_id"] for e in json.loads((tmp_path / "results.partial.json").read_text())} == {1}


def test_results_are_written_before_they_are_scored(command, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise DataError("cannot be scored")

    monkeypatch.setattr("l2g.evaluation.run.evaluate_vis", fail)
    assert evaluate.main([*command, "--skip-broken"]) == 2
    assert "cannot be scored" in capsys.readouterr().err
    assert {e["video_id"] for e in json.loads((tmp_path / "results.json").read_text())} == {1, 3}


def test_the_command_names_what_it_left_out(command, tmp_path, capsys):
    assert evaluate.main([*command, "--streams", "1"]) == 2
    assert (tmp_path / "results.partial.json").is_file()
    capsys.readouterr()
    assert evaluate.main([*command, "--skip-broken", "--report", str(tmp_path / "report.json")]) == 0
    assert not (tmp_path / "results.partial.json").exists()
    assert capsys.readouterr().err.count("left out: unreadable frame: blobs_1") == 1
    assert len(json.loads((tmp_path / "report.json").read_text())["left_out"]) == 1


@pytest.mark.parametrize("wrong", [["--streams", "0"], ["--streams", "-1"], ["--top-k", "0"], ["--top-k", "-1"]])
def test_numbers_that_score_nothing_are_refused(command, wrong, capsys):
    assert evaluate.main([*command, "--skip-broken", *wrong]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_parity_leaves_broken_videos_out_before_it_begins(damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", lambda *_, **__: BlobBackend())
    command = ["--reference", "a", "--candidate", "b", "--dataset", str(damaged), "--quiet", "--report"]
    assert parity.main([*command, str(tmp_path / "p")]) == 2
    assert parity.main([*command, str(tmp_path / "p"), "--skip-broken"]) == 0
    assert "left out: unreadable frame: blobs_1" in capsys.readouterr().err
    assert json.loads((tmp_path / "p" / "parity.json").read_text())["frames"] == 6 + 7


def test_options_are_checked():
    with pytest.raises(L2GError, match="top-k 0 found"):
        ScoringOptions(top_k=0)
