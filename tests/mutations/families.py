"""Mutated inputs by family, each with the words of a public command that meets it."""

from __future__ import annotations

import functools
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from l2g.artifacts import sidecar as sidecars
from l2g.checkpoint import save_checkpoint
from l2g.contract import METADATA_KEY
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.modeling.family.weight_sums import SUM_KEY
from tests.exported import edited, set_contract, small_checkpoint, small_graph
from tests.mutations.change import bytes_of, json_of, text_of
from tests.mutations.checkpoints import spoiled
from tests.mutations.foreign import class_maps, converted, panoptic
from tests.mutations.kept import caches, search_logs, swins
from tests.mutations.options import options
from tests.mutations.originals import CONFIG, Originals, run_words
from tests.mutations.resumed import checks, ledgers, memories, resume_files
from tests.runtime.clips import moving_scenes
from tests.runtime.fake_gpu import fake_engine
from tests.training.small import small

Family = Callable[[Originals, random.Random, Path], list[str]]


def graph(good: Originals, rng: random.Random, work: Path) -> list[str]:
    (work / "m.onnx").write_bytes(bytes_of(small_graph().read_bytes(), rng))
    return _opened(work / "m.onnx", good, rng, work)


def contract(good: Originals, rng: random.Random, work: Path) -> list[str]:
    return _opened(_with_contract(rng, work / "m.onnx"), good, rng, work)


def sidecar(good: Originals, rng: random.Random, work: Path) -> list[str]:
    engine = fake_engine(work / "m.engine", small_graph())
    path = sidecars.sidecar_path(engine)
    if rng.random() < 0.2:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
        return run_words(engine, good.clip, work)
    data = json.loads(path.read_text())
    del data["sha256"]
    changed = json_of(data, rng)
    try:
        body = json.loads(changed)
        signed = json.dumps({**body, "sha256": sidecars._sum_of(body)})
    except (ValueError, TypeError, RecursionError):
        signed = changed
    path.write_text(signed)
    return run_words(engine, good.clip, work)


def safetensors(good: Originals, rng: random.Random, work: Path) -> list[str]:
    data, path = small_checkpoint().read_bytes(), work / "m.safetensors"
    if rng.random() < 0.8:  # else nothing but the sum would be met
        data = data.replace(SUM_KEY.encode(), b"l2g.anyhow")
    if rng.random() < 0.4:
        path.write_bytes(bytes_of(data, rng))
        return run_words(path, good.clip, work)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.6:
        config = json.loads(header["__metadata__"]["l2g.config"])
        header["__metadata__"]["l2g.config"] = json_of(config, rng)
        changed = json.dumps(header).encode()
    else:
        changed = json_of(header, rng).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])
    return run_words(path, good.clip, work)


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
    return run_words(small_graph(), folder, work)


def videos(good: Originals, rng: random.Random, work: Path) -> list[str]:
    path = work / "v.mp4"
    path.write_bytes(bytes_of(good.clip.read_bytes(), rng))
    return run_words(small_graph(), path, work)


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
    words = run_words(small_graph(), good.clip, work)
    if option in words:
        words[words.index(option) + 1] = value
        return words
    return [*words, f"{option}={value}"]


_CAMERAS = """- name: north
  url: {clip}
  rotation: 90
  region: [0.1, 0.1, 0.9, 0.9]
- name: south
  url: {clip}
  rate: 5
"""


def cameras(good: Originals, rng: random.Random, work: Path) -> list[str]:
    path = work / "cameras.yaml"
    text = _CAMERAS.format(clip=good.clip)
    path.write_text(text_of(text, rng) if rng.random() < 0.9 else json_of(text, rng))
    return run_words(small_graph(), path, work)


def repositories(good: Originals, rng: random.Random, work: Path) -> list[str]:
    """For Triton: graphs, contracts and sidecars, and a repository that something is in already."""
    kind = rng.randrange(3)
    path = work / "m.onnx"
    if kind == 0:
        path.write_bytes(bytes_of(small_graph().read_bytes(), rng))
    elif kind == 1:
        path = _with_contract(rng, path)
    else:
        path = Path(sidecar(good, rng, work)[2])
    if rng.random() < 0.2:
        (work / "out" / "m").write_text("in the way")
    words = ["triton", str(path), "--output", str(work / "out")]
    return [*words, "--gpu"] if path.suffix == ".engine" else words


def _with_contract(rng: random.Random, path: Path) -> Path:
    import onnx

    model = onnx.load(small_graph())
    text = {entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY]
    return edited(small_graph(), set_contract(json_of(json.loads(text), rng)), path)


@functools.cache
def _small_videomt(folder: Path) -> Path:
    pytest.importorskip("transformers")
    from tests.modeling.videomt.small import small_videomt

    save_checkpoint(small_videomt(), folder / "videomt")
    (folder / "videomt" / "preprocessor_config.json").write_text('{"size": {"height": 96, "width": 96}}')
    return folder / "videomt"


def videomt(good: Originals, rng: random.Random, work: Path) -> list[str]:
    folder = _copied(_small_videomt(good.folder), work / "model")
    path = folder / rng.choice(("config.json", "config.json", "model.safetensors", "preprocessor_config.json"))
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json_of(json.loads(path.read_text()), rng))
    elif path.suffix == ".json" or rng.random() < 0.5:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
        _change_header(path, rng)
    return run_words(folder, good.clip, work)


def _change_header(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"].pop(SUM_KEY, None)
    changed = json_of(header, rng).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])


def lists(good: Originals, rng: random.Random, work: Path) -> list[str]:
    """Of videos, of class names; and what a batch left in its output, which is refused before any worker starts."""
    path = work / "names.txt"
    if rng.random() < 0.5:
        path.write_bytes(bytes_of("\n".join(CLASS_NAMES).encode(), rng))
        return [*run_words(good.public, good.clip, work), "--num-queries=10", "--class-names", str(path)]
    path.write_text(rng.choice(("", "#\n", "\n\n", "\0", "a b", "http://", "s3://", "/dev/null", "x" * 5000, ".")))
    (work / "out" / "batch.json").write_text(json_of({"model": "m", "size": [1, 2], "options": {}}, rng))
    return ["batch", "--model", str(small_graph()), "--input", str(path), "--output", str(work / "out"), "--quiet"]


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        graph, contract, sidecar, safetensors, pth, annotations, results, configs, pictures, videos, command_line,
        converted, panoptic, class_maps, memories, resume_files, ledgers, checks, cameras, repositories, videomt, lists,
        options, search_logs, caches, swins,
    )
}  # fmt: skip


def _loaded(path: Path, good: Originals, rng: random.Random, work: Path) -> list[str]:
    asked = rng.random()
    if asked < 0.15:
        words = ["train", "--config", str(_config(work)), "--output", str(work / "out"), *small(), f"init={path}"]
        return [*words, "overrides.num_queries=10"] if rng.random() < 0.5 else words
    if asked < 0.2:
        output = str(work / "out" / "m.onnx")
        return ["export", "--ckpt", str(path), "--num-queries=10", "--output", output, "--quiet"]
    return [*run_words(path, good.clip, work), *(["--num-queries=10"] if rng.random() < 0.9 else [])]


def _config(work: Path) -> Path:
    (work / "c.yaml").write_text(CONFIG)
    return work / "c.yaml"


def _opened(path: Path, good: Originals, rng: random.Random, work: Path) -> list[str]:
    asked = rng.randrange(3)
    return run_words(path, good.clip, work) if asked == 0 else ["inspect" if asked == 1 else "doctor", str(path)]


def _copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
