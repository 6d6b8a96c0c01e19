"""What a run does with its data: classes that come in another order, frames that cannot be read."""

import json
import shutil

import pytest
import torch
import yaml

from l2g import build_model, save_checkpoint
from l2g.cli.learning import train
from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.errors import DataError
from l2g.training.config import load_config
from l2g.training.dataset import open_dataset
from l2g.training.source import Batches, iterate
from l2g.training.start import CLASS_PARTS, build_start
from l2g.training.trainer import Trainer, TrainingError
from tests.training.small import SMALL

OTHER_ORDER = tuple(reversed(CLASS_NAMES))
RUN = {
    "model": "l2g_tiny",
    "overrides": {**SMALL, "backbone": {**SMALL["backbone"], "blocks": [1, 1, 1, 1]}, "input_size": [64, 96]},
    "data": {"source": "youtube_vis", "augment": {"canvas": [64, 96]}},
    "loss": {"num_points": 64},
    "log_every": 1,
    "phases": [{"kind": "clip", "iterations": 6, "batch_size": 2, "lr": 1e-3, "clip_length": 2}],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "whole"
    return write_synthetic(folder, "val", seed=3, videos=3, frames=4)


@pytest.fixture
def damaged(whole, tmp_path):
    """One video of three has a frame that is no picture."""
    shutil.copytree(whole, tmp_path / "damaged")
    frame = sorted((tmp_path / "damaged" / "JPEGImages").glob("*/*.jpg"))[5]
    frame.write_bytes(frame.read_bytes()[:200])
    return tmp_path / "damaged"


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return str(tmp_path / "run.yaml")


@pytest.fixture
def init(tmp_path):
    """A checkpoint of the small model with the classes of synthetic video, and its tensors."""
    torch.manual_seed(7)
    model = build_model("l2g_tiny", **{**RUN["overrides"], "num_classes": len(CLASS_NAMES), "class_names": CLASS_NAMES})
    torch.nn.init.normal_(model.heads.class_embed.bias)
    save_checkpoint(model, tmp_path / "init.safetensors")
    return str(tmp_path / "init.safetensors"), model.state_dict()


def started(config_file, init, names):
    return build_start(load_config(config_file, [f"init={init}", f"overrides.num_classes={len(names)}"]), names)


def test_the_same_classes_are_taken_over(config_file, init):
    path, given = init
    start = started(config_file, path, CLASS_NAMES)
    assert (start.fresh, start.note) == ((), "")
    assert all(torch.equal(value, given[name]) for name, value in start.model.state_dict().items())


def test_classes_in_another_order_take_their_rows_along(config_file, init):
    path, given = init
    start = started(config_file, path, OTHER_ORDER)
    assert start.fresh == ()
    assert "another order" in start.note
    found = start.model.state_dict()
    heads = [name for name in found if name.startswith(CLASS_PARTS)]
    assert len(heads) == 3  # weight and bias of the head, embeddings of the denoising queries
    for name, value in found.items():
        assert torch.equal(value, given[name].flip(0) if name in heads else given[name])


def test_other_classes_start_fresh(config_file, init):
    """Also where there are as many."""
    path, given = init
    start = started(config_file, path, tuple(f"thing {i}" for i in range(8)))
    heads = [name for name in start.model.state_dict() if name.startswith(CLASS_PARTS)]
    assert start.fresh == tuple(sorted(heads))
    assert "starts fresh" in start.note
    found = start.model.state_dict()
    assert not any((found[name][row] == given[name][row]).all() for name in heads for row in range(8))
    assert all(torch.equal(value, given[name]) for name, value in found.items() if name not in heads)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((*CLASS_NAMES[5:], "cat", "dog"), "3 of the data set's 5 classes"),
        (("cat", *OTHER_ORDER, "sky"), "8 of the data set's 10 classes"),
        (OTHER_ORDER[:5], "among others"),
    ],
)
def test_the_rows_of_classes_that_the_checkpoint_knows_are_taken_over(config_file, init, names, says):
    path, given = init
    start = started(config_file, path, names)
    found = start.model.state_dict()
    heads = [name for name in found if name.startswith(CLASS_PARTS)]
    assert says in start.note
    assert start.fresh == (() if set(names) <= set(CLASS_NAMES) else tuple(sorted(heads)))
    for row, name in enumerate(names):
        for head in heads:
            old = given[head][CLASS_NAMES.index(name)] if name in CLASS_NAMES else None
            assert old is None or torch.equal(found[head][row], old)
            assert old is not None or not (found[head][row] == given[head]).all(-1).any()


