"""What the package keeps for itself and reads again: logs of a search, graphs and engines; and files of a Swin."""

from __future__ import annotations

import functools
import json
import random
import shutil
from pathlib import Path

import pytest

from l2g.cli.main import main
from tests.exported import small_checkpoint, small_graph
from tests.mutations.change import bytes_of, json_of
from tests.mutations.checkpoints import spoiled
from tests.mutations.originals import Originals, run_words

# A folder of this name in a case's own is where its command keeps things.
CACHE = "cache"


def _search(data: Path, output: Path) -> list[str]:
    words = ["export", "--ckpt", str(small_checkpoint()), "--output", str(output / "m.onnx"), "--precision=auto"]
    return [*words, "--dataset", str(data), "--videos=1", "--granularity=stage", "--log", str(output / "s.log"),
            "--quiet"]  # fmt: skip


@functools.cache
def _searched(folder: Path, data: Path) -> Path:
    (folder / "search").mkdir()
    main(_search(data, folder / "search"))
    return folder / "search" / "s.log"


def search_logs(good: Originals, rng: random.Random, work: Path) -> list[str]:
    """A line of the log, or its bytes; the search goes on with the others."""
    path = work / "out" / "s.log"
    content = _searched(good.folder, good.data).read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(bytes_of(content, rng))
    else:
        lines = content.decode().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json_of(json.loads(lines[place]), rng)
        path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    return _search(good.data, work / "out")


@functools.cache
def _caches(folder: Path, clip: Path) -> Path:
    """Caches of a run and of a build."""
    kept = folder / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2G_CACHE", str(kept))
        (folder / "first").mkdir()
        assert main(run_words(_copied_graph(folder), clip, folder / "first")) == 0
        main(_build(folder, folder / "first"))
    assert list((kept / "onnxruntime").glob("*.onnx"))
    return kept


def _copied_graph(folder: Path) -> Path:
    if not (folder / "kept.onnx").exists():
        shutil.copy(small_graph(), folder / "kept.onnx")
    return folder / "kept.onnx"


def _build(folder: Path, work: Path) -> list[str]:
    quick = ("--compute-capability=8.9", "--no-verify", "--quiet", "--optimization-level=0", "--library=tensorrt-rtx")
    return ["build", "--onnx", str(_copied_graph(folder)), "--output", str(work / "m.engine"), *quick]


def caches(good: Originals, rng: random.Random, work: Path) -> list[str]:
    """Replaced, damaged, of another type, a link: what is taken from there is held to its sum, or made anew."""
    shutil.copytree(_caches(good.folder, good.clip), work / CACHE)
    files = sorted(path for path in (work / CACHE).rglob("*") if path.is_file())
    for path in files if rng.random() < 0.2 else [rng.choice(files)]:
        how = rng.randrange(6)
        if how < 3:
            path.write_bytes(bytes_of(path.read_bytes(), rng))
        elif how == 3:
            path.unlink()
            path.mkdir()
        elif how == 4:
            path.unlink()
            path.symlink_to(rng.choice(("/dev/null", "/dev/zero", "nowhere", str(good.clip))))
        elif path.suffix == ".json":
            path.write_text(json_of(json.loads(path.read_text()), rng))
        else:
            others = [other for other in files if other.is_file()]  # not what has become a folder or a device
            path.write_bytes(rng.choice(others).read_bytes() if rng.random() < 0.5 else b"")
    if rng.random() < 0.2:  # an engine takes long
        return _build(good.folder, work / "out")
    return run_words(_copied_graph(good.folder), good.clip, work)


@functools.cache
def _swin(folder: Path) -> Path:
    """A small Swin in public names."""
    import torch

    from l2g.config import SwinConfig
    from tests.modeling.small import small_model
    from tests.mutations.originals import _public_name

    swin = SwinConfig(embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=3, mlp_ratio=2)
    tensors = small_model(num_heads=8, backbone=swin).state_dict()
    named = {_public_name(name): value for name, value in tensors.items() if not name.startswith("aligner.")}
    torch.save({"model": named}, folder / "swin.pth")
    return folder / "swin.pth"


def swins(good: Originals, rng: random.Random, work: Path) -> list[str]:
    spoiled(work / "m.pth", _swin(good.folder), rng)
    return [*run_words(work / "m.pth", good.clip, work), "--num-queries=10"]
