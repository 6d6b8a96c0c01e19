"""What a start takes is measured in a process of its own, and what goes wrong there is told in one line."""

import json
import subprocess
import sys

import pytest

from l2g.errors import L2GError
from l2g.evaluation.bench import start
from l2g.evaluation.bench.start import Start, start_of
from tests.exported import small_graph
from tests.no_torch import BLOCK

HOW = {"library": "onnxruntime", "device": "cpu", "threads": 1}
HELD = 100_000_000


def test_a_start_is_measured_and_keeps_nothing_unless_asked_to(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    found = start_of(str(small_graph()), HOW, kept=False, frames=2)
    assert found.seconds > 0
    assert 0 < found.before < found.opening
    assert 0 < found.anonymous < found.running
    assert found.peak == max(found.opening, found.running) - found.before
    assert not (tmp_path / "cache").exists()


def test_the_peaks_are_those_of_opening_and_of_running(monkeypatch):
    """With a model that holds 100 MB for a moment, while it opens or in a frame."""
    code = f"""{BLOCK}
import numpy as np
from types import SimpleNamespace
from l2g.evaluation.bench import start

class Model:
    contract = SimpleNamespace(input=lambda name: SimpleNamespace(sized=lambda streams: (1, 8, 8, 3)))
    def __init__(self, model, top_k, when): self.when = when; self.at("opening")
    def at(self, when): when == self.when and np.ones({HELD}, np.uint8).sum()
    def step(self, frames, reset): self.at("running")
    def close(self): pass

start.open_backend = Model
raise SystemExit(start.main())
"""
    run = subprocess.run
    monkeypatch.setattr(
        start.subprocess, "run", lambda command, **how: run([sys.executable, "-c", code, command[-1]], **how)
    )
    opening = start_of("m", {"when": "opening"}, kept=True)
    running = start_of("m", {"when": "running"}, kept=True)
    for found, high, low in ((opening, "opening", "running"), (running, "running", "opening")):
        assert getattr(found, high) - found.before >= HELD
        assert getattr(found, low) - found.before < HELD / 2
        assert found.peak == getattr(found, high) - found.before


def test_an_error_of_the_process_is_one_line(tmp_path):
    with pytest.raises(L2GError, match=r"^\S*none.onnx: no such file; export a checkpoint with: [^\n]*$"):
        start_of(str(tmp_path / "none.onnx"), HOW, kept=True)


@pytest.mark.parametrize(
    ("code", "said"),
    [("import os; os.abort()", r"ended with -6 \(without a word\)"), ("1 / 0", "ended with 1 .ZeroDivisionError: ")],
)
def test_a_crash_is_told_in_one_line(code, said, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(start.subprocess, "run", lambda command, **how: run([sys.executable, "-c", code], **how))
    with pytest.raises(L2GError, match=f"^m: the process that opens it {said}"):
        start_of("m", {}, kept=True)


def test_ctrl_c_ends_the_process_without_a_word(monkeypatch, capfd):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "open_backend", interrupted)
    assert start.main([json.dumps({"model": "m", "how": {}, "frames": 1})]) == 130
    assert capfd.readouterr() == ("", "")


def test_a_system_that_tells_no_memory_is_none(monkeypatch):
    assert Start(1.0, None, None, None, None).peak is None
