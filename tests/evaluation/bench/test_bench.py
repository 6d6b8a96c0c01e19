"""Every library that can run a model takes its turn; the fastest within the budget is recommended."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from l2g.cli.running.bench import main
from l2g.errors import L2GError
from l2g.evaluation.bench.candidates import Candidate, candidates
from l2g.evaluation.bench.measure import WARM_UP, _recommended, _reference, _row, measure
from l2g.evaluation.bench.page import render_page, table
from l2g.evaluation.bench.start import Start
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.exported import small_checkpoint, small_graph

ovino = pytest.importorskip("openvino")


START = Start(seconds=0.5, before=50_000_000, opening=90_000_000, running=70_000_000, anonymous=60_000_000)


@dataclass(frozen=True)
class Imagined(Candidate):
    """Opened by a function, and started in no process."""

    make: Callable = field(default=None, hash=False)
    metered: Start = START

    def open(self):
        return self.make()

    def start(self, kept):
        return self.metered


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


@pytest.mark.parametrize("asked", [None, 2])
def test_pytorch_has_its_own_number_of_threads_unless_one_is_asked_for(asked, monkeypatch):
    pytest.importorskip("torch")
    given = []
    monkeypatch.setattr("l2g.runtime.backends.eager.set_threads", given.append)
    found, _ = candidates([str(small_checkpoint())], threads=asked)
    found[0].open().close()
    assert given == [asked] * (asked is not None)


def test_what_takes_longer_is_measured_so_and_all_take_turns():
    calls = []
    found = [Imagined("a.onnx", name, make=lambda s=s: Slow(s, calls)) for name, s in (("slow", 0.12), ("quick", 0.01))]
    report = measure([*found, Imagined("b.onnx", "nowhere", make=refusing)], frames=3, progress=False)
    slow, quick = report.measured
    assert slow.median >= 120
    assert slow.median - quick.median > 60
    assert slow.best <= slow.median <= slow.p99
    assert slow.cpu < slow.median, "sleeping takes no processor"
    assert slow.rate == pytest.approx(1000 / slow.median)
    assert calls == [0.12, 0.01] * (3 + WARM_UP)
    assert report.recommended == "a.onnx, quick"
    assert report.left == (("b.onnx, nowhere", "no such device"),)
    assert (report.canvas, report.frames, report.dataset) == ((64, 96), 3, None)


def test_the_budget_decides():
    found = [Imagined("a.onnx", "x", make=lambda: Slow(0, []))]
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
    row = _row(Imagined("m.onnx", "here", make=refusing), backend, [1.0], [1.0], START, None, 60.0)
    assert row.precision == shown
    right = replace(row, precision="fp32", ap=50.0)
    assert _reference([row, right]) == right


@pytest.mark.parametrize(
    ("device", "file", "scales", "shown"),
    [
        ("cpu", "fp16", None, "fp32 (file: fp16)"),
        ("cuda", "fp16", None, "fp16"),
        ("cpu", "int8", "fp16", "int8 + fp32 (file: int8 + fp16)"),
        ("cpu", "fp32", None, "fp32"),
    ],
)
def test_onnx_runtime_computes_fp16_as_such_on_a_gpu_alone(device, file, scales, shown):
    backend = OnnxRuntimeBackend(small_graph(), threads=1)
    assert backend.device == "cpu"
    build = SimpleNamespace(precision=file, int8=scales and SimpleNamespace(scales=scales))
    backend.contract, backend.device = SimpleNamespace(build=build), device
    row = _row(Imagined("m.onnx", "here", make=refusing), backend, [1.0], [1.0], START, None, None)
    assert row.precision == shown


def test_every_library_is_tried(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Candidate, "start", lambda self, kept: START)
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
    found = [Imagined("a.onnx", "x", make=lambda: Slow(0, [])), Imagined("<b>.onnx", "nowhere", make=refusing)]
    report = measure(found, frames=1, progress=False)
    assert "not run: <b>.onnx, nowhere: no such device" in table(report)
    assert "&lt;b&gt;.onnx, nowhere: no such device" in render_page(report)


@dataclass(frozen=True)
class Keeping(Imagined):
    """Quicker and smaller from what is kept."""

    keeps = True

    def start(self, kept):
        return replace(START, seconds=0.25, opening=65_000_000, running=None) if kept else START


def test_a_start_is_said_to_be_cold_or_from_what_was_kept():
    found = [Keeping("a.onnx", "x", make=lambda: Slow(0, [])), Imagined("a.onnx", "y", make=lambda: Slow(0, []))]
    report = measure(found, frames=1, progress=False)
    kept, plain = sorted(report.measured, key=lambda item: item.name)
    assert (kept.cold, kept.kept.seconds, plain.cold, plain.kept) == (START, 0.25, START, None)
    head, *rows = table(report).splitlines()
    assert re.split("  +", head)[-4:] == ["cold start s", "kept start s", "cold peak MB", "kept peak MB"]
    cells = {row[:9]: row.split()[-4:] for row in rows[:2]}
    assert cells["a.onnx, x"] == ["0.5", "0.2", "40", "unknown"]
    assert cells["a.onnx, y"][-2:] == ["0.5", "40"]
    assert "each in a process of its own" in table(report)
    assert "<th>kept start s</th>" in render_page(report)
    assert report.to_json()["measured"][0]["cold"]["opening"] == 90_000_000


@pytest.mark.parametrize("form", [table, render_page])
def test_the_measure_is_named_as_it_is(form):
    report = measure([Imagined("a.onnx", "x", make=lambda: Slow(0, []))], frames=1, progress=False)
    one = replace(report.measured[0], ap=61.5)
    assert "AP" not in form(report)
    report = replace(report, dataset="maps", metric="VPQ", measured=(one,), reference=one.name)
    assert "VPQ" in form(report).replace("within 0.5 VPQ of", "")
    assert "within 0.5 VPQ of a.onnx, x on maps" in form(report)
    assert "within 0.5 VPQ of" in form(replace(report, recommended=None))
    assert not re.search(r"\bAP\b", form(report))


def test_bad_input(capsys, tmp_path):
    with pytest.raises(L2GError, match=r"nothing here can be run: b.onnx, nowhere: no such device"):
        measure([Imagined("b.onnx", "nowhere", make=refusing)], progress=False)
    with pytest.raises(L2GError, match="0 frames asked for"):
        measure([], frames=0)
    with pytest.raises(L2GError, match="0 streams asked for"):
        measure([], streams=0)
    assert main(["missing.onnx", "--quiet", "--output", str(tmp_path / "out")]) == 2
    assert not list(tmp_path.iterdir())
    assert "no such file" in capsys.readouterr().err
    assert main(["l2g_tiny", "--threads", "-1", "--quiet"]) == 2
    assert "-1 threads asked for, at least 1 expected" in capsys.readouterr().err
