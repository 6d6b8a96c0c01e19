"""A whole check on an imagined GPU, and on this machine's processor; and each kind of step by its numbers."""

import json
import shutil
import stat
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
import torch

from l2g.cli.running.gpu_check import main
from l2g.data.synthetic.dataset import write_synthetic
from l2g.files import write_json
from l2g.gpucheck import plan as planned
from l2g.gpucheck import run as running
from l2g.gpucheck.child import RANDOM, run_step
from l2g.gpucheck.compare import compare
from l2g.gpucheck.page import render_page
from l2g.gpucheck.plan import Options, plan
from l2g.gpucheck.run import How, check, read_report
from l2g.gpucheck.ways import BY_SLUG
from l2g.runtime.backends.tensorrt.library import installed_version
from tests.engines.engines import engine_graph
from tests.exported import small_checkpoint
from tests.gpucheck.imagined import Imagined
from tests.runtime.fake_gpu import fake_engine

OPTIONS = Options(models=("small.safetensors",), size=(64, 96), streams=(1, 2), frames=3, videos=1)
RIGHT = ("pytorch-fp32", "onnx-runtime-fp32", "compiled-pytorch-fp32", "tensorrt-rtx-fp32")
IMAGINED = (sys.executable, "-m", "tests.gpucheck.imagined")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder that --prepare might have left: tiny videos, a checkpoint, graphs and engines of the small model."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("val", "long"):
        write_synthetic(folder / "data" / name, "val", videos=1, frames=3, size=(64, 96))
    (folder / "models").mkdir()
    shutil.copy(small_checkpoint(), folder / "models" / "small.safetensors")
    for role in ("parity", "latency"):
        for precision in ("fp32", "fp16"):
            path = folder / "models" / f"small.{role}.tensorrt.{precision}.onnx"
            shutil.copy(engine_graph(precision), path)
            shutil.copy(path, folder / "models" / f"small.{role}.onnxruntime.{precision}.onnx")
            for library in ("tensorrt", "tensorrt-rtx"):
                engine = folder / "models" / f"small.{role}.{library}.{precision}.engine"
                fake_engine(engine, path, library=library, audit=None)
                shutil.copy(path, f"{engine}.graph")
    write_json(folder / "options.json", OPTIONS.to_json())
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "check")


def step(name):
    return next(step for step in plan(OPTIONS, RANDOM) if step.name == name)


