"""Sums over weights, which tell a flipped bit that leaves every number finite.

A safetensors file that l2g writes carries one in its header; for those that are installed with the package SHA256SUMS
lies beside them, as `sha256sum -c` reads it. A file of `torch.save` is a ZIP archive, which has a
CRC-32 of each of its parts; `torch.load` reads past them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from l2g.errors import CheckpointError
from l2g.files import sha256_of_file

SUM_KEY, SUMS = "l2g.sha256", "SHA256SUMS"
_BLOCK = 1 << 20


def sum_of(tensors: Mapping[str, Tensor], config: str = "") -> str:
    """SHA-256, in hexadecimal, of names, types, shapes and values of tensors in memory, and of a config's text."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode(errors="surrogatepass"))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_with_sum(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str], config: str = "") -> None:
    """Write a safetensors file that carries the sum of its content; the same tensors give the same bytes.

    The library writes several keys of metadata in another order each time, so they are put in order afterwards.
    """
    save_file(tensors, path, metadata={**metadata, SUM_KEY: sum_of(tensors, config)})
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def check_sum(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], config: str = ""
) -> None:
    """CheckpointError where the header carries a sum and the content has another; a file without one is taken."""
    expected = metadata.get(SUM_KEY)
    if expected is not None and sum_of(tensors, config) != expected:
        raise _damaged(path, f"its content has not the sum {expected[:12]}... that its header carries")


def check_archive(path: str | os.PathLike[str]) -> None:
    """CheckpointError where a part of a `torch.save` archive has not its CRC-32; one without them, or of the format
    before archives, is taken."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:  # 0: written with torch.serialization.set_crc32_options(False)
                    with archive.open(part) as file:
                        while file.read(_BLOCK):
                            pass
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, str(error)) from None


def check_beside(path: Path) -> None:
    """CheckpointError where the folder of `path` lists its SHA-256 sum and it has another."""
    listed = path.with_name(SUMS)
    try:
        lines = [line.split() for line in listed.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return
    expected = next((words[0] for words in lines if words[1:] == [path.name]), None)
    if expected is not None and sha256_of_file(path, CheckpointError) != expected:
        raise _damaged(path, f"it has not the sum {expected[:12]}... that '{listed}' lists")


def _damaged(path: str | os.PathLike[str], reason: str) -> CheckpointError:
    return CheckpointError(
        f"{os.fspath(path)}: was damaged or changed since it was written ({reason}); copy or download it again"
    )
