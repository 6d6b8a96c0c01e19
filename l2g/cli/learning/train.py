"""Train a model, or fine-tune one on data of your own.

    l2g train --config synthetic_tiny --output runs/tiny [key=value ...]
    l2g train --data DATASET --init l2g_tiny --output runs/own

The second form is a short recipe (finetune_small; finetune_r50 for a GPU) on any data set that l2g reads: a folder in
the layout of YouTube-VIS, COCO per frame, CVAT's or Label Studio's video export, MOTS, masks in folders, or FORMAT:DIR.
Some videos are held out, and AP on them is told as the run goes; the best weights are kept.

Several processes: `torchrun --nproc-per-node 2 -m l2g.training.train ...`. Interrupt it at any moment; the same command
goes on where it stopped. Exit code: 0 trained, 2 bad input, 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from l2g.cli.entry import INTERRUPTED, main_of
from l2g.errors import ConfigError
from l2g.files import locked

if TYPE_CHECKING:
    from l2g.data.dataset import VideoDataset
    from l2g.modeling.local2global import Local2Global
    from l2g.training.config import TrainConfig
    from l2g.training.examine import Examiner
    from l2g.training.trainer import Trainer

RECIPE = "finetune_small"
HELD_OUT = "held_out"


def evaluation_data(config: TrainConfig) -> VideoDataset:
    """The data set that a run is evaluated on as it goes."""
    from l2g.data.registry import load_dataset
    from l2g.training.dataset import open_dataset, parted

    settings = config.evaluation
    if settings.dataset == HELD_OUT:
        dataset = parted(open_dataset(config.data), config.data.held_out)[1]
        if not len(dataset):
            raise ConfigError("evaluation.dataset is held_out, and no videos are; set data.held_out=0.2")
    else:
        data = config.data
        dataset = load_dataset(
            settings.dataset, "valid", skip_broken=data.skip_broken, allow_outside=data.allow_outside
        )
    return replace(dataset, videos=dataset.videos[: settings.videos])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", help=f"a YAML file, or the name of a shipped config (default: {RECIPE} where --data is given)"
    )
    parser.add_argument(
        "--data", metavar="DATASET", help="what to learn from: a directory or FORMAT:DIR (default: the config's)"
    )
    parser.add_argument(
        "--val", metavar="DATASET", help="what AP is measured on (default: the config's; the recipes hold videos out)"
    )
    parser.add_argument("--init", metavar="CKPT", help="the weights to start from (default: the config's)")
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

    config = load_config(options.config or _recipe(options), [*_changes(options), *options.changes])
    if options.val and not config.evaluation.every:
        raise ConfigError(f"--val {options.val} given, but the config measures nothing; add evaluation.every=500")
    # One process of several holds the folder for all.
    with locked(options.output) if os.environ.get("RANK", "0") == "0" else nullcontext():
        return _train(config, options.output)


def _recipe(options: argparse.Namespace) -> str:
    if not options.data:
        raise ConfigError("neither --config nor --data found; give a config, or the data to fine-tune on")
    return RECIPE


def _changes(options: argparse.Namespace) -> list[str]:
    """What --data, --val and --init mean for the config."""
    from l2g.data.registry import split_source

    changes: dict[str, str | float] = {}
    if options.data:
        changes["data.source"], changes["data.root"] = split_source(options.data)
    if options.val:
        changes |= {"evaluation.dataset": options.val, "data.held_out": 0.0}
    if options.init:
        changes["init"] = options.init
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _train(config: TrainConfig, output: Path) -> int:
    from l2g.training.examine import Examiner
    from l2g.training.trainer import Trainer

    evaluation, examiner = config.evaluation, None
    if evaluation.every:
        examiner = Examiner(evaluation_data(config), evaluation.pictures, config.data.skip_broken)
    trainer = Trainer(config, output, examiner)
    if trainer.chief:
        for line in trainer.dataset.left_out():
            print(line, flush=True)
        if trainer.note:
            print(f"note: {trainer.note}", file=sys.stderr, flush=True)
    if trainer.fresh and trainer.chief:
        print(f"{len(trainer.fresh)} tensors start fresh, the first: {', '.join(trainer.fresh[:3])}")
    if trainer.chief and examiner is not None:
        # What cannot be evaluated is refused now, not after hours.
        examiner.check(trainer.model.config.class_names)
        count = f"{len(trainer.dataset)} videos" if config.data.root else "drawn video"
        print(f"learning from {count}, scored on {len(examiner.dataset)} others", flush=True)
    result = trainer.run()
    if trainer.chief:
        print(f"wrote {result}" if result else _stopped(trainer), flush=True)
        if result and examiner is not None:
            _report(result, examiner, trainer.output)
    return 0 if result else INTERRUPTED


def _stopped(trainer: Trainer) -> str:
    place = trainer.progress
    return (
        f"stopped before iteration {place.iteration} of phase {place.phase}; the same command goes on from "
        f"{trainer.output / 'resume.pt'}"
    )


def _report(weights: Path, examiner: Examiner, output: Path) -> None:
    """What the weights of the run are worth, as files and in a few lines."""
    from l2g.checkpoint import load_checkpoint
    from l2g.training.report import build_report, write_report

    found = examiner(cast("Local2Global", load_checkpoint(weights)))
    if found.evaluation is None:
        print(", ".join(f"{name} {score:.1f}" for name, score in found.scores.items()))
        return
    report = build_report(examiner.dataset, found.evaluation)
    write_report(report, examiner.dataset, found.evaluation.results, output)
    print(report.summary())
    print(f"wrote {output / 'report.html'}, {output / 'report.json'}")


main = main_of("train")
