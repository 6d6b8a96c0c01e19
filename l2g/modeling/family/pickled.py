"""The tensors in a file of `torch.save` or `pickle`: read without running its code, found in what trainers put around
them, and freed of what they put before every name."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from l2g.errors import CheckpointError
from l2g.modeling.family.weight_sums import check_archive

# Where a checkpoint file may keep its tensors, best first: detectron2's, Lightning's and EMA trainers' keys.
CONTAINERS = (
    "model", "state_dict", "model_state_dict", "model_state", "model_weights", "weights", "params", "network", "net",
    "module", "teacher", "model_ema", "ema_state", "ema_state_dict", "ema", "ema_model", "params_ema",
)  # fmt: skip
DEEPEST = 8
# Every public name begins with one of these; what stands before is a trainer's: data parallelism, Lightning, EMA.
_ROOT = re.compile(r"(?:^|.*?\.)(?=(?:backbone|sem_seg_head|criterion)\.)")
# What PyTorch puts before the names of a module that it wraps, the whole model or a part of it.
_WRAPPED = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?=\.)")
# An average or a copy that stands beside the model in one state dict.
_COPY = re.compile(r"ema|averag|shadow|teacher|momentum|target|swa")
# What lies beside the model's tensors.
BESIDE = re.compile(r"(.*\.)?(num_batches_tracked|n_averaged|initted|step)$")

_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # of a torch.save before archives
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"  # what files of either kind begin with
_NUMBERS = re.compile(r"[<>=|]?[biufc](1|2|4|8|16)")
# What an error says of an object that is refused: PyTorch's, or one of this file.
_HELD = re.compile(r"GLOBAL \S+|it holds .+")


class _Dtype:
    """What stands for a dtype of NumPy, numbers only: NumPy's own may be told that bytes of the file are objects."""

    def __init__(self, text: str, *_: Any):
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
            raise pickle.UnpicklingError(f"it holds an array of {text!r:.20}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """What stands for an array of NumPy, or the type of one."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if by_columns else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: bytes, kind: _Dtype, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
    made = _Array()
    made.__setstate__((1, shape, kind, order == "F", content))
    return made


def _scalar(kind: _Dtype, content: bytes | str) -> Any:
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, kind.dtype)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocols below 3 write bytes as; other encodings would be looked up by name."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes in {encoding!r:.20}")
    return text.encode("latin1")


# Plain data that trainers save beside weights: what they were called with, their best score, NumPy's arrays. None of
# them runs code when it is read.
_ARRAYS: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.{name}": made
        for core in ("core", "_core")  # of NumPy 1 and 2
        for name, made in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
_WORDS = (argparse.Namespace, types.SimpleNamespace, pathlib.PurePosixPath, pathlib.PosixPath)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint by their names. CheckpointError where it holds none, or other objects."""
    try:
        data = _unpickled(path)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path}: not a whole PyTorch checkpoint of plain tensors ({_reason(path, error)}); copy or download it "
            "again. A file that pickles other objects is not loaded, since that would run its code: save an l2g model "
            "with l2g.save_checkpoint(model, 'model.safetensors'), another's tensors alone with "
            "torch.save({'model': model.state_dict()}, ...)"
        ) from None
    check_archive(path)
    found = type(data).__name__
    if isinstance(data, dict):
        data = _contained(data)
        tensors = {name: _tensor(path, name, value) for name, value in data.items() if _is_array(value)}
        if tensors:
            return tensors
        found = f"a dict without tensors (keys: {', '.join(map(str, list(data)[:5])) or 'none'})"
    raise CheckpointError(
        f"{path}: {found} found, expected a state dict, or a dict with one under '{CONTAINERS[0]}'; "
        "save it with torch.save({'model': model.state_dict()}, ...)"
    )


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their public names. Of several models in one state dict the first that is no average or copy of
    another; names that belong to none are left as they are."""
    plain = {_WRAPPED.sub(r"\1", name).replace("..", ".").removeprefix("."): value for name, value in tensors.items()}
    models: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, value in plain.items():
        if root := _ROOT.match(name):
            models.setdefault(root[0], {})[name[root.end() :]] = value
        else:
            others[name] = value
    if not models:
        return others
    prefix = min(models, key=lambda before: bool(_COPY.search(before)))  # the first of equals
    chosen = models.pop(prefix)
    for before, names in models.items():
        if not names.keys() <= chosen.keys():
            others.update({before + name: value for name, value in names.items()})
    return chosen | others


def _contained(data: dict[Any, Any]) -> dict[Any, Any]:
    """A container may lie in another: an EMA's state dict under the key of the model. Not deeper: a dict that holds
    itself has no end."""
    for _ in range(DEEPEST):
        key = next((key for key in CONTAINERS if isinstance(data.get(key), dict)), None)
        data = data if key is None else data[key]
    return data


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, _Array))


def _tensor(path: Path, name: Any, value: Tensor | _Array) -> Tensor:
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: a tensor is named {name!r}, expected text; save a model's state_dict()")
    if isinstance(value, _Array):
        if value.array is None:
            raise CheckpointError(f"{path}: array '{name}' holds no numbers; copy or save it again")
        value = torch.from_numpy(value.array.astype(value.array.dtype.newbyteorder("=")))
    kinds = {"nested": value.is_nested, "a shape without numbers": value.is_meta, "quantised": value.is_quantized}
    kind = next((kind for kind, is_so in kinds.items() if is_so), None)
    if kind or value.layout is not torch.strided:
        raise CheckpointError(
            f"{path}: tensor '{name}' is {kind or 'sparse'}; save plain ones: tensor.to_dense(), tensor.dequantize()"
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: tensor '{name}' {list(value.shape)} repeats the few numbers that are stored of it, which no "
            "trained weights do; save plain ones: tensor.contiguous()"
        )
    return value


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(_PICKLE) and _MAGIC not in head:  # pickle's own, as detectron2's model zoo has them
            file.seek(0)
            return _PlainUnpickler(file).load()
    named = [(made, name) for name, made in _ARRAYS.items()]
    with torch.serialization.safe_globals([*_WORDS, *named]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(path: Path, error: Exception) -> str:
    """What is known of a file that cannot be read; never PyTorch's advice, which is to let it run its code."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith((_ARCHIVE, _PICKLE)):
        return f"it begins with {head!r}, neither a ZIP archive nor a pickle" if head else "it is empty"
    text = str(error)
    if held := _HELD.search(text):
        return held[0].replace("GLOBAL", "it holds")
    if isinstance(error, RuntimeError) and "weights_only" not in text:  # of reading, or of memory
        return text.splitlines()[0]
    return "it is damaged, or holds other things than tensors"


class _PlainUnpickler(pickle.Unpickler):
    """Dicts of NumPy's arrays, and nothing else that is an object."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        known = {**_ARRAYS, "collections.OrderedDict": OrderedDict, "_codecs.encode": _encode}
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return known[f"{module}.{name}"]
