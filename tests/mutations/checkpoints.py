"""Public checkpoints that are not what they should be: names, shapes, types, containers, the archive they lie in."""

from __future__ import annotations

import collections
import io
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.mutations.change import bytes_of

Tensors = dict[Any, Any]

PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "ema.",
    "module._orig_mod.",
    "net.",
    "x.",
    ".",
    "criterion.",
    "backbone.",
)
KEYS = ("model", "state_dict", "ema", "module", "model_ema", "net", "x", "", 1, None)
TYPES = (
    torch.int32, torch.int8, torch.uint8, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.complex64,
    torch.float8_e4m3fn,
)  # fmt: skip
NUMBERS = (float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, 0.0, -0.0)


def spoiled(path: Path, good: Path, rng: random.Random) -> None:
    """Write a spoiled copy of the public checkpoint `good` to `path`."""
    how = rng.random()
    if how < 0.15:
        path.write_bytes(bytes_of(good.read_bytes(), rng))
    elif how < 0.35:
        path.write_bytes(_archive(good.read_bytes(), rng))
    elif how < 0.40:
        path.write_bytes(_foreign(rng))
    else:
        tensors = torch.load(good, weights_only=True)["model"]
        for _ in range(rng.randrange(1, 4)):
            rng.choice(CHANGES)(tensors, rng)
        legacy = rng.random() < 0.2
        torch.save(_contained(tensors, rng), path, _use_new_zipfile_serialization=not legacy)


def _one(tensors: Tensors, rng: random.Random) -> Any:
    return rng.choice(list(tensors) or [""])


def _value(tensors: Tensors, name: Any) -> Tensor:
    value = tensors.get(name)
    return value if isinstance(value, Tensor) and value.layout is torch.strided else torch.zeros(2, 3)


