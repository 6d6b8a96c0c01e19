"""The order, the time limits, what becomes of crashes and kills, and how a check goes on; the steps are scripted."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
from l2g.config import PRESETS
from l2g.errors import DataError, L2GError
from l2g.gpucheck import plan as planning
from l2g.gpucheck import run as running
from l2g.gpucheck.child import RANDOM
from l2g.gpucheck.page import summary
from l2g.gpucheck.plan import Options, plan
from l2g.gpucheck.run import How, NoGpuError, carry, check, read_report
from l2g.gpucheck.ways import WAYS

pytestmark = pytest.mark.alone

SCRIPTED = (sys.executable, str(Path(__file__).parent / "scripted.py"))
OPTIONS = Options(models=("l2g_tiny",), size=(64, 96), streams=(1, 2), frames=3, videos=1)
HOW = How()
LIBRARIES = dict.fromkeys((way.library for way in WAYS), "")
INSTALLED = {"tensorrt-rtx": "1.7.1"}
FIRST, SECOND = "latency-l2g_tiny-pytorch-fp32", "latency-l2g_tiny-pytorch-bf16"
TWO = replace(HOW, only=(FIRST, SECOND))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "CHILD", SCRIPTED)
    script(tmp_path)
    return tmp_path


def script(folder, steps=None, gpus=("GPU one",), why_not=LIBRARIES, libraries=INSTALLED):
    makes = {step.name: step.output for step in plan(OPTIONS, RANDOM) if step.output}
    data = {"steps": steps or {}, "gpus": gpus, "why_not": why_not, "libraries": libraries, "makes": makes}
    (folder / "script.json").write_text(json.dumps(data))


def ran(folder):
    path = folder / "ran.txt"
    return path.read_text().split() if path.exists() else []


def status(report):
    return {outcome.step: (outcome.status, [figure.value for figure in outcome.figures]) for outcome in report.outcomes}


def test_what_counts_most_comes_first_and_what_it_needs_before_it():
    steps = plan(Options(), RANDOM)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for place, step in enumerate(steps):
        assert set(step.needs) <= set(names[:place]), step.name
    last_parity = max(place for place, name in enumerate(names) if name.startswith("parity"))
    first_latency = min(place for place, name in enumerate(names) if name.startswith("latency"))
    assert last_parity < names.index("floors") < first_latency
    # Shipped weights are scored, random ones have nothing to score; their engines are held to their graphs.
    assert not any("parity-l2g_r50" in name for name in names)
    assert {"l2g_tiny", "l2g_tiny_panoptic"} == set(PRESETS) - RANDOM
    assert {f"verify-l2g_r50-tensorrt-{p}" for p in ("fp32", "fp16", "int8")} <= set(names)
    for model in ("l2g_r50", "l2g_tiny"):
        assert {name for name in names if name.startswith(f"latency-{model}")} == {
            f"latency-{model}-{way.slug}" for way in WAYS
        }
    # All that the steps make is made once, and what --prepare makes needs no GPU but a library.
    made = [step.output for step in steps if step.output]
    assert len(set(made)) == len(made)
    assert all(step.device for step in steps if step.builds == "tensorrt")
    assert not any(step.device for step in steps if step.builds == "tensorrt-rtx")


def test_every_command_of_the_plan_is_one_that_l2g_takes():
    from l2g.cli.commands import BY_NAME
    from l2g.cli.entry import parser_of

    commands = [step.command for step in plan(Options(), RANDOM) if step.command]
    assert len(commands) > 20
    for words in commands:
        length = 2 if words[0] == "data" else 1
        parser_of(BY_NAME[" ".join(words[:length])]).parse_args(list(words[length:]))


def test_a_whole_check_and_then_nothing_is_left_to_do(folder):
    report = check(folder, OPTIONS, HOW)
    assert report.complete
    assert report.passed
    assert {outcome.status for outcome in report.outcomes} == {"done"}
    assert [outcome.step for outcome in report.outcomes] == [step.name for step in plan(OPTIONS, RANDOM)]
    assert read_report(folder / "report.json") == report
    assert "GPU one" in (folder / "report.html").read_text()
    count = len(ran(folder))
    again = check(folder, OPTIONS, HOW)
    assert (len(ran(folder)), status(again)) == (count, status(report))
    # What was made and is there no longer is made again, and nothing else.
    (folder / "models/l2g_tiny.latency.onnxruntime.fp16.onnx").unlink()
    check(folder, OPTIONS, HOW)
    assert ran(folder)[count:] == ["make-l2g_tiny.latency.onnxruntime.fp16.onnx"]


def test_what_crashes_fails_or_hangs_costs_itself(folder, monkeypatch):
    script(folder, {FIRST: [2.5, "crash"], SECOND: [3.5, "hang"], "video": ["fail"]})
    monkeypatch.setattr(planning._Plan, "_latency", limited(planning._Plan._latency, 1.5))
    how = replace(HOW, only=(FIRST, SECOND, "video", "capture"))
    report = check(folder, OPTIONS, how)
    assert status(report) == {
        "machine": ("done", []),
        FIRST: ("crashed", [2.5]),
        SECOND: ("timed out", [3.5]),
        "capture-l2g_tiny": ("done", [1.0]),
        "video": ("failed", []),
    }
    reasons = {outcome.step: outcome.reason for outcome in report.outcomes}
    assert reasons[FIRST] == "ended by SIGSEGV"
    assert reasons[SECOND] == "took more than 1.5 s"
    assert reasons["video"] == "no such thing; give another"
    assert not report.passed
    assert "timed out: how fast is PyTorch BF16? l2g_tiny: took more than 1.5 s" in summary(report)
    # They are not tried again, unless asked for.
    script(folder)
    count = len(ran(folder))
    assert status(check(folder, OPTIONS, how)) == status(report)
    assert len(ran(folder)) == count
    mended = check(folder, OPTIONS, replace(how, retry=True))
    assert mended.passed
    assert sorted(ran(folder)[count:]) == sorted([FIRST, SECOND, "video"])


def limited(method, limit):
    def change(self, model, way):
        method(self, model, way)
        for name, step in self._found.items():
            if name.startswith("latency-"):
                self._found[name] = replace(step, limit=limit)

    return change


def test_a_step_that_does_not_listen_is_ended_with_all_that_it_started(folder, monkeypatch):
    script(folder, {FIRST: [1.5, "deaf"]})
    monkeypatch.setattr(planning._Plan, "_latency", limited(planning._Plan._latency, 1.5))
    monkeypatch.setattr("l2g.gpucheck.run._GRACE", 0.5)
    report = check(folder, OPTIONS, TWO)
    assert status(report)[FIRST] == ("timed out", [1.5])
    assert status(report)[SECOND] == ("done", [1.0])
    assert gone(int((folder / "helper.pid").read_text()))


def gone(pid, tries=50):
    """Whether no such process runs; one that nobody has waited for is over as well."""
    for _ in range(tries):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
            time.sleep(0.1)
        except OSError:
            return True
    return False


def test_what_a_step_needs_and_what_is_not_here(folder):
    engine = "make-l2g_tiny.parity.tensorrt.fp32.engine"
    script(folder, {engine: ["fail"]}, why_not=LIBRARIES | {"TensorRT-RTX": "no kernels for it"})
    report = check(folder, OPTIONS, replace(HOW, only=("parity",)))
    found = {outcome.step: outcome for outcome in report.outcomes}
    assert found["parity-l2g_tiny-tensorrt-fp32"].status == "not run"
    assert (
        found["parity-l2g_tiny-tensorrt-fp32"].reason == f"it needs {engine}, which failed: no such thing; give another"
    )
    assert found["parity-l2g_tiny-tensorrt-rtx-fp32"].reason == "no kernels for it"
    # And nothing is made for what cannot be run.
    assert not any("tensorrt-rtx" in name for name in ran(folder))
    assert "make-l2g_tiny.parity.tensorrt.fp32.onnx" in ran(folder)


def test_prepared_on_one_machine_and_measured_on_another(folder):
    script(folder, gpus=(), libraries={"tensorrt-rtx": None})
    prepared = check(folder, OPTIONS, replace(HOW, prepare=True))
    made = ran(folder)
    assert not any(name.startswith(("parity", "latency", "floors", "video", "capture")) for name in made)
    # The builder of TensorRT-RTX is not installed there.
    assert {o.step: o.reason for o in prepared.outcomes}["make-l2g_tiny.parity.tensorrt-rtx.fp32.engine"] == (
        "tensorrt-rtx is not installed"
    )
    with pytest.raises(NoGpuError, match=r"no GPU was found .* --prepare .* --device cpu"):
        check(folder, OPTIONS, HOW)
    script(folder, gpus=("GPU two",))
    measured = check(folder, OPTIONS, replace(HOW, only=("onnx-runtime",)))
    assert measured.facts.name == "GPU two"
    assert not any(name.startswith("make") for name in ran(folder)[len(made) :])
    script(folder, gpus=("GPU three",))
    with pytest.raises(L2GError, match="holds the numbers of GPU two, this is GPU three; give another --output"):
        check(folder, OPTIONS, HOW)
    # More may be made elsewhere; the numbers stay those of where they were measured.
    prepared = check(folder, OPTIONS, replace(HOW, prepare=True))
    assert prepared.facts.name == "GPU two"
    script(folder, gpus=("GPU two",))
    assert check(folder, OPTIONS, replace(HOW, only=("onnx-runtime",))).facts.name == "GPU two"


def test_when_the_time_is_up_nothing_begins(folder):
    script(folder, {FIRST: [4.5, "hang"]})
    report = check(folder, OPTIONS, replace(TWO, minutes=1.5 / 60))
    assert status(report)[FIRST] == ("not run", [4.5])
    assert "not finished, 0.025 minutes were over" in summary(report)
    assert status(report)[SECOND] == ("not run", [])
    assert report.passed
    script(folder)
    after = status(check(folder, OPTIONS, TWO))
    assert (after[FIRST], after[SECOND]) == (("done", [1.0]), ("done", [1.0]))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_at_any_moment_it_leaves_what_was_measured(folder, number):
    script(folder, {FIRST: [2.5], SECOND: [3.5, "hang"]})
    code = (
        "import sys; from l2g.gpucheck import run; from l2g.cli.main import main\n"
        f"run.CHILD = {SCRIPTED!r}; sys.exit(main(sys.argv[1:]))"
    )
    words = ["gpu-check", "--models", "l2g_tiny", "--size", "64x96", "--streams", "1", "2", "--frames", "3"]
    words += ["--videos", "1", "--only", FIRST, SECOND, "--output", str(folder)]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    until(lambda: SECOND in status(read_report(folder / "report.json")), process)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    report = read_report(folder / "report.json")
    assert not report.complete
    assert status(report)[FIRST] == ("done", [2.5])
    assert status(report)[SECOND] == ("running", [3.5])
    assert "the same command goes on" in (folder / "report.html").read_text()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "goes on from here" in error
        assert "Traceback" not in error
    script(folder)
    after = check(folder, OPTIONS, TWO)
    assert status(after) == {"machine": ("done", []), FIRST: ("done", [2.5]), SECOND: ("done", [1.0])}
    assert ran(folder) == [FIRST, SECOND, SECOND]


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_step_ends_with_the_check_that_was_killed():
    code = (
        "import os, time; from l2g.gpucheck.child import _die_with_the_parent\n"
        "if (pid := os.fork()) == 0:\n    _die_with_the_parent(); print(os.getpid(), flush=True); time.sleep(60)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    step = int(parent.stdout.readline())
    assert not gone(step, tries=1)
    parent.kill()
    parent.wait()
    assert gone(step)


def until(true, process, seconds=30):
    for _ in range(10 * seconds):
        try:
            if true():
                return
        except (DataError, OSError):
            pass
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("never")


def test_another_check_in_the_same_folder_is_refused(folder):
    with pytest.raises(L2GError, match="no step is named so"):
        check(folder, replace(OPTIONS, frames=5), replace(HOW, only=("nonsense",)))
    check(folder, OPTIONS, TWO)  # nothing was done yet with other options, so these hold
    with pytest.raises(L2GError, match="holds a check with frames 3, 4 asked for"):
        check(folder, replace(OPTIONS, frames=4), TWO)
    with pytest.raises(L2GError, match="no step is named so: nonsense"):
        check(folder, OPTIONS, replace(HOW, only=("nonsense",)))
    (folder / "other.json").write_text('{"schema_version": 1}')
    with pytest.raises(DataError, match="not a report of l2g gpu-check"):
        read_report(folder / "other.json")
    (folder / "other.json").write_text('{"schema_version": 7}')
    with pytest.raises(DataError, match="schema 7 found, 1 expected"):
        read_report(folder / "other.json")


def test_checkpoints_are_carried(folder, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "mine.safetensors"
    away.write_bytes(b"weights")
    for _ in range(2):
        assert carry(folder, [str(away), "l2g_tiny"]) == ("mine.safetensors", "l2g_tiny")
    away.write_bytes(b"trained on")
    with pytest.raises(
        L2GError, match=r"mine.safetensors: another file than .*models/mine.safetensors, which this check"
    ):
        carry(folder, [str(away)])
    assert (folder / "models" / "mine.safetensors").read_bytes() == b"weights"
    away.unlink()
    assert carry(folder, [str(away)]) == ("mine.safetensors",)
    steps = plan(Options(models=("mine.safetensors",)), RANDOM)
    export = next(step for step in steps if step.command[:1] == ("export",))
    assert export.command[2] == "models/mine.safetensors"
    for name in ("gone.pth", "l2g_tiyn", str(folder)):
        with pytest.raises(L2GError, match=r"no such file; give a checkpoint, or one of .*l2g_tiny"):
            carry(folder, [name])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"models": ()}, "no model given"),
        ({"models": ("a/x.pth", "b/x.pth")}, "models of one name"),
        ({"streams": (1, 0)}, "streams 1 0 found"),
        ({"frames": 0}, "frames 0 found"),
    ],
)
def test_options_that_do_not_fit(options, text):
    with pytest.raises(L2GError, match=text):
        Options(**options)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_check_takes_time(minutes):
    with pytest.raises(L2GError, match="minutes found, more than 0 expected"):
        How(minutes=minutes)


if os.name != "posix":
    pytestmark = pytest.mark.skip(reason="processes and signals of POSIX")