def figures(folder, name, hardware=None):
    """What a step finds, run in this process."""
    run_step(step(name), folder, hardware or Imagined("cuda"))
    found = json.loads((folder / "steps" / f"{name}.figures.json").read_text())
    return {(item["subject"], item["streams"], item["quantity"]): item for item in reversed(found)}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A check of one way of each kind, in processes of its own: its folder and its report."""
    if installed_version("tensorrt-rtx") is None:
        pytest.skip("TensorRT-RTX is not installed")
    folder = shutil.copytree(made, tmp_path_factory.mktemp("whole") / "check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "CHILD", IMAGINED)
        patch.setattr(planned, "WAYS", tuple(BY_SLUG[slug] for slug in (*RIGHT, "tensorrt-fp32")))
        for role in ("parity", "latency"):
            (folder / f"models/small.{role}.tensorrt.fp32.engine").unlink()
        return folder, check(folder, OPTIONS, How())


def test_a_whole_check_of_an_imagined_gpu(whole):
    folder, report = whole
    assert report.complete
    # TensorRT's builder is on no public index: its engines, which nobody made up here, are all that is missing.
    assert {outcome.step for outcome in report.broken} == {
        "make-small.parity.tensorrt.fp32.engine",
        "make-small.latency.tensorrt.fp32.engine",
    }, report.broken
    assert {outcome.status for outcome in report.outcomes} <= {"done", "failed", "not run"}
    assert sum(outcome.status == "done" for outcome in report.outcomes) == len(report.outcomes) - 4
    assert report.facts.name == "Imagined RTX 4090, compute capability 8.9"
    assert read_report(folder / "report.json") == report
    found = {outcome.step: outcome for outcome in report.outcomes}
    page = (folder / "report.html").read_text()
    assert page == render_page(report)
    assert "http" not in page.replace("https://www.w3.org", ""), "self-contained"
    for way in (BY_SLUG[slug] for slug in RIGHT):
        # All compute the small model's numbers, so FP32's limits hold; random weights see no object to be agreed on.
        judged = [f for f in found[f"parity-small-{way.slug}"].figures if f.limit is not None]
        assert {figure.subject for figure in judged} == {"small, val", "small, long"}
        assert len(judged) == 10
        assert all(figure.passed for figure in judged if "identity" not in figure.quantity), way
        medians = [f for f in found[f"latency-small-{way.slug}"].figures if f.quantity == "median"]
        assert [figure.streams for figure in medians] == [1, 2]
        assert all(0 < figure.value < 5000 for figure in medians)
        assert f"small 64x96, {way.name}, 2 streams" in page
    assert found["capture-small"].figures[0].passed
    assert found["floors"].figures


def test_a_wrong_engine_is_beyond_its_limits(folder):
    """The engine is of other weights than the checkpoint."""
    engine = folder / "models/small.parity.tensorrt-rtx.fp32.engine.graph"
    model = onnx.load(engine)
    weight = max(model.graph.initializer, key=lambda w: len(w.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.5).tobytes()
    onnx.save(model, engine)
    found = figures(folder, "parity-small-tensorrt-rtx-fp32")
    figure = found["small, val", None, "teacher-forced mask logits after the first frame"]
    assert figure["passed"] is False
    assert figure["value"] > 10 * figure["limit"]
    right = figures(folder, "parity-small-tensorrt-fp32")
    assert right["small, val", None, "teacher-forced mask logits after the first frame"]["value"] < 1e-4
    assert right["small, val", None, "frames compared"]["value"] == 3


def test_reduced_precisions_are_held_to_their_own_limits(folder):
    for name in ("pytorch-bf16", "onnx-runtime-fp16", "onnx-runtime-tf32"):
        found = figures(folder, f"parity-small-{name}")
        figure = found["small, val", None, "teacher-forced mask logits after the first frame"]
        assert (figure["limit"], figure["passed"]) == (None, None), name
        assert found["small, val", None, "identity agreement of the free run, percent"]["limit"] == 95
    # BF16 products round more than FP32's, and less than everything.
    figure = figures(folder, "parity-small-pytorch-bf16")[
        "small, val", None, "first-frame mask logits of the typical slot"
    ]
    assert 1e-4 < figure["value"] < 10


class Slow(Imagined):
    """A device that takes 30 ms for a stream's frame."""

    def open_graph(self, path, way):
        backend = super().open_graph(path, way)
        plain = backend.step

        def step(frames, reset):
            time.sleep(0.03 * len(frames))
            return plain(frames, reset)

        backend.step = step
        return backend


