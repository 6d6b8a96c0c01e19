"""Mutated inputs by family, each with the words of a public command that meets it."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from l2g.artifacts import sidecar as sidecars
from l2g.checkpoint import PUBLIC_NAMES
from l2g.contract import METADATA_KEY
from l2g.data.synthetic.dataset import write_synthetic
from tests.exported import edited, set_contract, small_checkpoint, small_graph
from tests.modeling.small import small_model
from tests.mutations.change import bytes_of, json_of, text_of
from tests.mutations.checkpoints import spoiled
from tests.runtime.clips import moving_scenes, write_clip
from tests.runtime.fake_gpu import fake_engine
from tests.training.small import small


@dataclass(frozen=True)
class Originals:
    """The good inputs that are spoiled. folder: where all of them lie; nothing is changed there."""

    folder: Path
    clip: Path
    data: Path
    results: Path
    public: Path

    @classmethod
    def made(cls, folder: Path) -> Originals:
        clip = write_clip(folder / "clip.mp4", moving_scenes(6))
        data = write_synthetic(folder / "data", "val", seed=3, videos=2, frames=3, size=(64, 96))
        truth = json.loads((Path(data) / "instances.json").read_text())
        results = [
            {
                "video_id": found["video_id"],
                "category_id": found["category_id"],
                "score": 0.5 + index / 100,
                "segmentations": found["segmentations"],
            }
            for index, found in enumerate(truth["annotations"])
        ]
        path = folder / "results.json"
        path.write_text(json.dumps(results))
        public = folder / "model.pth"
        # What `l2g run` takes a public model for: no aligner, eight heads.
        tensors = small_model(num_heads=8).state_dict()
        mine = {_public_name(name): value for name, value in tensors.items() if not name.startswith("aligner.")}
        torch.save({"model": mine}, public)
        return cls(folder, clip, Path(data), path, public)


Family = Callable[[Originals, random.Random, Path], list[str]]


def graph(good: Originals, rng: random.Random, work: Path) -> list[str]:
    (work / "m.onnx").write_bytes(bytes_of(small_graph().read_bytes(), rng))
    return _opened(work / "m.onnx", good, rng, work)


def contract(good: Originals, rng: random.Random, work: Path) -> list[str]:
    import onnx

    model = onnx.load(small_graph())
    text = {entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY]
    changed = json_of(json.loads(text), rng)
    return _opened(edited(small_graph(), set_contract(changed), work / "m.onnx"), good, rng, work)


def sidecar(good: Originals, rng: random.Random, work: Path) -> list[str]:
    engine = fake_engine(work / "m.engine", small_graph())
    path = sidecars.sidecar_path(engine)
    if rng.random() < 0.2:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
        return _run(engine, good.clip, work)
    data = json.loads(path.read_text())
    del data["sha256"]
    changed = json_of(data, rng)
    try:
        body = json.loads(changed)
        signed = json.dumps({**body, "sha256": sidecars._sum_of(body)})
    except (ValueError, TypeError, RecursionError):
        signed = changed
    path.write_text(signed)
    return _run(engine, good.clip, work)


def safetensors(good: Originals, rng: random.Random, work: Path) -> list[str]:
    data, path = small_checkpoint().read_bytes(), work / "m.safetensors"
    if rng.random() < 0.4:
        path.write_bytes(bytes_of(data, rng))
        return _run(path, good.clip, work)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.6:
        config = json.loads(header["__metadata__"]["l2g.config"])
        header["__metadata__"]["l2g.config"] = json_of(config, rng)
        changed = json.dumps(header).encode()
    else:
        changed = json_of(header, rng).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])
    return _run(path, good.clip, work)


def pth(good: Originals, rng: random.Random, work: Path) -> list[str]:
    path = work / "m.pth"
    spoiled(path, good.public, rng)
    return _loaded(path, good, rng, work)


def annotations(good: Originals, rng: random.Random, work: Path) -> list[str]:
    data = _copied(good.data, work / "data")
    path = data / "instances.json"
    if rng.random() < 0.15:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
        path.write_text(json_of(json.loads(path.read_text()), rng))
    if rng.random() < 0.5:
        return ["data", "check", str(data)]
    results = str(work / "out" / "r.json")
    return ["evaluate", "--model", str(small_graph()), "--dataset", str(data), "--results", results, "--quiet"]


def results(good: Originals, rng: random.Random, work: Path) -> list[str]:
    truth, found = good.data / "instances.json", good.results
    path = work / "changed.json"
    spoiled = truth if rng.random() < 0.4 else found
    if rng.random() < 0.1:
        path.write_bytes(bytes_of(spoiled.read_bytes(), rng))
    else:
        path.write_text(json_of(json.loads(spoiled.read_text()), rng))
    truth, found = (path, found) if spoiled is truth else (truth, path)
    return [
        "metrics",
        "vis-ap",
        "--ground-truth",
        str(truth),
        "--results",
        str(found),
        "--json",
        str(work / "out" / "s"),
    ]


CONFIG = """model: l2g_tiny
seed: 1
precision: fp32
ema: 0.5
clip_norm: 0.1
data:
  source: synthetic
  reverse: 0.1
