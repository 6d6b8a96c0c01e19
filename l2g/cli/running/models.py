"""Public checkpoints that work: what each is for, its licence, where it lies, what was published of it, the command.

`l2g run --model NAME` fetches a checkpoint, once. Exit code: 0.
"""

from __future__ import annotations

import argparse
import json

from l2g.cli.entry import main_of
from l2g.public.table import PublicModel, public_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="all facts, for programs")


def run(options: argparse.Namespace) -> int:
    models = list(public_models().values())
    if options.json:
        print(json.dumps([model.to_json() for model in models], indent=1))
    else:
        print("\n".join(_table(models)))
    return 0


def _table(models: list[PublicModel]) -> list[str]:
    head = ("name", "task", "data set", "classes", "canvas", "size", "published", "licence")
    rows = [head, *(_row(model) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", "Where they lie, as their authors say:"]
    lines += [f"  {model.name:<{widths[0]}}  {model.place}" for model in models]
    lines += ["", "Where the numbers stand:"]
    for source in dict.fromkeys(model.source for model in models):
        lines.append(f"  {source}")
    lines += ["", f"Run one, which fetches it: {models[0].command}"]
    return lines


def _row(model: PublicModel) -> tuple[str, ...]:
    canvas = "any" if model.canvas is None else f"{model.canvas[0]}x{model.canvas[1]}"
    published = "-" if model.score is None else f"{model.metric} {model.score:g}"
    size = f"{model.megabytes} MB"
    return model.name, model.task, model.dataset, str(model.classes), canvas, size, published, model.licence


main = main_of("models")
