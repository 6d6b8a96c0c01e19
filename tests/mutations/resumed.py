"""Spoiled work that a command goes on with or reads again: memories, resume files, ledgers, reports, caches."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from l2g.cli.main import main
from l2g.errors import L2GError
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.video import lane
from tests.exported import small_graph
from tests.mutations.change import bytes_of, json_of
from tests.mutations.originals import CONFIG, Originals, run_words
from tests.training.small import small

_QUANTIZE = ("--quiet", "--videos=1", "--frames=2", "--span=2", "--method=max", "--max-trials=0", "--probe-frames=1",
             "--verdict-videos=1", "--ap-budget=none")  # fmt: skip
_CHECK = ("gpu-check", "--device=cpu", "--quick", "--minutes=0.0001", "--models", "l2g_tiny", "--quiet")


@functools.cache
def unfinished(folder: Path, clip: Path) -> Path:
    """The output of a run that failed at its fifth frame, with memories of the second and the fourth."""
    steps = 0

    def failing(self, frames, reset):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise L2GError("no more")
        return real(self, frames, reset)

    real = OnnxRuntimeBackend.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "KEY_FRAMES", 2)
        patch.setattr(OnnxRuntimeBackend, "step", failing)
        (folder / "memory").mkdir()
        assert main(run_words(small_graph(), clip, folder / "memory")) == 2
    assert list((folder / "memory" / "out" / "unfinished").glob("memory-*.npz"))
    return folder / "memory" / "out"


@functools.cache
def _begun_training(folder: Path) -> Path:
    (folder / "t.yaml").write_text(CONFIG.replace("iterations: 1", "iterations: 2"))
    output = folder / "training"
    assert main(["train", "--config", str(folder / "t.yaml"), "--output", str(output), *small(), "save_every=1"]) == 0
    return output


@functools.cache
def _quantised(folder: Path, data: Path) -> Path:
    (folder / "q").mkdir()
    words = ["quantize", "--ckpt", str(small_graph()), "--dataset", str(data), "--output", str(folder / "q" / "q.onnx")]
    assert main([*words, *_QUANTIZE]) == 0
    return folder / "q"


@functools.cache
def _checked(folder: Path) -> Path:
    """A check of a GPU, as far as a machine without one gets in no time."""
    output = folder / "check"
    main([*_CHECK, "--output", str(output)])
    assert (output / "report.json").exists()
    return output


def arrays_of(data: bytes, rng: random.Random) -> bytes:
    """An .npz with one array of another shape, type or content, or missing, or another part of the archive damaged."""
    signed = hashlib.sha256(data[:-32]).digest() == data[-32:]
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    with np.load(io.BytesIO(data[:-32] if signed else data)) as found:
        arrays = dict(found)
    name = rng.choice(sorted(arrays))
    kind = rng.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = arrays[name][..., :1] if arrays[name].ndim else arrays[name][None]
    elif kind == 2:
        types = ("U8", "S3") if arrays[name].dtype.kind in "US" else (np.int8, np.complex64, np.float16, "U8")
        arrays[name] = arrays[name].astype(rng.choice(types))
    elif kind == 3:
        arrays[name] = np.full(arrays[name].shape, rng.choice((-1, 0, 255))).astype(arrays[name].dtype)
    elif kind == 4:
        arrays[name] = np.zeros((0,), arrays[name].dtype)
    elif kind == 5:
        arrays["more"] = np.array([1, 2])
    elif kind == 6 and arrays[name].dtype.kind == "f":
        arrays[name] = np.full_like(arrays[name], rng.choice((np.nan, np.inf, 1e38)))
    else:
        arrays[name] = np.frombuffer(json_of({"a": [1, 2]}, rng).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    if rng.random() < 0.15:  # an array that claims to be larger than any memory
        content = _claimed(content, name)
    return content


def _claimed(data: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part == f"{name}.npy":
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
                )
                content = header.getvalue() + content[-100:]
            new.writestr(part, content)
    return buffer.getvalue()


def memories(good: Originals, rng: random.Random, work: Path) -> list[str]:
    shutil.rmtree(work / "out")
    shutil.copytree(unfinished(good.folder, good.clip), work / "out")
    files = [path for path in sorted((work / "out").rglob("*")) if path.is_file()]
    arrays = [path for path in files if path.suffix == ".npz"]
    for path in arrays if rng.random() < 0.5 else [rng.choice(arrays if rng.random() < 0.7 else files)]:
        path.write_bytes((arrays_of if path.suffix == ".npz" else bytes_of)(path.read_bytes(), rng))
    return [*run_words(small_graph(), good.clip, work), "--resume"]


def resume_files(good: Originals, rng: random.Random, work: Path) -> list[str]:
    shutil.rmtree(work / "out")
    shutil.copytree(_begun_training(good.folder), work / "out")
    files = [path for path in sorted((work / "out").iterdir()) if path.is_file()]
    path = next(path for path in files if path.suffix == ".pt") if rng.random() < 0.7 else rng.choice(files)
    path.write_bytes(bytes_of(path.read_bytes(), rng))
    config = good.folder / "t.yaml"
    return ["train", "--config", str(config), "--output", str(work / "out"), *small(), "save_every=1"]


def ledgers(good: Originals, rng: random.Random, work: Path) -> list[str]:
    shutil.rmtree(work / "out")
    shutil.copytree(_quantised(good.folder, good.data), work / "out")
    files = [path for path in sorted((work / "out" / "q.onnx.work").rglob("*")) if path.is_file()]
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json_of(json.loads(path.read_text()), rng))
    else:
        path.write_bytes((arrays_of if path.suffix == ".npz" else bytes_of)(path.read_bytes(), rng))
    words = ["quantize", "--ckpt", str(small_graph()), "--dataset", str(good.data)]
    return [*words, "--output", str(work / "out" / "q.onnx"), *_QUANTIZE]


def checks(good: Originals, rng: random.Random, work: Path) -> list[str]:
    shutil.rmtree(work / "out")
    shutil.copytree(_checked(good.folder), work / "out")
    files = [path for path in sorted((work / "out").rglob("*.json")) if path.is_file()]
    path = work / "out" / "report.json" if rng.random() < 0.7 else rng.choice(files)
    if rng.random() < 0.2:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
        path.write_text(json_of(json.loads(path.read_text()), rng))
    if rng.random() < 0.9:
        return ["gpu-check", "--compare", str(work / "out" / "report.json"), str(_checked(good.folder) / "report.json")]
    return [*_CHECK, "--output", str(work / "out")]