def test_latency_is_what_it_takes(folder, tmp_path, monkeypatch):
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/sh\nwhile :; do echo '100.0, 1000, 50, 1500'; sleep 0.02\n"
        "echo '300.0, 1500, [N/A], 1700'; sleep 0.02; done\n"
    )
    smi.chmod(smi.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{smi.parent}:/usr/bin:/bin")
    found = figures(folder, "latency-small-onnx-runtime-fp32", Slow("cuda"))
    for streams in (1, 2):
        at = {quantity: item["value"] for (_, count, quantity), item in found.items() if count == streams}
        assert 30 * streams <= at["best"] <= at["median"] <= at["p99"] < 30 * streams + 500
        assert at["rate, all streams"] == pytest.approx(1000 * streams / at["median"])
        assert at["processor time"] < at["median"], "sleeping takes no processor"
        assert 150 < at["power"] < 250
        assert at["energy of a frame"] == pytest.approx(at["power"] * at["median"] / 1000 / streams)
        assert at["device busy"] == 50
        assert at["memory of the device"] in (0, 500 * 2**20 / 1e6)
    assert found["small 64x96", 1, "median"]["note"] == "3 frames"


def test_few_streams_come_before_many(folder):
    """In whatever order they are asked for: compiled PyTorch runs fewer in what was made for more."""
    seen = []

    class Watched(Imagined):
        def open_graph(self, path, way):
            backend = super().open_graph(path, way)
            plain = backend.step
            backend.step = lambda frames, reset: (seen.append(len(frames)), plain(frames, reset))[1]
            return backend

    options = replace(OPTIONS, streams=(2, 1))
    write_json(folder / "options.json", options.to_json())
    figures(folder, "latency-small-onnx-runtime-fp32", Watched("cuda"))
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def test_one_batch_that_does_not_fit_leaves_the_others(folder):
    """The engine is for one stream."""

    class Narrow(Imagined):
        def open_engine(self, path):
            backend = super().open_engine(path)
            backend._executor.max_streams = 1
            return backend

    found = figures(folder, "latency-small-tensorrt-fp32", Narrow("cuda"))
    assert found["small 64x96", 1, "median"]["value"] > 0
    refused = found["small 64x96", 2, "median"]
    assert refused["value"] is None
    assert "2 streams at once, the engine was built for at most 1" in refused["note"]


def test_captured_frames_hand_their_state_on(folder):
    found = figures(folder, "capture-small")
    figure = found["small 64x96", 1, "the state's largest difference"]
    assert figure["passed"]
    assert figure["value"] < 1e-5

    class Forgetful(Imagined):
        """Its graphs are launched and do nothing, so that no state comes out."""

        def record(self, work):
            work()
            return lambda: None

    class Poisoned(Imagined):
        """Its graphs leave NaN, as of a kernel that reads what was not written."""

        def record(self, work):
            work()

            def launch():
                work()
                for state in work.func.__self__._states:
                    for tensor in state.values():
                        tensor.fill_(float("nan"))

            return launch

    for hardware in (Forgetful, Poisoned):
        found = figures(folder, "capture-small", hardware("cuda"))
        assert not found["small 64x96", 1, "the state's largest difference"]["passed"]


def test_the_floors_are_those_of_the_graph(folder):
    from l2g.artifacts.onnx_file import read_model
    from l2g.export.graph.flops import count_flops, shapes_for_one_stream

    found = figures(folder, "floors")
    model = read_model(folder / "models/small.latency.onnxruntime.fp32.onnx")
    flops = sum(count_flops(model, shapes_for_one_stream(model))[0].values())
    assert found["small 64x96", None, "arithmetic of a frame"]["value"] == pytest.approx(1e-9 * flops)
    product = found["", None, "largest matrix product"]
    floor = found["small 64x96", 1, "arithmetic at the rate of products"]
    assert (product["runs_on"], floor["runs_on"]) == ("FP32", "floor FP32")
    assert floor["value"] == pytest.approx(1e3 * flops / (1e12 * product["value"]))
    assert found["", None, "copy within the device"]["value"] > 0.1


def test_video_without_a_gpu_says_why_it_did_not_run(folder):
    figures(folder, "video")
    both = json.loads((folder / "steps/video.figures.json").read_text())
    assert {item["runs_on"] for item in both} >= {"processor (libx264)", "processor", "GPU (NVENC)", "GPU (NVDEC)"}
    assert all(item["value"] > 1 for item in both if item["runs_on"].startswith("processor"))
    if not torch.cuda.is_available():
        assert all(item["note"].startswith("not available: ") for item in both if item["runs_on"].startswith("GPU"))


def test_the_command_on_a_processor(folder, capsys):
    words = ["--output", str(folder), "--models", "small.safetensors", "--size", "64x96", "--streams", "1", "2"]
    words += ["--frames", "3", "--videos", "1", "--quiet"]
    assert main([*words, "--device", "cpu", "--only", "latency-small-onnx-runtime", "compiled"]) == 0
    captured = capsys.readouterr()
    assert "small 64x96" in captured.out
    assert "not available: ONNX Runtime FP16 is for a GPU: latency-small-onnx-runtime-fp16" in captured.out
    assert captured.err == ""
    if not torch.cuda.is_available():
        assert main(words) == 2
        assert "no GPU was found" in capsys.readouterr().err


def test_two_checks_side_by_side(whole, tmp_path, capsys):
    _, report = whole
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    write_json(one, report.to_json())
    data = report.to_json()
    for outcome in data["outcomes"]:
        for figure in outcome["figures"]:
            figure["value"] = figure["value"] and 2 * figure["value"]
    data["outcomes"].append(
        {"step": "parity-x", "title": "is x right?", "status": "done", "figures": [
            {"subject": "x", "runs_on": "y", "quantity": "AP", "unit": "percent", "value": 70.0, "limit": 80.0,
             "passed": False}]}
    )  # fmt: skip
    write_json(other, data)
    found = compare(report, read_report(other))
    medians = [pair for pair in found.pairs if pair.one.quantity == "median"]
    assert [pair.one.streams for pair in medians] == len(RIGHT) * [1, 2] + [1, 1]  # then the two of the capture
    assert {pair.ratio for pair in medians} == {2.0}
    assert found.worse == ()  # the first never had it
    assert found.only == ((), ("parity-x",))
    assert main(["--compare", str(one), str(other)]) == 0
    assert "2.00" in capsys.readouterr().out
    data["outcomes"][-1]["figures"][0] |= {"value": 90.0, "passed": True}
    write_json(one, data)
    assert main(["--compare", str(one), str(other)]) == 1
    assert "worse in B: x, y: AP 70 (limit 80.0)" in capsys.readouterr().out
    assert main(["--compare", str(one), str(tmp_path / "gone.json")]) == 2
    assert main([]) == 2
    assert "no --output given" in capsys.readouterr().err
