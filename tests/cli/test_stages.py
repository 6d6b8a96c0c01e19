"""Stages on stderr, and the table at the end."""

import io
import re
import sys

import pytest

from l2g.cli.making import verify
from l2g.cli.stages import Stages
from l2g.cli.table import Row, table, verification_rows
from l2g.export.exporter import ExportOptions, export
from l2g.progress import Progress
from tests.exported import exported_model


def work(stages):
    stages.plan({"first": 1})
    stages.stage("first")
    stages.plan({"second": 2, "third": 1})
    stages.stage("second")
    stages.step()
    stages.step()
    stages.stage("third")


def test_a_line_for_every_stage_that_is_over(capsys):
    with Stages() as stages:
        work(stages)
    captured = capsys.readouterr()
    assert re.sub(r"\d+\.\d s", "T s", captured.err) == "[1/3] first (T s)\n[2/3] second (T s)\n[3/3] third (T s)\n"
    assert captured.out == ""


def test_quiet_is_quiet(capsys):
    with Stages(quiet=True) as stages:
        work(stages)
    assert capsys.readouterr() == ("", "")


def test_a_stage_that_fails_is_not_called_done(capsys):
    def fail():
        with Stages() as stages:
            work(stages)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert "[3/3] third (not finished, " in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Stages() as stages:
        work(stages)
    written = sys.stderr.getvalue()
    assert re.search(r"\[2/3\] second \|.*\| \d/\d steps, 00:00", written)


class Recorder(Progress):
    def __init__(self):
        self.planned, self.stages = {}, {}

    def plan(self, stages):
        self.planned |= stages

    def stage(self, name):
        self.stages[name] = 0

    def step(self):
        *_, name = self.stages
        self.stages[name] += 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_goes_through_the_stages_it_planned(precision, tmp_path):
    progress = Recorder()
    choose = (lambda graph, contract: ()) if precision == "fp16" else None
    output = tmp_path / "m.onnx"
    export(exported_model(), output, ExportOptions(precision=precision), choose=choose, progress=progress)
    assert list(progress.stages) == list(progress.planned)
    assert len(progress.planned) == {"fp32": 6, "fp16": 9}[precision]
    for name, steps in progress.stages.items():
        assert steps in (0, progress.planned[name]), name
    assert progress.stages["frames in PyTorch"] == progress.stages["verify beside PyTorch"] == 3 + 2
    # To be told of it changes no byte.
    export(exported_model(), tmp_path / "silent.onnx", ExportOptions(precision=precision), choose=choose)
    assert output.read_bytes() == (tmp_path / "silent.onnx").read_bytes()


def test_rows_hold_their_limits():
    assert Row("x", "s", 1.0, 1.0).ok
    assert not Row("x", "s", 1.1, 1.0).ok
    assert Row("x", "%", 95.0, 95.0, least=True).ok
    assert not Row("x", "%", 94.9, 95.0, least=True).ok
    assert Row("x", "MB", 5.0).ok
    assert not Row("x", "s", float("nan"), 1.0).ok
    assert not Row("x", "%", float("nan"), 1.0, least=True).ok


def test_table():
    rows = [Row("share", "%", 93.25, 95, least=True), Row("file", "MB", 1234.56), Row("error", "logit", 1.5e-5, 1e-4)]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["quantity", "unit", "found", "limit", "ok"]
    # Numbers end where their headings end.
    found = ("found", "93.2", "1235", "1.5e-05")
    assert len({line.index(text) + len(text) for line, text in zip(lines, found, strict=True)}) == 1
    cells = [line.split() for line in lines]
    assert cells[1] == ["share", "%", "93.2", ">=", "95", "FAILS"]
    assert cells[2] == ["file", "MB", "1235"]
    assert cells[3] == ["error", "logit", "1.5e-05", "<=", "0.0001", "ok"]


def test_rows_of_a_verification():
    (row,) = verification_rows({"mask_logits": 2e-3}, {"mask_logits": 1e-3}, "largest difference")
    assert row == Row("mask logits, largest difference", "logit", 2e-3, 1e-3)
    assert row.cells()[-1] == "FAILS"


def test_the_record_of_an_engine_is_a_table():
    from l2g.artifacts.records import Agreement
    from l2g.engines.verification import LIMITS, check_agreement

    record = check_agreement(Agreement(1e-4, 2e-4, 3e-4, 0.01, 4e-4), "fp16", "m.engine", "a GPU")
    lines = verify.record_table(record).splitlines()[1:]
    assert len(lines) == 5
    for line, limit in zip(lines, LIMITS["fp16"].to_json().values(), strict=True):
        assert line.endswith("ok")
        assert f"<= {limit:g}" in re.sub(" +", " ", line)
