"""A run: its phases, its files, and going on after an interruption as if nothing had happened."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from l2g import build_model, load_checkpoint, save_checkpoint
from l2g.errors import CheckpointError, ConfigError, DataError
from l2g.training.config import SHIPPED, PhaseConfig, load_config
from l2g.training.optimiser import build_optimiser, rate_factor
from l2g.training.start import build_start
from l2g.training.trainer import Trainer, TrainingError
from tests.training.small import SMALL

CLASSES = tuple(f"class {i}" for i in range(8))
RUN = {
    "model": "l2g_tiny",
    "overrides": {**SMALL, "backbone": {**SMALL["backbone"], "blocks": [1, 1, 1, 1]}, "input_size": [64, 96]},
    "data": {"augment": {"canvas": [64, 96], "flip": 0.5}},
    "loss": {"num_points": 64},
    "clip_norm": 1.0,
    "save_every": 2,
    "log_every": 1,
    "phases": [
        {"kind": "image", "iterations": 3, "batch_size": 2, "lr": 1e-3, "train_batch_norm": True, "denoising": 10},
        {"kind": "align", "iterations": 2, "batch_size": 2, "lr": 1e-3},
        {"kind": "clip", "iterations": 3, "batch_size": 2, "lr": 1e-3, "clip_length": 3, "supervised": 2},
        {"kind": "clip", "iterations": 4, "batch_size": 2, "lr": 1e-3, "clip_length": 4, "window": 2},
    ],
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def run(config, output):
    """Run to the end or to an interruption; every iteration's losses."""
    trainer = Trainer(config, output)
    rows = []
    trainer._log = lambda writer, bar, losses, norm, factor: rows.append((trainer.progress.phase, losses, norm))
    return trainer, rows, trainer.run()


def test_an_interrupted_run_computes_what_an_uninterrupted_one_does(config_file, tmp_path):
    config = load_config(str(config_file))
    _, expected, whole = run(config, tmp_path / "whole")
    assert [phase for phase, _, _ in expected] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    rows = []
    for stop_after in (2, 4, 7, 9, None):  # in every phase, between two, and within a clip: after its last window
        trainer = Trainer(config, tmp_path / "parts")

        def log(writer, bar, losses, norm, factor, trainer=trainer, stop_after=stop_after):
            rows.append((trainer.progress.phase, losses, norm))
            if len(rows) == stop_after:
                trainer._request_stop()

        trainer._log = log
        result = trainer.run()
    assert rows == expected
    a, b = load_checkpoint(whole).state_dict(), load_checkpoint(result).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    # A run that has ended can be given another phase.
    longer = Trainer(dataclasses.replace(config, phases=(*config.phases, config.phases[2])), tmp_path / "parts")
    assert (longer.progress.phase, longer.progress.iteration) == (4, 0)
    assert all(torch.equal(value, b[name]) for name, value in longer.model.state_dict().items())


