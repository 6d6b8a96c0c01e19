"""The demo on an edge device: the shipped models, exported, in a process that cannot import torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.no_torch import BLOCK

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from l2g.checkpoint import load_checkpoint
from l2g.cli.running import evaluate
from l2g.data.synthetic.dataset import write_synthetic
from l2g.export.exporter import export

CHECKOUT = Path(__file__).parents[1]
# A script run under its own name, with the block in force before its first import.
SCRIPT = BLOCK + (
    "import runpy\n"
    "sys.argv = sys.argv[1:]\n"
    "try:\n"
    "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally:\n"
    "    assert not any(name.split('.')[0] == 'torch' for name in sys.modules)\n"
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """By name, of both shipped models."""
    folder = tmp_path_factory.mktemp("model")
    paths = {name: folder / f"{name}.onnx" for name in ("l2g_tiny", "l2g_tiny_panoptic")}
    for name, path in paths.items():
        export(load_checkpoint(name), path)
    return paths


@pytest.fixture(scope="module")
def graph(graphs):
    return graphs["l2g_tiny"]


def without_torch(*command):
    words = [sys.executable, "-c", SCRIPT, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=CHECKOUT)


def scores(text, line):
    """The numbers of the line that begins so."""
    (found,) = (row for row in text.splitlines() if row.startswith(line))
    return [float(number) for number in re.findall(r" ([\d.]+)(?:,|$)", found)]


def test_the_demo_finds_without_torch_what_it_finds_with_it(graphs, tmp_path):
    """Both halves: instances on the shipped clip, things and stuff on a drawn one."""
    demo = CHECKOUT / "examples" / "demo.py"
    command = [sys.executable, str(demo), "--output", str(tmp_path / "eager")]
    eager = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=CHECKOUT)
    assert eager.returncode == 0, eager.stderr
    halves = (
        ("l2g_tiny", "against the clip's annotation", "", ("overlay.mp4", "results.json", "frames.jsonl")),
        (
            "l2g_tiny_panoptic",
            "things and stuff against what was drawn",
            "panoptic",
            ("overlay.mp4", "pred.json", "panoptic.jsonl", "pan_pred/demo_0_0000/00000059.png"),
        ),
    )
    for name, line, folder, files in halves:
        done = without_torch(demo, "--model", graphs[name], "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        for output in (tmp_path / "eager", tmp_path / name):
            assert all((output / folder / file).stat().st_size > 500 for file in files)
        assert scores(done.stdout, line) == pytest.approx(scores(eager.stdout, line), abs=0.1)
        assert min(scores(done.stdout, line)) > 25


def test_evaluation_needs_no_torch(graph, tmp_path, capsys):
    data = write_synthetic(tmp_path / "val", "val", videos=1, frames=4)
    done = without_torch(CHECKOUT / "runtime" / "evaluate.py", "--model", graph, "--dataset", data)
    assert done.returncode == 0, done.stderr
    assert evaluate.main(["--model", str(graph), "--dataset", str(data)]) == 0
    assert done.stdout == capsys.readouterr().out


def test_a_checkpoint_there_is_one_clear_error(tmp_path):
    done = without_torch(CHECKOUT / "examples" / "demo.py", "--model", "l2g_tiny", "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "runs on PyTorch, but" in done.stderr
