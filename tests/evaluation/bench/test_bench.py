"""Every library that can run a model takes its turn; the fastest within the budget is recommended."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from l2g.cli.running.bench import main
from l2g.errors import L2GError
from l2g.evaluation.bench.candidates import Candidate, candidates
from l2g.evaluation.bench.measure import WARM_UP, _recommended, _reference, _row, measure
from l2g.evaluation.bench.page import render_page, table
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.exported import small_checkpoint, small_graph

ovino = pytest.importorskip("openvino")


class Slow:
    """A backend that takes so long, and counts its frames."""

    def __init__(self, seconds, calls):
        self.backend, self.seconds, self.calls = OnnxRuntimeBackend(small_graph(), threads=1), seconds, calls
        self.contract = self.backend.contract

    def step(self, frames, reset):
        self.calls.append(self.seconds)
        time.sleep(self.seconds)
        return self.backend.step(frames, reset)

    def close(self):
        self.backend.close()


def refusing():
    raise L2GError("no such device")


def test_models_of_one_file_name_are_told_apart(tmp_path):
    paths = [tmp_path / name / "m.onnx" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(small_graph().read_bytes())
    other = tmp_path / "n.onnx"
    other.write_bytes(small_graph().read_bytes())
    found, _ = candidates([str(path) for path in (*paths, other)], threads=1)
    names = [candidate.name for candidate in found]
    assert len({*names}) == len(names)
    assert {name.split(", ")[0] for name in names} == {str(paths[0]), str(paths[1]), "n.onnx"}


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), (2, 2)])
def test_pytorch_has_its_own_number_of_threads_unless_one_is_asked_for(asked, threads, monkeypatch):
    torch = pytest.importorskip("torch")
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr("l2g.evaluation.bench.candidates.open_backend", lambda *_, **__: None)
    found, _ = candidates(["c.safetensors"], threads=asked)
    found[0].open()
    assert given == [2] * (threads - 1)


def test_what_takes_longer_is_measured_so_and_all_take_turns():
    calls = []
    found = [Candidate("a.onnx", name, lambda s=s: Slow(s, calls)) for name, s in (("slow", 0.12), ("quick", 0.01))]
    report = measure([*found, Candidate("b.onnx", "nowhere", refusing)], frames=3, progress=False)
    slow, quick = report.measured
    assert slow.median >= 120
    assert slow.median - quick.median > 60
    assert slow.best <= slow.median <= slow.p99
    assert slow.cpu < slow.median, "sleeping takes no processor"
    assert slow.rate == pytest.approx(1000 / slow.median)
    assert calls[2:] == [0.12, 0.01] * (3 + WARM_UP)
    assert report.recommended == "a.onnx, quick"
    assert report.left == (("b.onnx, nowhere", "no such device"),)
    assert (report.canvas, report.frames, report.dataset) == ((64, 96), 3, None)


def test_the_budget_decides():
    found = [Candidate("a.onnx", "x", lambda: Slow(0, []))]
    (one,) = measure(found, frames=1, progress=False).measured
    reference = replace(one, name="float32", median=9.0, ap=80.0)
    lossy, kept = replace(one, name="lossy", median=1.0, ap=56.0), replace(one, name="kept", median=2.0, ap=79.6)
    assert _recommended([reference, lossy, kept], reference, 0.5) == "kept"
    assert _recommended([reference, lossy, kept], reference, 30) == "lossy"
    assert _recommended([reference, lossy, kept], reference, 0.1) == "float32"
    assert _recommended([lossy], reference, 0.5) is None


@pytest.mark.parametrize(
    ("file", "scales", "runs", "shown"),
    [
        ("bf16", None, "bf16", "bf16"),
        ("bf16", None, "fp32", "fp32 (file: bf16)"),
        ("int8", "bf16", "int8 + fp32", "int8 + fp32 (file: int8 + bf16)"),
        ("int8", "bf16", "int8 + bf16", "int8 + bf16"),
    ],
)
def test_a_row_says_what_it_runs_in(file, scales, runs, shown):
    """Rounded numbers are no reference, whatever they are computed in."""
    backend = Slow(0, [])
    build = SimpleNamespace(precision=file, int8=scales and SimpleNamespace(scales=scales))
    backend.contract = SimpleNamespace(build=build)
    backend.precision = runs
    row = _row(Candidate("m.onnx", "here", refusing), backend, [1.0], [1.0], 0.0, None, 60.0)
    assert row.precision == shown
    right = replace(row, precision="fp32", ap=50.0)
    assert _reference([row, right]) == right


def test_every_library_is_tried(tmp_path, capsys):
    found, left = candidates([str(small_graph()), str(small_checkpoint())])
    assert [item.runs_on for item in found if item.model == str(small_checkpoint())] == ["PyTorch"]
    assert {"ONNX Runtime CPU", "OpenVINO CPU"} <= {item.runs_on for item in found}
    assert left == ()
    arguments = [str(small_graph()), "--frames", "2", "--threads", "1", "--output", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    data = json.loads((tmp_path / "bench.json").read_text())
    assert {item["runs_on"] for item in data["measured"]} >= {"ONNX Runtime CPU", "OpenVINO CPU"}
    assert data["recommended"] in capsys.readouterr().out
    page = (tmp_path / "bench.html").read_text()
    assert data["recommended"] in page
    assert "http" not in page.replace("https://www.w3.org", ""), "self-contained"


def test_report_forms_name_what_was_not_run():
    found = [Candidate("a.onnx", "x", lambda: Slow(0, [])), Candidate("<b>.onnx", "nowhere", refusing)]
    report = measure(found, frames=1, progress=False)
    assert "not run: <b>.onnx, nowhere: no such device" in table(report)
    assert "&lt;b&gt;.onnx, nowhere: no such device" in render_page(report)
    assert np.isfinite([item.start for item in report.measured]).all()


def test_bad_input(capsys):
    with pytest.raises(L2GError, match=r"nothing here can be run: b.onnx, nowhere: no such device"):
        measure([Candidate("b.onnx", "nowhere", refusing)], progress=False)
    with pytest.raises(L2GError, match="0 frames asked for"):
        measure([], frames=0)
    with pytest.raises(L2GError, match="0 streams asked for"):
        measure([], streams=0)
    assert main(["missing.onnx", "--quiet"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["l2g_tiny", "--threads", "-1", "--quiet"]) == 2
    assert "-1 threads asked for, at least 1 expected" in capsys.readouterr().err