def test_a_killed_process_goes_on(config_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "l2g.training.train",
        "--config",
        str(config_file),
        "--output",
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    changes = ["save_every=1", "phases.0.iterations=40"]
    process = subprocess.Popen([*command, *changes], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "resume.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]
    assert before["phase"] == 0
    assert before["iteration"] >= 1
    finished = subprocess.run([*command, *changes], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").config.num_queries == 10


def test_a_run_that_cannot_read_a_frame_keeps_what_it_carries(config_file, tmp_path, monkeypatch):
    """Alone nobody waits for it: a clip in windows goes on in its middle."""
    trainer = Trainer(load_config(str(config_file)), tmp_path / "run")
    saved = []
    monkeypatch.setattr(trainer, "_save_resume", lambda *_, together: saved.append(together))
    with pytest.raises(DataError, match="goes on from"), trainer._saved_if_unreadable(None, None, None, None):
        raise DataError("frame")
    assert saved == [True]


def test_a_run_of_a_version_that_kept_other_groups_says_so(config_file, tmp_path):
    stop_after = load_config(str(config_file), ["save_every=1"])
    trainer = Trainer(stop_after, tmp_path / "run")
    trainer._stop = True
    assert trainer.run() is None
    path = tmp_path / "run/resume.pt"
    kept = torch.load(path, weights_only=True)
    kept["optimiser"]["param_groups"][0]["params"].append(10_000)
    torch.save(kept, path)
    with pytest.raises(CheckpointError, match=r"resume.pt: of another version of l2g"):
        Trainer(stop_after, tmp_path / "run").run()


def test_the_checkpoint_knows_the_classes_and_is_frozen(config_file, tmp_path):
    _, _, path = run(load_config(str(config_file)), tmp_path / "run")
    model = load_checkpoint(path)
    assert "star" in " ".join(model.config.class_names)
    statistics = model.backbone.stem.conv1.norm.running_var
    assert not torch.equal(statistics, torch.ones_like(statistics))  # learned in phase 0


def test_only_what_is_to_come_may_be_planned_anew(config_file, tmp_path):
    config = load_config(str(config_file))
    trainer = Trainer(config, tmp_path / "run")
    trainer._log = lambda *_: trainer._request_stop()
    assert trainer.run() is None
    Trainer(load_config(str(config_file), ["phases.2.iterations=9"]), tmp_path / "run")
    for change in ("phases.0.lr=1", "seed=5", "data.augment.flip=0"):
        with pytest.raises(TrainingError, match="another"):
            Trainer(load_config(str(config_file), [change]), tmp_path / "run")
    (tmp_path / "run" / "resume.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="remove it to start again"):
        Trainer(config, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(config_file, tmp_path):
    trainer = Trainer(load_config(str(config_file)), tmp_path / "run")
    with torch.no_grad():
        trainer.model.heads.class_embed.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="phase 0, iteration 0"):
        trainer.run()


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_rates(schedule):
    phase = PhaseConfig("image", 100, warmup=10, schedule=schedule, milestones=(50, 80), hold=0.5, floor=0.01)
    assert rate_factor(phase, 0) == pytest.approx(0.1)
    assert rate_factor(phase, 20) == 1
    if schedule == "step":
        assert rate_factor(phase, 50) == pytest.approx(0.1)
        assert rate_factor(phase, 80) == pytest.approx(0.01)
    else:
        assert rate_factor(phase, 75) == pytest.approx(0.505)
        assert rate_factor(phase, 100) == pytest.approx(0.01)


def test_every_parameter_is_in_exactly_one_group():
    shipped = load_config("youtube_vis_2019_r50")
    config = dataclasses.replace(shipped, model="l2g_tiny", overrides={}, init=None)
    model = build_start(config, CLASSES).model
    optimiser = build_optimiser(model, config, config.phases[1])
    found = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    slow = {group["lr"] for group in optimiser.param_groups}
    assert slow == {5e-5, 5e-6}
    decayed = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    assert id(model.heads.norm.weight) not in decayed
    assert id(model.heads.class_embed.weight) in decayed


def test_the_biases_of_a_windows_positions_are_not_decayed():
    swin = {"embed_dim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 3}
    config = dataclasses.replace(load_config("synthetic_tiny"), overrides={"backbone": swin})
    model = build_start(config, CLASSES).model
    groups = build_optimiser(model, config, config.phases[0]).param_groups
    decayed = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
    named = {name: decayed[id(p)] for name, p in model.named_parameters()}
    tables = [name for name in named if name.endswith("relative_position_bias_table")]
    assert len(tables) == 4
    assert not any(named[name] for name in tables)
    assert named[tables[0].replace("relative_position_bias_table", "qkv.weight")]


def test_a_phase_says_how_fast_the_backbone_learns(config_file):
    config = dataclasses.replace(load_config(str(config_file)), offset_lr=0.5)
    phase = PhaseConfig(kind="image", iterations=1, lr=2.0, backbone_lr=0.25)
    model = build_start(config, CLASSES).model
    rates = {id(p): g["lr"] for g in build_optimiser(model, config, phase).param_groups for p in g["params"]}
    parts = {0.5: "backbone.", 1.0: "sampling_offsets", 2.0: ""}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {name: next(rate for rate, part in parts.items() if part in name) for name in found}
    assert found == expected


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_configs_have_the_papers_numbers(name):
    config = load_config(name)
    if name.startswith(("synthetic", "finetune")) or name == "coco_pretrain_r50":
        return
    align, clip = config.phases
    assert (align.kind, align.iterations) == ("align", 60000)
    assert (clip.iterations, clip.milestones, clip.batch_size, clip.lr, clip.clip_length) == (
        120000,
        (60000,),
        8,
        5e-5,
        4,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["phases.0.rate=1"], "unknown field phases.0.rate"),
        (["phases.0.lr=fast"], "phases.0.lr: 'fast' found, expected float"),
        (["phases.9.lr=1"], "'phases.9.lr' names no field"),
        (["data.augment.canvas=[96]"], "data.augment.canvas: .* expected 2 values"),
        (["phases.2.supervised=1"], "at least two frames"),
        (["phases.3.window=3"], "phases.3.window is 3; expected one that divides clip_length 4"),
        (["phases.3.window=0"], "at least 1 expected"),
        (["seed"], "expected key=value"),
        (["phases.0.kind=video"], "expected image, align or clip"),
    ],
)
def test_wrong_configs_are_refused_by_field(config_file, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(str(config_file), changes)


def test_class_counts_and_foreign_weights_are_refused(config_file, tmp_path):
    config = load_config(str(config_file), ["overrides.num_classes=5"])
    with pytest.raises(ConfigError, match="5 classes, the data set 8"):
        Trainer(config, tmp_path / "run")
    save_checkpoint(build_model("l2g_tiny", num_classes=8), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="tensors do not fit"):
        Trainer(load_config(str(config_file), [f"init={tmp_path / 'other.safetensors'}"]), tmp_path / "run2")


def test_a_baseline_checkpoint_gets_a_fresh_quiet_aligner(config_file, tmp_path):
    baseline = build_model("l2g_tiny", **{**SMALL, "aligner": None})
    save_checkpoint(baseline, tmp_path / "baseline.safetensors")
    start = build_start(load_config(str(config_file), [f"init={tmp_path / 'baseline.safetensors'}"]), CLASSES)
    model, fresh = start.model, start.fresh
    assert fresh
    assert all(name.startswith("aligner.") for name in fresh)
    assert model.aligner.layers[0].cross_attn.out_proj.weight.abs().sum() == 0
    assert torch.equal(model.heads.mask_embed.layers[0].weight, baseline.heads.mask_embed.layers[0].weight)


def test_a_phase_says_whether_slots_carry_marks(config_file, tmp_path):
    """Put off, the losses are to the bit those of a model that has none."""
    phases = "phases=[{kind: clip, iterations: 1, batch_size: 2, lr: 1.0e-3, clip_length: 3, slot_marks: %s}]"
    plain = load_config(str(config_file), [phases % "true"])
    marked = [load_config(str(config_file), [phases % on, "overrides.slot_marks=0.3"]) for on in ("true", "false")]
    expected, on, off = (run(config, tmp_path / name)[1] for config, name in zip([plain, *marked], "abc", strict=True))
    assert off == expected
    assert on != expected
    weights = load_checkpoint(tmp_path / "c" / "model.safetensors")
    assert weights.slot_marks.std().item() == pytest.approx(0.3, rel=0.2)


def test_a_process_without_a_gpu_of_its_own_is_refused(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"process 2 .* 1 GPUs, one for each .* --nproc-per-node 1, .*CUDA_VISIBLE"):
        Trainer(load_config(str(config_file)), tmp_path / "run")


def test_two_processes_train_together(config_file, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone",
        "-m", "l2g.training.train", "--config", str(config_file), "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert load_checkpoint(tmp_path / "run" / "model.safetensors") is not None