def test_a_checkpoint_that_names_no_classes_gives_no_class_head(config_file, tmp_path):
    model = build_model("l2g_tiny", **{**RUN["overrides"], "num_classes": 8})
    save_checkpoint(model, tmp_path / "nameless.safetensors")
    assert "starts fresh" in started(config_file, str(tmp_path / "nameless.safetensors"), CLASS_NAMES).note


def test_the_command_says_what_became_of_the_classes(config_file, init, whole, tmp_path, capsys):
    data = json.loads((whole / "instances.json").read_text())
    shutil.copytree(whole, tmp_path / "other")
    for kind in data["categories"]:
        kind["id"] = 9 - kind["id"]
    for mark in data["annotations"]:
        mark["category_id"] = 9 - mark["category_id"]
    (tmp_path / "other" / "instances.json").write_text(json.dumps(data))
    changes = [f"data.root={tmp_path / 'other'}", f"init={init[0]}", "phases.0.iterations=1"]
    assert train.main(["--config", config_file, "--output", str(tmp_path / "run"), *changes]) == 0
    assert capsys.readouterr().err.count("the rows of its class head were put into it") == 1


def test_a_run_does_not_go_on_with_other_classes(config_file, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "data")
    config = load_config(config_file, [f"data.root={tmp_path / 'data'}"])
    trainer = Trainer(config, tmp_path / "run")
    trainer._log = lambda *_: trainer._request_stop()
    assert trainer.run() is None
    Trainer(config, tmp_path / "run")
    data = json.loads((tmp_path / "data" / "instances.json").read_text())
    for kind in data["categories"]:
        kind["id"] = 9 - kind["id"]
    (tmp_path / "data" / "instances.json").write_text(json.dumps(data))
    with pytest.raises(TrainingError, match="another list of classes in its data set"):
        Trainer(config, tmp_path / "run")


# --- frames that cannot be read ---------------------------------------------------------------------------------------


def batches(config_file, root, *changes):
    config = load_config(config_file, [f"data.root={root}", *changes])
    return Batches(open_dataset(config.data), config.data, config.phases[0], (0, 0))


def test_batches_of_whole_videos_are_the_same(config_file, whole, damaged):
    expected = batches(config_file, whole)
    found = batches(config_file, damaged, "data.skip_broken=true")
    same = 0
    for iteration in range(12):
        one, other = expected[iteration], found[iteration]
        if not other.left_out:
            same += 1
            assert torch.equal(one.frames, other.frames)
            assert torch.equal(one.masks, other.masks)
    assert 0 < same < 12
    again = batches(config_file, damaged, "data.skip_broken=true")
    for iteration in (11, 3, 7):  # whenever and by whomever it is drawn
        assert torch.equal(again[iteration].frames, found[iteration].frames)
        assert again[iteration].left_out == found[iteration].left_out


@pytest.mark.parametrize("workers", [0, 1])
def test_training_goes_on_and_names_the_frame_once(config_file, damaged, tmp_path, capfd, workers):
    changes = [f"data.root={damaged}", f"data.workers={workers}", "phases.0.iterations=12"]
    command = ["--config", config_file, "--output", str(tmp_path / "run"), *changes]
    assert train.main(command) == 2
    error = capfd.readouterr().err
    assert "cut short" in error
    assert "data.skip_broken=true" in error
    assert "Traceback" not in error
    assert (tmp_path / "run" / "resume.pt").is_file()
    assert train.main([*command, "data.skip_broken=true"]) == 0  # from where it stopped
    printed = capfd.readouterr()
    assert printed.err.count("left out: frame") == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_an_error_of_a_worker_is_its_own(config_file, damaged):
    with pytest.raises(DataError, match=r"^frame '.*' is not a picture, or is cut short; unpack the frames again$"):
        list(iterate(batches(config_file, damaged), 0, 12, workers=1))


def test_a_data_set_without_a_whole_video_is_an_error(config_file, damaged):
    for frame in (damaged / "JPEGImages").glob("*/*.jpg"):
        frame.write_bytes(b"")
    with pytest.raises(DataError, match="none with an instance to learn from"):
        batches(config_file, damaged, "data.skip_broken=true")[0]
