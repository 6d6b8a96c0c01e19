"""Odd values for the options of every command but `run`, whose options are a family of their own."""

from __future__ import annotations

import argparse
import functools
import json
import random
import shutil
from pathlib import Path

from l2g.cli.commands import BY_NAME
from l2g.cli.entry import parser_of
from l2g.data.synthetic.panoptic import write_panoptic
from tests.exported import small_checkpoint, small_graph
from tests.mutations.originals import CONFIG, Originals
from tests.runtime.fake_gpu import fake_engine
from tests.training.small import small

NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1e-300", "x", "", "9" * 30, "0.5", "3", "-0", "1e400", "１", "0x10")
TEXTS = (
    "", "m" * 5000, "a:b", "/dev/null", "/", "../../..", "\ud800", "a\0b", "32x32", "0x0", "-1x-1", "s3://", "http://",
    "[", "{}", "&a [*a]", "a=b", "=", "8.9", "class_0", "synthetic:val", "coco-ovis", "*", "%d", "~", "-",
)  # fmt: skip
# What would take long or talk to another machine where it is right: a server, a cluster, checks of minutes.
_LEFT_OUT = ("--serve", "--address", "--workers", "--help", "--minutes", "--only", "--frames", "--videos")


@functools.cache
def _panoptic(folder: Path) -> Path:
    return write_panoptic(folder / "maps", "val", seed=3, videos=1, frames=2, size=(64, 96))


def _bases(good: Originals, work: Path) -> dict[str, list[str]]:
    """By command: words with which it does something, into work/out."""
    graph, model, data, out = str(small_graph()), str(small_checkpoint()), str(good.data), work / "out"
    maps = _panoptic(good.folder)
    truth = ["--ground-truth", str(next(maps.glob("*.json"))), "--ground-truth-maps", str(maps / "panomasksRGB")]
    quick = ("--compute-capability=8.9", "--no-cache", "--no-verify", "--quiet", "--optimization-level=0")
    return {
        "evaluate": ["--model", graph, "--dataset", data, "--results", str(out / "r.json"), "--quiet"],
        "parity": ["--reference", graph, "--candidate", graph, "--dataset", data, "--report", str(out), "--quiet"],
        "export": ["--ckpt", model, "--output", str(out / "m.onnx"), "--quiet"],
        "build": ["--onnx", graph, "--output", str(out / "m.engine"), "--library=tensorrt-rtx", *quick],
        "verify": ["--engine", str(work / "m.engine"), "--onnx", graph, "--quiet"],
        "inspect": [graph],
        "doctor": [graph],
        "triton": [graph, "--output", str(out)],
        "models": [],
        "bench": [graph, "--frames=2", "--output", str(out), "--quiet"],
        "train": ["--config", str(work / "c.yaml"), "--output", str(out), *small()],
        "data check": [data],
        "data convert": [data, "--to", "coco_video", "--output", str(out / "d")],
        "data draw": ["--split=val", "--videos=1", "--frames=2", "--size", "64", "96", "--output", str(out / "d")],
        "metrics vis-ap": ["--ground-truth", str(good.data / "instances.json"), "--results", str(good.results)],
        "metrics vpq": [*truth, "--results", str(work / "found")],
        "metrics stq": [*truth, "--results", str(work / "found")],
        "gpu-check": ["--device=cpu", "--quick", "--minutes=0.0001", "--models", "l2g_tiny", "--quiet", "--output",
                      str(out)],
        "completion": ["bash"],
    }  # fmt: skip


def options(good: Originals, rng: random.Random, work: Path) -> list[str]:
    name, words = rng.choice(sorted(_bases(good, work).items()))
    _inputs(name, good, work)
    found = [action for action in parser_of(BY_NAME[name])._actions if not set(action.option_strings) & set(_LEFT_OUT)]
    for action in rng.sample(found, min(len(found), rng.randrange(1, 3))):
        value = _value(action, rng)
        if action.option_strings:
            words = [*words, f"{action.option_strings[-1]}={value}" if action.nargs != 0 else action.option_strings[-1]]
        elif words and not words[0].startswith("-"):  # its file
            words = [value, *words[1:]]
    if rng.random() < 0.1:
        words = words[: rng.randrange(len(words) + 1)]
    return [*name.split(), *words]


def _inputs(name: str, good: Originals, work: Path) -> None:
    if name == "train":
        (work / "c.yaml").write_text(CONFIG)
    elif name == "verify":
        fake_engine(work / "m.engine", small_graph())
    elif name.startswith("metrics v") or name == "metrics stq":
        maps = _panoptic(good.folder)
        shutil.copytree(maps / "panomasksRGB", work / "found" / "pan_pred")
        (work / "found" / "pred.json").write_text(json.dumps(json.loads(next(maps.glob("*.json")).read_text())))


def _value(action: argparse.Action, rng: random.Random) -> str:
    if action.choices and rng.random() < 0.5:
        return str(rng.choice(list(action.choices)))
    if action.type in (int, float) or rng.random() < 0.3:
        return rng.choice(NUMBERS)
    value = rng.choice(TEXTS)
    # A folder of this machine is nothing to write to.
    writes = {"--output", "--results", "--report", "--json", "--log", "--verbose-log", "--timing-cache"}
    return "/proc/nothing" if value in ("/", "../../..", "~") and set(action.option_strings) & writes else value
