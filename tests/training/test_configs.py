"""Every shipped config trains: a few iterations on made-up data in the data set's own layout, with a small model."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from l2g import load_checkpoint
from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.synthetic.panoptic import CATEGORIES, write_panoptic
from l2g.errors import ConfigError
from l2g.training.config import load_config
from l2g.training.trainer import Trainer
from tests.training.small import SMALL, small


def once(config, changes, folder):
    """One iteration of every phase."""
    phases = load_config(config).phases
    shrink = [f"phases.{i}.{key}" for i in range(len(phases)) for key in ("iterations=1", "batch_size=2")]
    trainer = Trainer(load_config(config, [*small(), *shrink, *changes]), folder / "run")
    return load_checkpoint(trainer.run()), trainer


@pytest.mark.parametrize("config", ["youtube_vis_2019_r50", "youtube_vis_2021_r50", "ovis_r50"])
def test_video_configs(config, tmp_path):
    drawn = write_synthetic(tmp_path / "drawn", "train", videos=2, frames=8, size=(64, 96))
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (drawn / "JPEGImages").rename(root / "train" / "JPEGImages")
    name = "annotations_train.json" if config.startswith("ovis") else "train.json"
    (drawn / "instances.json").rename(root / name)
    changes = [f"data.root={root}", "data.augment.shortest_edge=[48, 64]", "precision=bf16", "loss.num_points=128"]
    model, trainer = once(config, changes, tmp_path)
    assert "disc" in " ".join(model.config.class_names)
    assert trainer.progress.phase == 2


@pytest.mark.parametrize("config", ["vipseg_r50", "synthetic_tiny_panoptic"])
def test_panoptic_configs(config, tmp_path):
    """Things and stuff alike, read from files in VIPSeg's layout or drawn on the fly."""
    changes = [small(num_classes=12)[1], "precision=bf16", "loss.num_points=128"]
    if config == "vipseg_r50":
        root = write_panoptic(tmp_path / "set", "train", videos=2, frames=8, size=(64, 96))
        changes += [f"data.root={root}", "data.augment.shortest_edge=[48, 64]"]
    model, trainer = once(config, changes, tmp_path)
    assert model.config.class_names == tuple(category.name for category in CATEGORIES)
    assert trainer.progress.phase == len(trainer.config.phases)


def test_coco_config(tmp_path):
    root = tmp_path / "coco"
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(3):
        picture = rng.integers(0, 255, (80, 120, 3), np.uint8)
        mask = np.zeros((80, 120), np.uint8)
        mask[20:60, 30:80] = 1
        picture[mask > 0] = 200
        cv2.imwrite(str(root / "train2017" / f"{i}.jpg"), picture)
        images.append({"id": i + 1, "file_name": f"{i}.jpg", "height": 80, "width": 120})
        code = coco.encode(np.asfortranarray(mask))
        annotations.append(
            {
                "id": i + 1, "image_id": i + 1, "category_id": 1 + i % 2, "iscrowd": 0, "area": 2000,
                "bbox": [30, 20, 50, 40],
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
        )  # fmt: skip
    data = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    changes = [f"data.root={root}", "data.augment.shortest_edge=[48, 64]", "precision=fp32", "loss.num_points=128"]
    changes.append(small(num_classes=2)[1])
    model, _ = once("coco_pretrain_r50", changes, tmp_path)
    assert model.config.class_names == ("a", "b")


@pytest.mark.parametrize(
    "switch",
    [
        {"aligner": {**SMALL["aligner"], "ffn_dim": 16}},
        {"aligner": {**SMALL["aligner"], "ffn_dim": 64}},
        {"aligner": {**SMALL["aligner"], "local_position": "dynamic"}},
        {"aligner": None},
        {"trajectory": False},
    ],
    ids=["ffn-half", "ffn-double", "dynamic", "baseline", "no-trajectory"],
)
def test_the_papers_ablations_train_from_the_config(switch, tmp_path):
    phases = [
        f"phases=[{{kind: clip, iterations: 2, batch_size: 2, lr: 1.0e-3, clip_length: 3, supervised: {supervised}}}]"
        for supervised in ("null", "2")
    ]
    for index, phase in enumerate(phases):  # all frames supervised, and reduced supervision
        changes = [*small(**switch), phase]
        trainer = Trainer(load_config("synthetic_tiny", changes), tmp_path / f"run{index}")
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        after = load_checkpoint(trainer.run()).state_dict()
        moved = [name for name in after if not after[name].equal(before[name])]
        assert any(name.startswith("decoder.") for name in moved)
        if switch.get("trajectory") is False:
            assert "slot_boxes" in moved


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("phases.0.lr=[", "not a YAML file"),
        ("phases.0.lr=.nan", r"phases\.0\.lr nan"),
        ("phases.0.lr=.inf", r"phases\.0\.lr inf"),
        ("phases.0.lr=-1", r"phases\.0\.lr -1"),
        ("phases.0.lr=1e30", r"phases\.0\.lr 1e\+30"),
        ("phases.0.batch_size=0", r"phases\.0\.batch_size 0"),
        ("phases.0.clip_length=0", r"clip_length 0"),
        ("phases.0.iterations=-1", "iterations -1"),
        ("phases.0.hold=-1", "hold -1"),
        ("log_every=0", "log_every 0"),
        ("save_every=0", "save_every 0"),
        ("seed=-1", "seed -1"),
        ("ema=2", "ema 2"),
        ("clip_norm=0", "clip_norm 0"),
        ("loss.num_points=-1", "num_points -1"),
        ("loss.num_points=100000000000", r"num_points 1e\+11"),
        ("loss.mask=.nan", "loss.mask nan"),
        ("data.workers=100000", "data.workers 100000"),
        ("data.augment.canvas=[3200000, 32]", "canvas 3.2e"),
        ("data.stride=[3, 1]", r"data\.stride 3, 1"),
        ("phases=[]", "phases: none"),
        ("=1", "unknown field"),
        ("weight_decay=" + "9" * 400, "weight_decay"),
        ("a" * 100_000 + ".b=1", "unknown field"),
        ("phases.0." + "a" * 100_000 + "=1", "unknown field"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused_before_it(change, named):
    with pytest.raises(ConfigError, match=named) as error:
        load_config("synthetic_tiny", [change])
    assert len(str(error.value)) < 1500