def _rows(tensors: Tensors, rng: random.Random) -> None:
    """Another shape of one tensor, or of all of a kind."""
    name = _one(tensors, rng)
    value = _value(tensors, name).float()
    shapes: tuple[Callable[[], Tensor], ...] = (
        lambda: value.reshape(-1)[:1],
        lambda: value.reshape(-1),
        lambda: value[None],
        lambda: value[:0],
        lambda: torch.zeros(()),
        lambda: torch.cat([value.reshape(-1)] * 2),
        lambda: value.transpose(0, -1) if value.ndim else value,
        lambda: value[: max(1, len(value) // 2)] if value.ndim else value,
        lambda: torch.zeros(1).expand(10 ** rng.randrange(5, 9), 64),
        lambda: torch.zeros(1).expand(*([2] * rng.randrange(5, 30))),
        lambda: value.contiguous().as_strided(value.shape, [0] * value.ndim),
    )
    changed = rng.choice(shapes)()
    tensors[name] = changed
    if rng.random() < 0.3:
        last = str(name).rsplit(".", 1)[0]
        for other in [key for key in tensors if str(key).startswith(last)]:
            tensors[other] = changed


def _types(tensors: Tensors, rng: random.Random) -> None:
    """Another type of one tensor, of some or of all."""
    kind, share = rng.choice(TYPES), rng.choice((0.0, 0.1, 1.0))
    for name in {_one(tensors, rng), *(key for key in tensors if rng.random() < share)}:
        tensors[name] = _value(tensors, name).to(kind)


def _numbers(tensors: Tensors, rng: random.Random) -> None:
    """Numbers that no training gives, in one place or all over."""
    name, number = _one(tensors, rng), rng.choice(NUMBERS)
    value = _value(tensors, name).float().clone()
    if rng.random() < 0.5 or not value.numel():
        value = torch.full_like(value, number)
    else:
        value.view(-1)[rng.randrange(value.numel())] = number
    tensors[name] = value


def _names(tensors: Tensors, rng: random.Random) -> None:
    """Tensors that are gone, doubled, of another layer, or have another prefix."""
    name, how = _one(tensors, rng), rng.randrange(7)
    if how == 0:
        tensors.pop(name, None)
    elif how == 1:
        gone = str(name).split(".")[rng.randrange(len(str(name).split(".")))]
        for key in [key for key in tensors if gone in str(key)]:
            del tensors[key]
    elif how == 2:
        number = rng.choice(("7", "999999", "-1", "1e9", "00", "9" * 30, "１"))
        tensors[re.sub(r"\.\d+\.", f".{number}.", str(name), count=1)] = tensors.get(name)
    elif how == 3:
        prefix, all_of_them = rng.choice(PREFIXES), rng.random() < 0.7
        changed = {f"{prefix}{key}" if all_of_them or key == name else key: value for key, value in tensors.items()}
        tensors.clear()
        tensors.update(changed)
    elif how == 4:
        odd = (1, "", None, "x" * 5000, "\0", "\ud800", (1, 2), 1.5, True, "num_batches_tracked", ".weight", "a.b.step")
        tensors[rng.choice(odd)] = _value(tensors, name)
    elif how == 5:
        other = _one(tensors, rng)
        tensors[name], tensors[other] = tensors.get(other), tensors.get(name)
    else:
        shared = rng.choice(
            ("bbox_embed.3.layers.0.weight", "decoder.bbox_embed.0.layers.0.weight", "decoder.norm.bias")
        )
        tensors[f"sem_seg_head.predictor.{shared}"] = _value(tensors, name)


def _kinds(tensors: Tensors, rng: random.Random) -> None:
    """What is no plain tensor."""
    name = _one(tensors, rng)
    value = _value(tensors, name).float()
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: value.to_sparse() if value.ndim else value,
        lambda: value.to_sparse_csr() if value.ndim == 2 else value,
        lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(value),
        lambda: torch.zeros(value.shape, device="meta"),
        lambda: None, lambda: "x", lambda: 5, lambda: [1], dict, lambda: {"weight": value}, lambda: b"\0" * 9,
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: value.conj() if value.is_complex() else value.to(torch.complex64).conj(),
        lambda: torch.Size([1, 2]), lambda: torch.device("cpu"), lambda: torch.float32,
    )  # fmt: skip
    tensors[name] = rng.choice(kinds)()


CHANGES = (_rows, _types, _numbers, _names, _kinds)


def _contained(tensors: Tensors, rng: random.Random) -> Any:
    """The tensors in what trainers put around them, or in what nobody does."""
    how = rng.randrange(12)
    if how < 5:
        return {"model": tensors}
    if how == 5:
        return tensors
    if how == 6:
        return {rng.choice(KEYS): tensors, "epoch": rng.choice((3, "x", None)), "optimizer": {"state": {0: {}}}}
    if how == 7:
        return {"model": {rng.choice(KEYS): tensors}, "model_ema": {"module": tensors}}
    if how == 8:
        deep: Any = tensors
        for _ in range(rng.choice((3, 50, 200))):
            deep = {"model": deep}
        return deep
    if how == 9:
        around: dict[str, Any] = {"state_dict": tensors}
        around["model"] = around  # a circle
        return around
    if how == 10:
        return collections.OrderedDict(tensors)
    return rng.choice(([tensors], (tensors,), {}, [], None, 5, "x", torch.zeros(3), {"model": []}, {"model": {"a": 1}}))


def _archive(data: bytes, rng: random.Random) -> bytes:
    """The zip archive with a record damaged, exchanged, missing, doubled, or grown beyond what it claims."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        records = [(info.filename, source.read(info)) for info in source.infolist()]
    place = rng.randrange(len(records))
    if rng.random() < 0.5:  # the one that says what the others are
        place = next(index for index, (name, _) in enumerate(records) if name.endswith("data.pkl"))
    name, content = records[place]
    how = rng.randrange(6)
    if how == 0:
        del records[place]
    elif how == 1:
        records[place] = name, bytes_of(content, rng)
    elif how == 2:
        records[place] = name, content[: len(content) // 2]
    elif how == 3:
        records[place] = name, records[rng.randrange(len(records))][1]
    elif how == 4:
        records.append((rng.choice((name, "../../x", "/etc/x", "archive/data/99999", "")), content))
    else:
        records[place] = (
            name,
            content.replace(rng.choice((b"X", b"K", b"\x8a", b"t")), rng.choice((b"J", b"(", b"N")), 1),
        )
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as target:
        for name, content in records:
            target.writestr(name or " ", content)
    return output.getvalue()


class _Runs:
    """Something that runs code when it is loaded."""

    def __init__(self, call: Callable[..., Any], *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def _foreign(rng: random.Random) -> bytes:
    """What only has the name of a checkpoint."""
    objects = (
        _Runs(print, "l2g-was-run"), _Runs(eval, "print('l2g-was-run')"),
        {"model": _Runs(exec, "print('l2g-was-run')")},
        {"model": {"a": 1}}, {1: 2}, [1], "x",
    )  # fmt: skip
    file = io.BytesIO()
    if rng.random() < 0.5:
        torch.save(rng.choice(objects), file)
        return file.getvalue()
    texts = (
        b"",
        b"{",
        b"\x80",
        b"PK\x03\x04",
        b"\x89HDF\r\n\x1a\n",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<html>",
    )
    pickled = pickle.dumps(rng.choice(objects), protocol=rng.randrange(6))
    return rng.choice((*texts, pickled, b"(" * 100_000, b"]" + b"(l" * 50_000 + b"."))
