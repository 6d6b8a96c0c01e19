"""The public checkpoints that are known to work, as `l2g models` lists them; the facts are in models.json."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2g.errors import CheckpointError
from l2g.public.classes import class_lists
from l2g.public.hub import fetch

_FILE = Path(__file__).parent / "models.json"


@dataclass(frozen=True)
class PublicModel:
    """One public checkpoint.

    name: by which `--model` and `load_checkpoint` take it. family: VidEoMT or Mask DINO. task: "video instance",
    "image instance", ... dataset: that it was trained on, with so many `classes`. canvas: (height, width) that it was
    trained for, None where any will do. parameters: in millions. hub: the id of the Hugging Face hub, or None; url: of
    a file, or None. licence: of the weights, as their authors give it. metric, score: as published, None where it is
    not; source: where. class_list, box_init: what the checkpoint does not tell and others of its kind have otherwise,
    what its classes are called, by the name of a list in classes.json, and how a slot's box starts.
    """

    name: str
    family: str
    task: str
    dataset: str
    classes: int
    canvas: tuple[int, int] | None
    parameters: float
    licence: str
    metric: str
    score: float | None
    source: str
    hub: str | None = None
    url: str | None = None
    class_list: str | None = None
    box_init: str | None = None

    @property
    def place(self) -> str:
        """Where its authors say it lies."""
        return self.url or f"https://huggingface.co/{self.hub}"

    @property
    def file(self) -> str | None:
        """The published name of its file; None of a repository of the hub."""
        return None if self.url is None else self.url.rpartition("/")[2]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """In the order of the logits, where the checkpoint does not tell."""
        return None if self.class_list is None else class_lists()[self.class_list].names

    @property
    def megabytes(self) -> int:
        """Of its tensors in float32."""
        return round(self.parameters * 4)

    @property
    def command(self) -> str:
        return f"l2g run --model {self.name} --input VIDEO --output FOLDER"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "place": self.place, "megabytes": self.megabytes, "command": self.command}

    def fetch(self) -> Path:
        """The folder or the file of the checkpoint, fetched into a cache if need be; CheckpointError where it cannot
        be had."""
        return fetch(self.hub) if self.hub is not None else _fetch_file(self)


@functools.cache
def public_models() -> dict[str, PublicModel]:
    """By name."""
    entries = json.loads(_FILE.read_text(encoding="utf-8"))
    models = [
        PublicModel(**{**entry, "canvas": None if entry["canvas"] is None else tuple(entry["canvas"])})
        for entry in entries
    ]
    return {model.name: model for model in models}


def published(path: Path) -> PublicModel | None:
    """The model whose file has this name, wherever it lies: what is known of it goes beyond its tensors."""
    return next((model for model in public_models().values() if model.file == path.name), None)


def _fetch_file(model: PublicModel) -> Path:
    """By PyTorch's own downloader into its cache (TORCH_HOME), through the environment's proxies."""
    import torch.hub

    assert model.url is not None
    path = Path(torch.hub.get_dir()) / "checkpoints" / str(model.file)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(model.url, str(path), progress=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{model.name}: {model.url} is not to be had ({error}). Behind a proxy set HTTPS_PROXY. Without a "
                f"network: fetch that file on a machine that has one, and give its path here or copy it to {path}"
            ) from None
    return path
