"""The demo on an edge device: the shipped model, exported, in a process that cannot import torch."""

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
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "l2g_tiny.onnx"
    export(load_checkpoint("l2g_tiny"), path)
    return path


def without_torch(*command):
    words = [sys.executable, "-c", SCRIPT, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=CHECKOUT)


def scores(text):
    return [float(number) for number in re.search(r"AP ([\d.]+), AP50 ([\d.]+)", text).groups()]


def test_the_demo_finds_without_torch_what_it_finds_with_it(graph, tmp_path):
    demo = CHECKOUT / "examples" / "demo.py"
    done = without_torch(demo, "--model", graph, "--output", tmp_path / "graph")
    assert done.returncode == 0, done.stderr
    for name in ("overlay.mp4", "results.json", "frames.jsonl"):
        assert (tmp_path / "graph" / name).stat().st_size > 1000
    command = [sys.executable, str(demo), "--output", str(tmp_path / "eager")]
    eager = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=CHECKOUT)
    assert eager.returncode == 0, eager.stderr
    assert scores(done.stdout) == pytest.approx(scores(eager.stdout), abs=0.1)
    assert scores(done.stdout)[1] > 0


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
