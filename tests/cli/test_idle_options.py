"""Options that would have no effect are refused before anything is opened."""

import cv2
import numpy as np
import onnxruntime
import pytest

from l2g.cli.learning import data_draw, train
from l2g.cli.making import doctor, export, inspect
from l2g.cli.running import batch, bench, evaluate, parity, run
from tests.exported import small_graph


@pytest.mark.parametrize("options", [["--precision", "fp16"], ["--precision", "fp32"], ["--precision", "bf16"]])
@pytest.mark.parametrize(
    "idle", [["--dataset", "nowhere:such"], ["--ap-budget", "0.05"], ["--log", "l.jsonl"], ["--granularity", "module"]]
)
def test_what_a_search_measures_is_refused_without_one(options, idle, tmp_path, capsys):
    if options[1] == "bf16" and idle[0] == "--dataset":
        return  # that is what asks for the search
    assert export.main(["--ckpt", "none.pth", "--output", str(tmp_path / "m.onnx"), *options, *idle]) == 2
    error = capsys.readouterr().err
    assert f"{idle[0]} given, which has no effect here" in error
    assert "--precision auto" in error


@pytest.mark.parametrize(
    ("idle", "of"), [(["--top-k", "9"], "--outputs detections"), (["--plugin-version", "2"], "--lowering plugin")]
)
def test_an_export_takes_what_its_graph_has(idle, of, tmp_path, capsys):
    assert export.main(["--ckpt", "none.pth", "--output", str(tmp_path / "m.onnx"), *idle]) == 2
    assert f"{idle[0]} given, which has no effect here; it is of {of}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--device", "GPU"], "--device"),
        (["--precision", "bf16"], "--precision"),
        (["--min-share", "1"], "--min-share"),
        (["--fp32-blocks", "encoder.layers.0"], "--fp32-blocks"),
        (["--compile", "--library", "openvino"], "--library"),
    ],
)
def test_inspect_audits_where_it_is_told_what(options, named, capsys):
    assert inspect.main(["none.onnx", *options]) == 2
    assert f"{named} given, which has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--library", "tensorrt-rtx"], ["--library-version", "10.3"], ["--min-share", "0.5"]]
)
def test_the_doctor_of_a_machine_takes_nothing_of_a_file(options, capsys):
    assert doctor.main(options) == 2
    assert f"{options[0]} given, which has no effect here; it is of a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ap-budget", "0.1"], "--ap-budget given"),
        (["--videos", "4"], "--videos given"),
        (["--size", "480x864"], "--size given"),
        (["--compile", "fp16"], "--compile given"),
        (["--dataset", "synthetic:val", "--ap-budget", "nan"], "--ap-budget nan found"),
        (["--dataset", "synthetic:val", "--ap-budget", "-1"], "--ap-budget -1 found"),
    ],
)
def test_bench_measures_what_it_is_asked_for(options, said, capsys):
    assert bench.main(["a.onnx", "b.engine", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "idle"),
    [(command, idle) for command in (run, batch) for idle in ("--no-labels", "--opacity 0.3", "--trails 3", "--hud")]
    + [(run, "--encoder nvenc"), (run, "--encoder auto")],
)
def test_an_overlay_that_is_left_out_has_no_looks(command, idle, tmp_path, capsys):
    words = ["--model", "m", "--input", "none.mp4", "--output", str(tmp_path / "out"), "--no-overlay", *idle.split()]
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert f"{idle.split()[0]} given, which has no effect here; it is of the overlay" in error
    assert not (tmp_path / "out").exists()


def words_of(command, model, tmp_path):
    """What a command needs, with input that is there."""
    if command is evaluate:
        return ["--model", model, "--dataset", "synthetic:val", "--videos", "1"]
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    return ["--model", model, "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]


@pytest.mark.parametrize("command", [run, evaluate])
def test_threads_are_of_a_model_on_a_cpu(command, tmp_path, capsys, monkeypatch):
    assert command.main([*words_of(command, "m.engine", tmp_path), "--threads", "2"]) == 2
    assert "--threads given, which has no effect here; it is of a CPU" in capsys.readouterr().err
    model = str(small_graph())
    assert command.main([*words_of(command, model, tmp_path), "--threads", "0"]) == 2
    assert "0 threads asked for, at least 1 expected" in capsys.readouterr().err
    asked = []

    def opened(path, options, **how):
        asked.append(options.intra_op_num_threads)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    for given, expected in ([], 0), (["--threads", "1"], 1):
        assert command.main([*words_of(command, model, tmp_path), *given]) == 2
        assert set(asked) == {expected}
        asked.clear()


@pytest.mark.parametrize(("command", "idle"), [(evaluate, "--temperature"), (parity, "--min-stuff-area")])
def test_what_merges_slots_is_refused_where_instances_are_scored(command, idle, tmp_path, capsys):
    models = ["--model", "m"] if command is evaluate else ["--reference", "m", "--candidate", "m"]
    words = [*models, "--dataset", "synthetic:val", "--videos", "1", idle, "1"]
    assert command.main([*words, "--report", str(tmp_path / "report")]) == 2
    assert f"{idle} given, which has no effect here; it is of things and stuff" in capsys.readouterr().err


def test_top_k_is_refused_where_maps_are_scored(capsys):
    words = ["--model", "m", "--dataset", "synthetic:val", "--videos", "1", "--task", "panoptic", "--top-k", "5"]
    assert evaluate.main(words) == 2
    assert "--top-k given, which has no effect here; it is of instances" in capsys.readouterr().err


def test_a_run_that_measures_nothing_takes_no_data_to_measure_on(tmp_path, capsys):
    command = ["--config", "synthetic_tiny", "--val", "/nowhere/at/all", "--output", str(tmp_path / "run")]
    assert train.main(command) == 2
    assert "add evaluation.every=" in capsys.readouterr().err
    assert train.main([*command, "evaluation.every=500"]) == 2
    assert "no data set '/nowhere/at/all'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"), [(["--cuts", "-3"], "-3 cuts"), (["--cuts", "1", "--frames", "10"], "36")]
)
@pytest.mark.parametrize("kind", [[], ["--panoptic"]])
def test_every_video_that_is_drawn_has_its_cuts(options, said, kind, tmp_path, capsys):
    assert data_draw.main(["--split", "val", "--videos", "1", "--output", str(tmp_path / "a"), *options, *kind]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
