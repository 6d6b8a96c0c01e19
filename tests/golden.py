"""The public Mask DINO's answers (tests/assets/maskdino, maskdino_swin) and the checkpoints that they belong to."""

import importlib.util
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "assets" / "maskdino"
SWIN = DATA.with_name("maskdino_swin")
TINY = {"num_queries": 20, "num_heads": 8}

_spec = importlib.util.spec_from_file_location("golden_recipe", DATA / "recipe.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


@lru_cache
def fixture(name: str) -> dict:
    """All arrays of golden_<name>.npz; JSON entries parsed, under their key without `_json`."""
    folder = SWIN if name.startswith("swin") else DATA
    with np.load(folder / f"golden_{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    for key in [key for key in data if key.endswith("_json")]:
        data[key.removesuffix("_json")] = json.loads(bytes(data.pop(key)))
    return data


def tiny_state_dict(name: str, aliases: bool = True) -> dict[str, torch.Tensor]:
    """The public state dict of a tiny fixture, drawn by the recipe, with or without its redundant names."""
    golden = fixture(name)
    seed = golden["meta"]["weight_seed"]
    if "weights" in golden["meta"]:
        golden = fixture(golden["meta"]["weights"].removeprefix("golden_").removesuffix(".npz"))
    tensors = {key: torch.from_numpy(recipe.draw(key, shape, seed)) for key, shape in golden["shapes"].items()}
    if aliases:
        tensors.update({alias: tensors[target] for alias, target in golden["aliases"].items()})
    return tensors


def r50_listing() -> list[dict]:
    return json.loads((DATA / "state_dict_r50.json").read_text())


def r50_state_dict() -> dict[str, torch.Tensor]:
    """The full-size public state dict with the recipe's weights."""
    return {
        entry["name"]: torch.from_numpy(
            recipe.draw(entry["name"], entry["shape"], fixture("r50_outputs")["meta"]["weight_seed"])
        )
        for entry in r50_listing()
        if not entry.get("alias_of")
    }


def instances(golden: dict) -> list[tuple[int, float, np.ndarray, np.ndarray]]:
    """(class, score, box, mask) of the post-processed instances, sorted by class and score."""
    _, _, width = golden["out/inst.masks_shape"]
    masks = np.unpackbits(golden["out/inst.masks_packed"], axis=-1)[..., :width].astype(bool)
    rows = zip(golden["out/inst.classes"], golden["out/inst.scores"], golden["out/inst.boxes"], masks, strict=True)
    return sorted(((int(c), float(s), b, m) for c, s, b, m in rows), key=lambda row: row[:2])
