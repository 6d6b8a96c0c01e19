"""--compile on the commands that open a checkpoint. Without a GPU the same operators run one after another."""

import json

import pytest

pytest.importorskip("torch")

from l2g.cli.making import inspect
from l2g.cli.running import bench, evaluate, parity
from l2g.data.synthetic.dataset import write_synthetic
from l2g.evaluation.bench.candidates import Candidate
from l2g.evaluation.bench.start import Start
from tests.exported import small_checkpoint
from tests.modeling.small import HEIGHT, WIDTH

pytestmark = pytest.mark.filterwarnings("ignore:.*--compile is for GPUs")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "val"
    return str(write_synthetic(folder, "val", videos=2, frames=3, size=(HEIGHT, WIDTH)))


def test_parity_opens_it_and_tells_its_stages(tmp_path, dataset, capsys):
    model, report = str(small_checkpoint()), tmp_path / "report"
    arguments = ["--reference", model, "--candidate", model, "--compile", "--device", "cpu", "--dataset", dataset]
    assert parity.main([*arguments, "--report", str(report), "--confidence", "0", "--streams", "2"]) == 0
    assert json.loads((report / "parity.json").read_text())["passed"]
    told = capsys.readouterr().err
    assert "[1/2] trace for 2 streams (" in told
    assert "[2/2] warm up for 2 streams (" in told


def test_evaluate_and_bench_open_it(tmp_path, dataset, capsys, monkeypatch):
    monkeypatch.setattr(Candidate, "start", lambda self, kept: Start(1.0, None, None, None, None))
    model = str(small_checkpoint())
    arguments = ["--model", model, "--compile", "--precision", "bf16", "--fp32-blocks", "decoder", "--dataset", dataset]
    assert evaluate.main([*arguments, "--quiet"]) == 0
    assert "AP" in capsys.readouterr().out
    output = tmp_path / "bench"
    assert bench.main([model, "--compile", "fp16", "--frames", "2", "--output", str(output), "--quiet"]) == 0
    rows = {row["runs_on"]: row for row in json.loads((output / "bench.json").read_text())["measured"]}
    assert rows["PyTorch"]["precision"] == "fp32"
    assert rows["PyTorch compiled FP16"]["precision"] == "fp16"


def test_inspect_says_what_each_part_computes_in(capsys):
    arguments = [str(small_checkpoint()), "--compile", "--precision", "fp16", "--device", "cpu"]
    assert inspect.main([*arguments, "--min-share", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("PyTorch     on cpu: FP32 ") and ", FP16 " in line for line in lines)
    (head,) = [line for line in lines if line.startswith("  heads.class_embed")]
    assert "FP32" in head
    assert "FP16" not in head
    assert any(line.startswith("  encoder.layers.0") and "FP16" in line for line in lines)
    assert inspect.main([*arguments, "--json", "--min-share", "0.999"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["audit"]["asked"] == "fp16"
    assert 0.9 < found["audit"]["share"] < 0.999
    assert found["runs"]["a step"] == "one operator after another"


def test_a_graph_is_not_compiled(capsys):
    assert inspect.main(["some.onnx", "--compile"]) == 2
    assert "--compile given, which only a checkpoint takes" in capsys.readouterr().err
