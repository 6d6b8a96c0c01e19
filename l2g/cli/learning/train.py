"""Train a model.

    l2g train --config synthetic_tiny --output runs/tiny [key=value ...]

Several processes: `torchrun --nproc-per-node 2 -m l2g.training.train ...`. Interrupt it at any moment; the same command
goes on where it stopped. Exit code: 0 trained, 1 stopped in good order, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.entry import main_of
from l2g.files import locked

if TYPE_CHECKING:
    from l2g.data.dataset import VideoDataset
    from l2g.modeling.local2global import Local2Global
    from l2g.training.config import EvaluationConfig, TrainConfig


def scores(model: Local2Global, config: EvaluationConfig) -> dict[str, float]:
    """Video AP of the model as it is now, on the data set of the config, in percent; of things and stuff VPQ."""
    from l2g.evaluation.panoptic import evaluate_panoptic, is_panoptic
    from l2g.evaluation.run import evaluate_backend
    from l2g.runtime.backends.eager import EagerBackend

    dataset = evaluation_data(config)
    if is_panoptic(dataset):
        stats = evaluate_panoptic(EagerBackend(model), dataset, progress=False).stats()
        return {name: round(stats[name] or 0, 2) for name in ("VPQ", "VPQ_things", "VPQ_stuff")}
    report = evaluate_backend(EagerBackend(model), dataset, progress=False).report
    return {name: round(100 * report.stats[name], 2) for name in ("AP", "AP50", "AR10")}


def evaluation_data(config: EvaluationConfig) -> VideoDataset:
    """The data set that a run is evaluated on as it goes."""
    from l2g.data.registry import load_dataset

    dataset = load_dataset(config.dataset, "valid")
    return replace(dataset, videos=dataset.videos[: config.videos])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for weights, resume file and TensorBoard events"
    )
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="key=value",
        help="changes to the config, as in phases.0.lr=1e-3 (default: none)",
    )


def run(options: argparse.Namespace) -> int:
    from l2g.training.config import load_config

    config = load_config(options.config, options.changes)
    # One process of several holds the folder for all.
    with locked(options.output) if os.environ.get("RANK", "0") == "0" else nullcontext():
        return _train(config, options.output)


def _train(config: TrainConfig, output: Path) -> int:
    from l2g.data.classes import match_classes
    from l2g.training.trainer import Trainer

    trainer = Trainer(config, output, partial(scores, config=config.evaluation))
    if trainer.chief:
        for line in trainer.dataset.left_out():
            print(line, flush=True)
        if trainer.note:
            print(f"note: {trainer.note}", file=sys.stderr, flush=True)
    if trainer.fresh and trainer.chief:
        print(f"{len(trainer.fresh)} tensors start fresh, the first: {', '.join(trainer.fresh[:3])}")
    if trainer.chief and config.evaluation.every:
        # What cannot be evaluated is refused now, not after hours.
        match_classes(evaluation_data(config.evaluation), trainer.model.config.class_names)
    result = trainer.run()
    if trainer.chief:
        resume = trainer.output / "resume.pt"
        print(f"wrote {result}" if result else f"stopped; the same command goes on from {resume}")
    return 0 if result else 1


main = main_of("train")