loss:
  num_points: 16
phases:
- kind: image
  iterations: 1
  batch_size: 1
  lr: 1e-3
  warmup: 1
  schedule: cosine
"""


def configs(good: Originals, rng: random.Random, work: Path) -> list[str]:
    (work / "c.yaml").write_text(text_of(CONFIG, rng) if rng.random() < 0.7 else CONFIG)
    changes = []
    if rng.random() < 0.5:
        key = rng.choice(
            ("seed", "phases.0.lr", "phases.0.batch_size", "loss.mask", "data.stride", "ema", "phases", "x.y")
        )
        changes = [
            f"{key}={rng.choice(('[', '.nan', '-1', '0', '1e30', 'null', 'x', '[1, 2]', '{}', '1e-3', '&a [*a]'))}"
        ]
    return ["train", "--config", str(work / "c.yaml"), "--output", str(work / "out"), *small(), *changes]


def pictures(good: Originals, rng: random.Random, work: Path) -> list[str]:
    folder = work / "pictures"
    folder.mkdir()
    for index, image in enumerate(moving_scenes(3)):
        suffix = rng.choice((".png", ".jpg", ".bmp", ".tiff", ".webp"))
        _, coded = cv2.imencode(suffix, image)
        data = coded.tobytes()
        (folder / f"{index}{suffix}").write_bytes(bytes_of(data, rng) if rng.random() < 0.5 else data)
    return _run(small_graph(), folder, work)


def videos(good: Originals, rng: random.Random, work: Path) -> list[str]:
    path = work / "v.mp4"
    path.write_bytes(bytes_of(good.clip.read_bytes(), rng))
    return _run(small_graph(), path, work)


_NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1e-300", "x", "", "9" * 30, "0.5", "3")


def command_line(good: Originals, rng: random.Random, work: Path) -> list[str]:
    option = rng.choice(
        ("--start", "--end", "--stride", "--fps", "--top-k", "--score-threshold", "--max-age", "--opacity", "--trails",
         "--track", "--size", "--num-queries", "--class-names", "--input", "--model", "--output")
    )  # fmt: skip
    odd = (*_NUMBERS, "m" * 5000, "a:b", "/dev/null", "/", "../../..", "\ud800", "32x32", "0x0", "-32x-32", "1x")
    value = rng.choice(odd if option in ("--input", "--model", "--output", "--size", "--class-names") else _NUMBERS)
    if option == "--output" and value in ("/", "../../.."):
        value = "/proc/nothing"
    words = _run(small_graph(), good.clip, work)
    if option in words:
        words[words.index(option) + 1] = value
        return words
    return [*words, f"{option}={value}"]


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        graph, contract, sidecar, safetensors, pth, annotations, results, configs, pictures, videos, command_line
    )
}  # fmt: skip


def _public_name(name: str) -> str:
    """Ours as the public checkpoints have it, where they have it."""
    pairs = ((theirs, ours) for theirs, ours in PUBLIC_NAMES if ours and name.startswith(ours))
    return next((theirs + name[len(ours) :] for theirs, ours in pairs), name)


def _run(model: Path, source: Path, work: Path) -> list[str]:
    return ["run", "--model", str(model), "--input", str(source), "--output", str(work / "out"), "--end=0.5", "--quiet"]


def _loaded(path: Path, good: Originals, rng: random.Random, work: Path) -> list[str]:
    asked = rng.random()
    if asked < 0.15:
        words = ["train", "--config", str(_config(work)), "--output", str(work / "out"), *small(), f"init={path}"]
        return [*words, "overrides.num_queries=10"] if rng.random() < 0.5 else words
    if asked < 0.2:
        output = str(work / "out" / "m.onnx")
        return ["export", "--ckpt", str(path), "--num-queries=10", "--output", output, "--quiet"]
    return [*_run(path, good.clip, work), *(["--num-queries=10"] if rng.random() < 0.9 else [])]


def _config(work: Path) -> Path:
    (work / "c.yaml").write_text(CONFIG)
    return work / "c.yaml"


def _opened(path: Path, good: Originals, rng: random.Random, work: Path) -> list[str]:
    asked = rng.randrange(3)
    return _run(path, good.clip, work) if asked == 0 else ["inspect" if asked == 1 else "doctor", str(path)]


def _copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
