"""Checkpoints of the Hugging Face hub: recognised, fetched and checked. Needs no torch.

The library's own means do the work: `HF_HOME` says where files are kept, `HF_ENDPOINT` names a mirror, `HF_HUB_OFFLINE`
forbids the network, proxies are those of the environment. Code from the hub is never run.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from l2g.errors import CheckpointError
from l2g.files import sha256_of_file

CONFIG = "config.json"
# What a checkpoint is made of; nothing else of a repository is fetched.
FILES = (CONFIG, "*processor_config.json", "*.safetensors", "*.safetensors.index.json")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A large file's name in the cache is its SHA-256, as the hub gives it.
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_hub_checkpoint(name: str | os.PathLike[str]) -> bool:
    """Whether `name` is a folder with a config.json, or looks like an id of the hub: "owner/name", and no such path."""
    path = Path(name)
    return (path / CONFIG).is_file() or (not path.exists() and not path.parent.is_dir() and _is_id(os.fspath(name)))


def folder_of(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint: `name` itself, or where the hub's files of this id are, fetched if need be.

    revision: a branch, tag or commit of the repository. Raises CheckpointError where it cannot be had.
    """
    path = Path(name)
    return path if path.is_dir() else fetch(os.fspath(name), revision)


def weights_of(path: Path) -> Path:
    """The file by whose sum a checkpoint is known: itself, or of a folder its first file of tensors."""
    return path if not path.is_dir() else min(path.glob("*.safetensors"), default=path / CONFIG)


def name_of(path: Path) -> str:
    """What a checkpoint is called: the name of a file or folder, the id of what lies in the hub's cache."""
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.name


def model_type(folder: Path) -> str:
    """What the config says that the model is; CheckpointError for one that is not JSON or says nothing."""
    file = folder / CONFIG
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
        found = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: no configuration of a Hugging Face model ({type(error).__name__}: {error}); download it again"
        ) from None
    return str(found)


def fetch(name: str, revision: str | None = None) -> Path:
    """Fetch the checkpoint of an id into the library's cache, with a progress bar on a terminal; what is there already
    is not fetched again. The sums of large files are checked, those of a cache that others may have touched too.

    Raises CheckpointError: no library, no network, no such repository, files that do not have their sums.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{name}: looks like a checkpoint of the Hugging Face hub, whose library is not installed; "
            "pip install 'l2g[hf]'"
        ) from None
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(_unreachable(name, error)) from None
    except Exception as error:  # its validators and clients have classes of their own
        raise CheckpointError(_unreachable(name, error)) from None
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{name}: the repository has no {CONFIG}, so it holds no transformers checkpoint")
    _check_sums(name, folder)
    return folder


def _is_id(name: str) -> bool:
    return _ID.fullmatch(name) is not None and not name.endswith((".safetensors", ".pth", ".pt", ".pkl", ".bin"))


def _check_sums(name: str, folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        blob = file.resolve()
        if _SHA256.fullmatch(blob.name) and sha256_of_file(blob, CheckpointError) != blob.name:
            raise CheckpointError(
                f"{name}: {blob} does not have the SHA-256 that the hub gives for it, so it is damaged or was changed; "
                "delete that file and run the command again"
            )


def _unreachable(name: str, error: Exception) -> str:
    from huggingface_hub import constants

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{name}: neither a path here nor to be had from {constants.ENDPOINT} ({reason.rstrip('.')}). Check the name; "
        "behind a mirror set HF_ENDPOINT, behind a proxy HTTPS_PROXY. Without a network: on a machine that has one, "
        f"hf download {name} --include '*config.json' '*.safetensors' --local-dir FOLDER; copy FOLDER here and give "
        "its path in place of the name"
    )
