"""Every command, new and old, from a clone and from an installed wheel in another folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from l2g.cli.commands import COMMANDS
from tests.cli.places import CHECKOUT, DOORS

MODULES = {
    "l2g.training.train": "train",
    "l2g.data.validation": "data check",
    "l2g.data.synthetic": "data draw",
    **{
        f"l2g.{room}.{name}": f"metrics {name.replace('_', '-')}"
        for room in ("metrics", "evaluation")
        for name in ("vis_ap", "vpq", "stq")
    },
}


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    """A folder with what the commands before made: model.onnx from an export, val from a drawing."""
    folder = tmp_path_factory.mktemp(f"made-{place.name}")
    canvas = ["--height", "96", "--width", "160"]
    export = ["--ckpt", "l2g_tiny", "--output", folder / "model.onnx", *canvas]
    done = place.command("export", *export)
    (folder / "export.out").write_text(done.stdout)
    (folder / "export.err").write_text(done.stderr)
    drawing = ["--split", "val", "--videos", "1", "--frames", "3", "--output", folder / "val"]
    assert place.command("data", "draw", *drawing).stdout == f"wrote {folder / 'val'}\n"
    return folder


def test_l2g_is_that_of_the_place(place):
    done = place.python("-c", "import l2g; print(l2g.__file__)")
    assert Path(done.stdout.strip()).parent == place.path / "l2g"


def test_the_wheel_has_the_command(wheel):
    assert (wheel / "bin" / "l2g").is_file()


def test_export_tells_its_stages_and_ends_with_a_table(made):
    stages = re.findall(r"^\[(\d)/(\d)\] (.+) \(\d+\.\d s\)$", (made / "export.err").read_text(), re.MULTILINE)
    assert [int(place) for place, _, _ in stages] == list(range(1, len(stages) + 1))
    assert len(stages) == int(stages[0][1]) == 7
    assert [name for _, _, name in stages][1:3] == ["trace and fold", "lower"]
    first, header, *rows = (made / "export.out").read_text().splitlines()
    assert "MB, verified by onnxruntime" in first
    assert header.split() == ["quantity", "unit", "found", "limit", "ok"]
    assert [row.rpartition(" ")[2] for row in rows] == ["ok"] * 4
    for row in rows:
        found, limit = re.search(r"([\d.e-]+)\s+<= ([\d.e-]+)", row).groups()
        assert 0 < float(found) <= float(limit)


def test_commands_on_a_graph(place, made, tmp_path):
    graph, data = made / "model.onnx", made / "val"
    assert "input" in place.command("inspect", graph).stdout
    assert json.loads(place.command("inspect", graph, "--json").stdout)["contract"]["height"] == 96
    findings = json.loads(place.command("doctor", graph, "--json", "--library", "tensorrt-rtx").stdout)
    assert all(finding["severity"] != "refuse" for finding in findings)
    words = place.command("build", "--onnx", graph, "--output", tmp_path / "m.engine", "--print-trtexec").stdout
    assert f"--onnx={graph}" in words
    report = tmp_path / "scores.json"
    scores = place.command("evaluate", "--model", graph, "--dataset", data, "--report", report, "--quiet")
    assert scores.stderr == ""
    assert json.loads(report.read_text())["AP50"] > 0
    both = ["--reference", "l2g_tiny", "--candidate", graph, "--dataset", data, "--report", tmp_path / "parity"]
    assert place.command("parity", *both, "--quiet").stdout.splitlines()[0].endswith("PASS")
    assert (tmp_path / "parity" / "parity.html").stat().st_size > 1000


def test_demo_and_run(place, made, tmp_path):
    """The clip is found from wherever the command is run."""
    done = place.command("demo", "--model", made / "model.onnx", "--output", tmp_path / "demo", "--quiet")
    assert done.stdout.startswith("90 frames in")
    assert float(re.search(r"against the clip's annotation: AP ([\d.]+)", done.stdout)[1]) > 0
    clip = place.path / "l2g" / "demo" / "clip.mp4"
    arguments = ["--model", made / "model.onnx", "--input", clip, "--output", tmp_path / "run", "--end", "0.19"]
    place.command("run", *arguments)
    assert len((tmp_path / "run" / "frames.jsonl").read_text().splitlines()) == 3
    truth, results = place.path / "l2g" / "demo" / "annotation.json", tmp_path / "demo" / "results.json"
    table = place.command("metrics", "vis-ap", "--ground-truth", truth, "--results", results).stdout
    assert re.search(r"^AP50\s+\d", table, re.MULTILINE)


def test_data_check(place, made):
    assert "1 videos" in place.command("data", "check", made / "val").stdout
    done = place.command("data", "check", made / "none", code=2)
    assert done.stderr.startswith("error: no data set")


def test_commands_that_need_more_than_a_test_has(place, made, tmp_path):
    """Their work is tested where their rooms are; here that they start, and refuse what is not there."""
    engine = ["--engine", tmp_path / "no.engine", "--onnx", made / "model.onnx"]
    assert "no.engine" in place.command("verify", *engine, code=2).stderr
    files = ["--ckpt", made / "model.onnx", "--dataset", tmp_path / "none", "--output", tmp_path / "int8.onnx"]
    assert "no data set" in place.command("quantize", *files, code=2).stderr
    assert "no.yaml" in place.command("train", "--config", "no.yaml", "--output", tmp_path / "run", code=2).stderr
    assert "no.json" in place.command("gpu-check", "--compare", "no.json", "no.json", code=2).stderr
    panoptic = ["--ground-truth", "no.json", "--ground-truth-maps", "no", "--results", "no"]
    for name in ("vpq", "stq"):
        assert place.command("metrics", name, *panoptic, code=2).stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help(place, command):
    first = place.l2g(*command.name.split(), "--help").stdout.splitlines()[0]
    assert first.startswith(f"usage: l2g {command.name} ")


@pytest.mark.parametrize("name", DOORS)
def test_doors_in_the_clone(clone, name):
    assert clone.python(DOORS[name], "--help").stdout.startswith(f"usage: l2g {name} ")


@pytest.mark.parametrize("module", MODULES)
def test_doors_among_the_modules(place, module):
    assert place.python("-m", module, "--help").stdout.startswith(f"usage: l2g {MODULES[module]} ")


def test_torchrun_finds_the_training(place):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "1"]
    done = place.python(*launcher, "-m", "l2g.training.train", "--help")
    assert done.stdout.startswith("usage: l2g train ")


@pytest.mark.parametrize("door", [*DOORS.values(), "export/precision_emulate.py"])
def test_a_door_without_an_installed_l2g_says_how_to_install_it(door, tmp_path):
    """-I -S: no PYTHONPATH, no site-packages, as in a fresh interpreter."""
    command = [sys.executable, "-I", "-S", str(CHECKOUT / door), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"error: l2g is not installed in this Python; .*: pip install -e '\.\[\w+\]'\n", done.stderr)
