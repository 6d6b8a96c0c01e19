"""The command: what it says of the data, its periodic evaluation, and the averaged weights that it saves."""

import re

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2g import load_checkpoint
from l2g.cli.learning import train
from l2g.cli.running import evaluate
from l2g.data.dataset import Problem, VideoDataset
from l2g.data.synthetic.dataset import write_synthetic
from l2g.training.config import load_config
from l2g.training.examine import Examined
from l2g.training.trainer import Trainer
from tests.data.layouts import write_youtube_vis, youtube_vis_json
from tests.training.small import SMALL

RUN = {
    "model": "l2g_tiny",
    "overrides": {**SMALL, "backbone": {**SMALL["backbone"], "blocks": [1, 1, 1, 1]}, "input_size": [64, 96]},
    "data": {"augment": {"canvas": [64, 96]}},
    "loss": {"num_points": 64},
    "log_every": 1,
    "phases": [
        {"kind": "image", "iterations": 3, "batch_size": 1, "lr": 1e-3, "train_batch_norm": True},
        {"kind": "clip", "iterations": 2, "batch_size": 1, "lr": 1e-3, "clip_length": 2},
    ],
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def recorded(trainer, seen):
    """Run, appending (phase, losses, a copy of the weights) to `seen` after every iteration."""

    def log(writer, bar, losses, norm, factor):
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        seen.append((trainer.progress.phase, losses, weights))

    trainer._log = log
    return trainer.run()


def test_broken_entries_that_are_left_out_are_named(tmp_path, config_file, capsys):
    write_youtube_vis(tmp_path / "data", youtube_vis_json())
    (tmp_path / "data/train/JPEGImages/dog/00001.png").unlink()
    changes = ["data.source=youtube_vis_2019", f"data.root={tmp_path / 'data'}", "overrides.num_classes=3"]
    command = ["--config", str(config_file), "--output", str(tmp_path / "run"), *changes]
    assert train.main(command) == 2
    assert "missing frame: dog" in capsys.readouterr().err
    assert train.main([*command, "data.skip_broken=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "left out" in line] == [
        "left out: missing frame: dog: no file 'dog/00001.png'; unpack the frames again"
    ]


def test_many_broken_entries_are_counted_and_what_is_merely_odd_is_not():
    problems = [Problem("missing frame", f"video {n}", "gone") for n in range(23)]
    problems.insert(5, Problem("category without instances", "cat", "never seen", fatal=False))
    lines = VideoDataset("there", (), (), tuple(problems)).left_out()
    assert lines[:20] == [f"left out: missing frame: video {n}: gone" for n in range(20)]
    assert lines[20:] == ["left out: 3 more; `l2g data check` lists them all"]
    assert VideoDataset("there", (), (), tuple(problems[5:6])).left_out() == []


def test_evaluation_comes_on_time_and_disturbs_nothing(tmp_path, config_file):
    config = load_config(str(config_file), ["evaluation.every=2"])
    plain, evaluated, calls = [], [], []

    def look(model):
        calls.append((trainer.progress.phase, trainer.progress.iteration, model.training))
        torch.rand(3)  # an evaluation may draw random numbers
        return Examined({"AP": 12.5 + len(calls)}, [], None)

    recorded(Trainer(config, tmp_path / "plain"), plain)
    trainer = Trainer(config, tmp_path / "evaluated", look)
    recorded(trainer, evaluated)
    assert calls == [(0, 2, False), (0, 3, False), (1, 2, False)]  # and at the end of each phase
    assert [losses for _, losses, _ in plain] == [losses for _, losses, _ in evaluated]
    events = EventAccumulator(str(tmp_path / "evaluated" / "events")).Reload()
    # Steps run on over the phases.
    assert [(event.step, event.value) for event in events.Scalars("evaluation/AP")] == [(2, 13.5), (3, 14.5), (5, 15.5)]


def test_the_commands_scores_are_those_of_evaluate(tmp_path, capsys):
    """The shipped model, held still by a rate of almost nothing: its AP is not zero."""
    data = write_synthetic(tmp_path / "val", "val", videos=2, frames=3)
    phase = {"kind": "clip", "iterations": 1, "batch_size": 1, "clip_length": 2, "lr": 1e-12}
    run = {"model": "l2g_tiny", "init": "l2g_tiny", "log_every": 1, "phases": [phase]}
    run |= {"loss": {"num_points": 64}, "evaluation": {"every": 1, "dataset": str(data), "videos": 2}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert train.main(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 0
    found = re.search(r"phase 0, iteration 1: \{'AP': ([\d.]+), 'AP50': ([\d.]+)", capsys.readouterr().out)
    weights = str(tmp_path / "run" / "phase0.safetensors")
    assert evaluate.main(["--model", weights, "--dataset", str(data)]) == 0
    table = dict(re.findall(r"^(AP\d*)\s+([\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert float(table["AP50"]) > 10
    assert [float(found[1]), float(found[2])] == pytest.approx([float(table["AP"]), float(table["AP50"])], abs=0.02)


def test_a_run_on_things_and_stuff_is_scored_by_vpq(tmp_path, capsys):
    phase = {"kind": "clip", "iterations": 1, "batch_size": 1, "clip_length": 2, "lr": 1e-12}
    data = {"source": "synthetic_panoptic"}
    run = {"model": "l2g_tiny_panoptic", "init": "l2g_tiny_panoptic", "data": data, "log_every": 1, "phases": [phase]}
    run |= {"overrides": {"slot_marks": 0.03}, "loss": {"num_points": 64}}
    run |= {"evaluation": {"every": 1, "dataset": "synthetic_panoptic:val", "videos": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert train.main(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 0
    found = re.search(r"'VPQ': ([\d.]+), 'VPQ_things': ([\d.]+), 'VPQ_stuff': ([\d.]+)", capsys.readouterr().out)
    assert evaluate.main(["--model", "l2g_tiny_panoptic", "--dataset", "synthetic_panoptic:val", "--videos", "1"]) == 0
    (row,) = re.findall(r"^mean 1,2,4,6 +([\d.]+) +([\d.]+) +([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    assert float(row[0]) > 10
    assert [float(n) for n in found.groups()] == pytest.approx([float(n) for n in row], abs=0.3)


def test_the_average_is_saved_and_survives_an_interruption(tmp_path, config_file):
    """phase0.safetensors holds 0.75 of the average so far and 0.25 of the weights, step after step."""
    config = load_config(str(config_file), ["ema=0.75", "phases.1.iterations=0"])
    seen = []
    recorded(Trainer(config, tmp_path / "whole"), seen)
    average = dict(seen[0][2])
    for _, _, weights in seen[1:]:
        average = {name: 0.75 * average[name] + 0.25 * value for name, value in weights.items()}
    saved = load_checkpoint(tmp_path / "whole" / "phase0.safetensors").state_dict()
    parameters = [name for name, _ in load_checkpoint(tmp_path / "whole" / "phase0.safetensors").named_parameters()]
    for name in parameters:
        torch.testing.assert_close(saved[name], average[name], rtol=1e-5, atol=1e-6, msg=name)
    largest = max((saved[name] - seen[-1][2][name]).abs().max() for name in parameters)
    assert largest > 1e-4  # not simply the last weights
    # Statistics are not averaged but those of the last iteration.
    name = "backbone.stem.conv1.norm.running_mean"
    assert torch.equal(saved[name], seen[-1][2][name])

    trainer = Trainer(config, tmp_path / "parts")
    trainer._log = lambda *_: trainer._request_stop()
    assert trainer.run() is None
    Trainer(config, tmp_path / "parts").run()
    again = load_checkpoint(tmp_path / "parts" / "phase0.safetensors").state_dict()
    assert all(torch.equal(again[name], value) for name, value in saved.items())
