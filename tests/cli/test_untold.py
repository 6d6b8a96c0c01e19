"""What the tensors of a public checkpoint do not tell can be told wherever one is opened."""

import importlib
from types import SimpleNamespace

import pytest

import l2g
from l2g.batch.worker import Replica
from l2g.cli.arguments import Parser
from l2g.cli.making import export, inspect, quantize
from l2g.cli.running import batch, bench, evaluate, parity, run
from l2g.config import BOX_INITS
from l2g.demo import CLIP
from l2g.errors import CheckpointError
from l2g.runtime.backends.open import open_backend

DATA = ["--dataset", "synthetic:val", "--videos", "1", "--quiet"]
TOLD = {"num_queries": 7, "num_heads": 4, "box_init": "no"}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in TOLD.items()]
COMMANDS = {
    "bench": lambda file, out: bench.main([file, *DATA, *OPTIONS]),
    "evaluate": lambda file, out: evaluate.main(["--model", file, *DATA, *OPTIONS]),
    "export": lambda file, out: export.main(["--ckpt", file, "--output", f"{out}/m.onnx", *OPTIONS]),
    "inspect": lambda file, out: inspect.main([file, "--compile", *OPTIONS]),
    "candidate of parity": lambda file, out: parity.main(
        ["--reference", "none.onnx", "--candidate", file, "--report", out, *DATA, *OPTIONS]
    ),
    "reference of parity": lambda file, out: parity.main(
        ["--reference", file, "--candidate", file, "--report", out, *DATA, *OPTIONS]
    ),
    "quantize": lambda file, out: quantize.main(["--ckpt", file, "--output", f"{out}/m.onnx", *DATA, *OPTIONS]),
    "run": lambda file, out: run.main(["--model", file, "--input", str(CLIP), "--output", out, *OPTIONS]),
}


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What `load_checkpoint` is told of a file."""
    found = {}

    def load(path, **given):
        found.update(given)
        raise CheckpointError("that is enough")

    graph = SimpleNamespace(contract=SimpleNamespace(height=96, width=160), close=lambda: None)
    monkeypatch.setattr("l2g.runtime.backends.open._open_graph", lambda *_, **__: graph)
    (tmp_path / "m.pth").touch()
    monkeypatch.setattr(importlib.import_module("l2g.checkpoint"), "load_checkpoint", load)
    # In this process, and not in the one that measures a start.
    monkeypatch.setattr("l2g.evaluation.bench.candidates.start_of", lambda model, how, kept: open_backend(model, **how))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_opens_one_is_told(command, told, tmp_path, capsys):
    assert COMMANDS[command](str(tmp_path / "m.pth"), str(tmp_path)) == 2
    assert "that is enough" in capsys.readouterr().err
    assert TOLD.items() <= told.items()


def test_so_are_the_workers_of_a_batch(told, tmp_path):
    parser = Parser()
    batch.add_arguments(parser)
    words = ["--model", str(tmp_path / "m.pth"), "--input", "none", "--output", str(tmp_path), *OPTIONS]
    replica = Replica(batch.settings_of(parser.parse_args(words)), str(tmp_path), 1)
    with pytest.raises(CheckpointError, match="that is enough"):
        replica.ready()
    assert TOLD.items() <= told.items()


@pytest.mark.parametrize("function", ["Tracker", "process_video", "export_onnx", "quantize"])
def test_so_are_functions(function, told, tmp_path):
    others = {
        "Tracker": (),
        "process_video": (CLIP, tmp_path / "out"),
        "export_onnx": (tmp_path / "m.onnx",),
        "quantize": ("synthetic:val", tmp_path / "m.onnx"),
    }
    with pytest.raises(CheckpointError, match="that is enough"):
        getattr(l2g, function)(tmp_path / "m.pth", *others[function], **TOLD)
    assert TOLD.items() <= told.items()


IDLE = {
    "bench": lambda *option: bench.main(["a.onnx", "b.engine", *option]),
    "inspect": lambda *option: inspect.main(["a.onnx", *option]),
    "parity": lambda *option: parity.main(
        ["--reference", "a.onnx", "--candidate", "b.engine", "--report", "r", *DATA, *option]
    ),
    "quantize": lambda *option: quantize.main(["--ckpt", "a.onnx", "--output", "b.onnx", *DATA, *option]),
}


@pytest.mark.parametrize("choice", BOX_INITS)
@pytest.mark.parametrize("command", IDLE)
def test_no_graph_is_told(command, choice, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert IDLE[command]("--box-init", choice) == 2
    assert "--box-init given, which has no effect here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
