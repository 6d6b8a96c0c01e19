"""Fine-tuning: what is held out, what is learned of a fresh head, what is kept, written down and reported."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from l2g import build_model, load_checkpoint, save_checkpoint
from l2g.cli.learning import train
from l2g.data.dataset import Category, VideoDataset, VideoObject
from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.youtube_vis import FileVideo
from l2g.errors import CheckpointError, ConfigError
from l2g.evaluation.run import Evaluation
from l2g.metrics.identities import IdentityReport
from l2g.metrics.vis_ap import evaluate_vis
from l2g.training.config import load_config
from l2g.training.dataset import parted
from l2g.training.examine import Examined
from l2g.training.journal import Journal
from l2g.training.report import build_report, write_report
from l2g.training.start import build_start
from l2g.training.trainer import Trainer
from tests.data.layouts import box_mask, compressed
from tests.training.small import SMALL

ROOT = Path(__file__).parents[2]
RUN = {
    "model": "l2g_tiny",
    "overrides": {**SMALL, "input_size": [64, 96]},
    "data": {"augment": {"canvas": [64, 96]}},
    "loss": {"num_points": 0},
    "log_every": 2,
    "evaluation": {"every": 2, "best": True},
    "phases": [{"kind": "image", "iterations": 8, "batch_size": 1, "lr": 1e-3}],
}


def config_of(tmp_path, *changes, **fields):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, **fields}))
    return load_config(str(path), changes)


def examined(ap):
    return Examined({"AP": ap, "AP50": ap, "AR10": ap}, [np.zeros((20, 40, 3), np.uint8)], None)


def test_held_out_videos_are_spread_and_never_learned_from():
    dataset = VideoDataset("there", (), list(range(12)))
    learned, held = parted(dataset, 0.17)
    assert list(held.videos) == [3, 9]
    assert sorted([*learned.videos, *held.videos]) == list(range(12))
    assert [len(part) for part in parted(dataset, 0)] == [12, 0]
    assert [len(part) for part in parted(VideoDataset("two", (), [1, 2]), 0.01)] == [1, 1]
    with pytest.raises(ConfigError, match="1 video; a second one"):
        parted(VideoDataset("one", (), [1]), 0.2)


def test_a_recipe_takes_the_checkpoints_architecture_and_the_datas_classes(tmp_path):
    given = build_model("l2g_tiny", **{**SMALL, "num_queries": 12, "slot_marks": 0.5})
    save_checkpoint(given, tmp_path / "given.safetensors")
    config = load_config("finetune_small", [f"init={tmp_path / 'given.safetensors'}"])
    start = build_start(config, ("heart", "bolt"))
    assert (start.model.config.num_classes, start.model.config.num_queries) == (2, 12)
    assert set(start.fresh) == {"heads.class_embed.weight", "heads.class_embed.bias", "label_embed.weight"}
    assert torch.equal(start.model.slot_marks, given.slot_marks)
    with pytest.raises(ConfigError, match="without a checkpoint"):
        build_start(load_config("finetune_small", ["init=null"]), ("heart",))


def test_an_image_model_learns_what_it_carries_and_keeps_it(tmp_path):
    """Clips through a carried state are for a model that carries it when it runs, too."""
    given = build_model("l2g_tiny", **{**SMALL, "aligner": None, "association": "embedding"})
    save_checkpoint(given, tmp_path / "image.safetensors")
    init = f"init={tmp_path / 'image.safetensors'}"
    config = load_config("finetune_small", [init])
    start = build_start(config, ("heart", "bolt"))
    assert start.model.config.association == "propagate"
    assert start.model.aligner.layers[0].linear1.out_features == 4 * start.model.config.hidden_dim
    images = load_config("finetune_small", [init, "phases=[{kind: image, iterations: 1, batch_size: 1, lr: 1.0e-3}]"])
    assert build_start(images, ("heart", "bolt")).model.config.association == "embedding"
    with pytest.raises(ConfigError, match="is of single images"):
        build_start(load_config("finetune_small", ["model=maskdino_r50", "init=null"]), ("heart", "bolt"))


@pytest.mark.parametrize("model", ["l2g_tiny", "init"])
def test_a_model_of_another_family_is_named_as_what_is_wrong(model, tmp_path):
    """And not the number of queries, which nobody has given."""
    pytest.importorskip("transformers")
    from tests.modeling.videomt.small import small_videomt

    save_checkpoint(small_videomt(), tmp_path / "videomt")
    config = load_config("finetune_small", [f"init={tmp_path / 'videomt'}", f"model={model}"])
    with pytest.raises(
        CheckpointError, match="a videomt model found; a run starts from a Local2Global or a Mask DINO"
    ) as error:
        build_start(config, ("heart", "bolt"))
    assert "num_queries" not in str(error.value)


def test_a_file_that_does_not_tell_its_queries_is_read_with_the_runs(tmp_path, monkeypatch):
    asked = []
    given = build_model("l2g_tiny", **{**SMALL, "num_queries": 12})

    def loaded(path, **how):
        asked.append(how)
        return given if how["num_queries"] else build_model("l2g_tiny", **{**SMALL, "num_queries": 30})

    monkeypatch.setattr("l2g.training.start.load_checkpoint", loaded)
    config = load_config("finetune_small", ["init=some.pth", "model=l2g_tiny"])
    config = dataclasses.replace(config, overrides={**SMALL, "num_queries": 12})
    start = build_start(config, ("heart", "bolt"))
    assert asked == [{"num_queries": None}, {"num_queries": 12}]
    assert torch.equal(
        start.model.state_dict()["proposals.output.weight"], given.state_dict()["proposals.output.weight"]
    )


@pytest.mark.parametrize(("names", "moves"), [(("a", "b"), True), (("same", "names"), False)])
def test_the_aligner_phase_trains_a_fresh_head_and_no_other(tmp_path, names, moves):
    given = build_model("l2g_tiny", **SMALL, num_classes=2, class_names=("same", "names"))
    save_checkpoint(given, tmp_path / "given.safetensors")
    phase = {"kind": "align", "iterations": 1, "batch_size": 1, "lr": 1e-3}
    config = config_of(tmp_path, f"init={tmp_path / 'given.safetensors'}", phases=[phase], evaluation={})
    trainer = Trainer.__new__(Trainer)
    start = build_start(config, names)
    trainer.config, trainer.model, trainer.fresh = config, start.model, start.fresh
    trainer._objective(config.phases[0])
    heads = ("heads.class_embed", "label_embed", "heads.mask_embed", "decoder.layers", "aligner.layers")
    trained = {p for p in heads if any(v.requires_grad for n, v in start.model.named_parameters() if n.startswith(p))}
    assert trained == {"aligner.layers"} | ({"heads.class_embed", "label_embed"} if moves else set())


def test_the_best_weights_are_kept_and_a_phase_ends_when_nothing_gets_better(tmp_path):
    scores = iter([10.0, 30.0, 20.0, 30.0, 5.0])
    seen = []

    def look(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return examined(next(scores))

    trainer = Trainer(config_of(tmp_path, "evaluation.patience=2", "phases.0.iterations=40"), tmp_path / "run", look)
    result = trainer.run()
    assert len(seen) == 4  # at 2, 4, 6 and 8: the last two were not better than 30
    final = load_checkpoint(result).state_dict()
    assert all(torch.equal(final[name], value) for name, value in seen[1].items())
    assert any(not torch.equal(final[name], value) for name, value in seen[3].items())
    assert trainer.progress.best == 30


def test_evaluations_see_the_average_where_there_is_one(tmp_path):
    models = []

    def look(model):
        models.append(model)
        return examined(1.0)

    trainer = Trainer(config_of(tmp_path, "ema=0.9"), tmp_path / "run", look)
    trainer.run()
    assert len(models) == 4
    assert all(model is not trainer.model for model in models)


def test_a_run_that_goes_on_keeps_one_table(tmp_path):
    config = config_of(tmp_path)
    trainer = Trainer(config, tmp_path / "run", lambda model: examined(12.5))
    log = trainer._log

    def stopping(*arguments):
        log(*arguments)
        if trainer.progress.iteration == 5:
            trainer._request_stop()

    trainer._log = stopping
    assert trainer.run() is None
    Trainer(config, tmp_path / "run", lambda model: examined(12.5)).run()
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [int(row["step"]) for row in rows if row["total"]] == [2, 4, 5, 6, 8]
    assert [int(row["step"]) for row in rows if row["AP"]] == [2, 4, 6, 8]
    for name in ("curves.png", "predictions.png"):
        assert cv2.imread(str(tmp_path / "run" / name)).shape[2] == 3


def test_rows_beyond_what_a_run_goes_on_from_are_gone(tmp_path):
    """A killed run wrote what its resume file does not know; it will be computed again."""
    journal = Journal(tmp_path)
    for step in (2, 4, 6):
        journal.losses(step, {"phase": 0, "iteration": step, "total": 1.0})
    journal.close()
    Journal(tmp_path, 4).close()
    assert [row["step"] for row in csv.DictReader((tmp_path / "history.csv").open())] == ["2", "4"]


def test_without_tensorboard_the_rest_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    journal = Journal(tmp_path)
    journal.losses(1, {"phase": 0, "iteration": 1, "total": 2.5})
    journal.close()
    assert (tmp_path / "history.csv").read_text().splitlines()[1].startswith("1,0,1,2.5")
    assert not (tmp_path / "events").exists()


def test_the_report_tells_classes_apart_by_hand_counted_objects(tmp_path):
    """Video 1: a cat found as a cat, a dog claimed to be a cat, and a cat where nothing is. Video 2: a dog missed."""
    left, right, none = box_mask(0, 0, 10, 10), box_mask(20, 0, 30, 10), box_mask(0, 14, 5, 20)

    def marked(number, label, mask):
        record = {"id": number, "category_id": label + 1, "iscrowd": 0, "areas": [int(mask.sum())]}
        record |= {"video_id": 1 if number < 3 else 2, "segmentations": [compressed(mask)]}
        return VideoObject(number, label, False, record["segmentations"], record)

    records = [{"id": n, "width": 40, "height": 24, "length": 1, "file_names": [f"{n}/0.png"]} for n in (1, 2)]
    objects = [(marked(1, 0, left), marked(2, 1, right)), (marked(3, 1, left),)]
    videos = [FileVideo(record, tmp_path, found) for record, found in zip(records, objects, strict=True)]
    dataset = VideoDataset("hand", (Category(1, "cat"), Category(2, "dog")), videos)
    results = [
        {"video_id": 1, "category_id": 1, "score": score, "segmentations": [compressed(mask)]}
        for score, mask in ((0.9, left), (0.8, right), (0.7, none), (0.4, none))
    ]
    truth = {"videos": records, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    truth["annotations"] = [o.record for found in objects for o in found]
    evaluation = Evaluation(evaluate_vis(truth, results), IdentityReport(), results)
    report = build_report(dataset, evaluation)
    assert report.confusion == ((1, 0, 0), (1, 0, 1), (1, 0, 0))
    assert [(c.name, c.AP, c.objects) for c in report.classes] == [("cat", 100.0, 1), ("dog", 0.0, 2)]
    assert [(v.name, v.AP, v.found, v.objects) for v in report.worst] == [("2", 0.0, 0, 1), ("1", 50.0, 2, 2)]
    write_report(report, dataset, results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # of frames that are not there: the truth on black
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["AP"] == report.AP == 50.0
    section = (ROOT / "docs/formats/reports.md").read_text().split("## The report of train")[1]
    named = set(re.findall(r"`(\w+)`", section))
    assert {*written, *written["classes"][0], *written["worst"][0]} <= named


def test_the_short_command_trains_and_a_signal_ends_it_within_an_iteration(tmp_path):
    """From a data set to a report by two options; SIGTERM in the middle of a clip in windows, then the same again."""
    write_synthetic(tmp_path / "data", "train", videos=4, frames=10, size=(64, 96))
    save_checkpoint(build_model("l2g_tiny", **SMALL, num_classes=3), tmp_path / "given.safetensors")
    clip = "{kind: clip, iterations: 160, batch_size: 1, lr: 1.0e-4, clip_length: 8, window: 1}"
    command = [
        sys.executable, "-m", "l2g", "train", "--data", str(tmp_path / "data"), "--init",
        str(tmp_path / "given.safetensors"), "--output", str(tmp_path / "run"), f"phases=[{clip}]",
        "data.augment.canvas=[64, 96]", "evaluation.every=1000", "log_every=1", "overrides.input_size=[64, 96]",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = b""
    while b" 1/160" not in said:  # as it comes: a bar's line ends where the next one begins, seconds later
        more = os.read(process.stderr.fileno(), 1000)
        assert more, said
        said += more
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 130, err
    assert "learning from 3 videos, scored on 1 others" in out
    stopped = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]["iteration"]
    assert f"stopped before iteration {stopped} of phase 0; the same command goes on from" in out
    assert stopped < 160
    assert time.monotonic() - sent < 30
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "AP " in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["classes"]) == 8
    assert (tmp_path / "run" / "report.html").stat().st_size > 2000


def test_a_command_without_data_and_config_says_what_it_needs(tmp_path, capsys):
    assert train.main(["--output", str(tmp_path / "run")]) == 2
    assert "neither --config nor --data" in capsys.readouterr().err
    assert train.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 2
    assert "no data set" in capsys.readouterr().err


def command_of(tmp_path, *changes):
    config_of(tmp_path)
    return ["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run"), *changes]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["evaluation.dataset=synthetic:train"], "not in the YouTube-VIS format"),
        (["evaluation.dataset=held_out", "data.held_out=0.2"], "has no end"),
        (["evaluation.every=0", "data.held_out=0.2"], "has no end"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_first_iteration(changes, said, tmp_path, capsys):
    assert train.main(command_of(tmp_path, *changes)) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("resume.pt"))


def test_a_frame_that_cannot_be_scored_costs_no_iteration(tmp_path, capsys):
    """The run is saved before it ends; with skip_broken, which may be added, the same command goes on."""
    write_synthetic(tmp_path / "val", "val", videos=3, frames=3, size=(64, 96))
    videos = sorted(path for path in (tmp_path / "val").rglob("*") if path.is_dir() and list(path.glob("*.[jp]*g")))
    sorted(videos[1].iterdir())[1].write_bytes(b"no picture")
    command = command_of(tmp_path, f"evaluation.dataset={tmp_path / 'val'}", "evaluation.every=3", "save_every=100")
    assert train.main(command) == 2
    error = capsys.readouterr().err
    assert f"the run goes on from {tmp_path / 'run/resume.pt'} when the frame is mended" in error
    kept = torch.load(tmp_path / "run/resume.pt", weights_only=True)["progress"]
    assert (kept["phase"], kept["iteration"]) == (0, 3)
    assert train.main([*command, "data.skip_broken=true"]) == 0
    with (tmp_path / "run/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows if row.get("AP")] == [3, 6, 8]
