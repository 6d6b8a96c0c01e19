"""Your own classes in an afternoon, tried: 12 labelled clips of 3 shapes that no split of ours has.

    python benchmarks/finetune.py --output runs/finetune                  # from l2g_tiny, by the recipe finetune_small
    python benchmarks/finetune.py --output runs/finetune --from-scratch   # the same recipe and time from random weights

The clips are drawn by the generator of the synthetic splits with outlines of hearts, arrows and bolts. After the recipe
(or after `--minutes` of CPU time, all threads together) the weights are scored on 12 fresh clips. Interrupt it at any
moment: the same command goes on. Exit code 1: stopped, or the AP stays below `--target`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from l2g import load_checkpoint
from l2g.data.dataset import Category
from l2g.data.registry import load_dataset
from l2g.data.synthetic import dataset as drawing
from l2g.data.synthetic import scene, shapes, video
from l2g.files import write_json
from l2g.training.config import load_config
from l2g.training.dataset import open_dataset, parted
from l2g.training.examine import Examiner
from l2g.training.report import build_report, write_report
from l2g.training.trainer import Trainer

CLASSES = (("heart", "dots"), ("arrow", "stripes"), ("bolt", "checks"))
CLIPS, FRAMES = 12, 36
# The generator's colours say nothing of a class.
COLOURS = ("data.augment.hue=180",)
# From nothing the backbone learns as fast as the rest, its statistics too.
SCRATCH = (
    "model=l2g_tiny",
    "init=null",
    "phases.0.lr=1e-3",
    "phases.0.backbone_lr=1",
    "phases.0.train_batch_norm=true",
)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2], 1) / 17


def _arrow() -> np.ndarray:
    return np.array([(1, 0), (0.1, 0.85), (0.1, 0.35), (-0.95, 0.35), (-0.95, -0.35), (0.1, -0.35), (0.1, -0.85)])


def _bolt() -> np.ndarray:
    return np.array([(0.25, -1), (-0.6, 0.12), (-0.08, 0.12), (-0.25, 1), (0.6, -0.2), (0.1, -0.2), (0.62, -0.8)])


def draw(folder: Path) -> None:
    """`train` and `test`, 12 clips each: the generator with other outlines and a tag of their own."""
    if (folder / "test" / "instances.json").is_file():
        return
    shapes._VERTICES.update(heart=_heart, arrow=_arrow, bolt=_bolt)
    scene.CLASSES = CLASSES
    drawing.CATEGORIES = tuple(Category(n + 1, f"{texture} {shape}") for n, (shape, texture) in enumerate(CLASSES))
    recipe = scene.Recipe(objects=(2, 3))
    for tag, name in ((101, "train"), (102, "test")):
        video.SPLITS[name] = video.Split(tag=tag, frames=FRAMES, videos=CLIPS, recipe=recipe)
        if not (folder / name / "instances.json").is_file():
            drawing.write_synthetic(folder / name, name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--from-scratch", action="store_true", help="random weights in place of l2g_tiny's")
    parser.add_argument("--minutes", type=float, default=20, help="of CPU time, at most (default: %(default)s)")
    parser.add_argument("--target", type=float, default=60, help="AP in percent (default: %(default)s)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe")
    options = parser.parse_args(argv)
    draw(options.output / "data")
    name = "scratch" if options.from_scratch else "tuned"
    folder = options.output / name
    changes = [f"data.root={options.output / 'data' / 'train'}", "init=l2g_tiny", *COLOURS]
    config = load_config("finetune_small", [*changes, *(SCRATCH if options.from_scratch else ()), *options.changes])
    spent = _Spent(folder / "cpu_seconds.json")
    held_out = parted(open_dataset(config.data), config.data.held_out)[1]
    trainer = Trainer(config, folder, Examiner(held_out))
    learn = trainer._learn

    def counted(*arguments) -> None:
        learn(*arguments)
        if spent.seconds() > 60 * options.minutes:
            trainer._request_stop()

    trainer._learn = counted  # type: ignore[method-assign]
    weights = trainer.run()
    spent.save()
    if weights is None:
        if spent.seconds() < 60 * options.minutes:
            print("stopped; the same command goes on")
            return 1
        weights = folder / "best.safetensors"
    fresh = load_dataset(options.output / "data" / "test")
    found = Examiner(fresh, pictures=4)(load_checkpoint(weights))
    report = build_report(fresh, found.evaluation)
    write_report(report, fresh, found.evaluation.results, folder)
    write_json(folder / "result.json", {"AP": report.AP, "AP50": report.AP50, "cpu_minutes": spent.seconds() / 60})
    print(f"{name}: {report.summary()}\n{spent.seconds() / 60:.1f} CPU minutes")
    return 0 if (report.AP or 0) >= options.target else 1


class _Spent:
    """CPU seconds of all processes that worked on a run, kept in a file."""

    def __init__(self, file: Path):
        self._file = file
        self._before = json.loads(file.read_text()) if file.is_file() else 0.0
        file.parent.mkdir(parents=True, exist_ok=True)

    def seconds(self) -> float:
        return self._before + time.process_time()

    def save(self) -> None:
        self._file.write_text(json.dumps(self.seconds()))


if __name__ == "__main__":
    sys.exit(main())
