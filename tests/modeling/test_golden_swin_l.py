"""The published Swin-L at its full size, against the public implementation's outputs."""

import zlib

import numpy as np
import pytest
import torch

from l2g import load_checkpoint
from tests import golden
from tests.modeling.taps import backbone_tensors, close, normalised, run, swin_l_listing


@pytest.fixture(scope="module")
def fixture():
    found = dict(golden.fixture("swin_l_outputs"))
    meta = found["meta"]
    found["image"] = golden.recipe.make_image(*meta["hw"], meta["image_seed"])
    assert f"{zlib.crc32(found['image'].tobytes()):08x}" == meta["image_crc32"]
    return found


@pytest.fixture(scope="module")
def model(fixture, tmp_path_factory):
    """Every tensor of the published listing, drawn by the recipe and held to its sum."""
    seed, tensors = fixture["meta"]["weight_seed"], {}
    for entry in swin_l_listing():
        tensors[entry["name"]] = torch.from_numpy(golden.recipe.draw(entry["name"], entry["shape"], seed))
    for name, crc in fixture["weights_crc32"].items():
        assert f"{zlib.crc32(tensors[name].numpy().tobytes()):08x}" == crc, name
    file = tmp_path_factory.mktemp("swin_l") / "model.pth"
    torch.save({"model": tensors}, file)
    return load_checkpoint(file)


def part(array, stored):
    """`array` as the fixture stores it: a name without "@", and the first channels or queries, every fourth pixel."""
    for word, size in (("_first8", 8), ("_first32", 32), ("@first8ch", 8), ("@first16q", 16)):
        if word in stored:
            array = array[:, :size] if array.ndim == 4 or word.endswith("q") else array[..., :size]
    return array[..., ::4, ::4] if "_stride" in stored else array


def tolerance(name, expected):
    if name.startswith("backbone"):
        return 2e-5
    if name.startswith("swin"):
        # Tokens within the backbone are not normalised. Those of stage 2 go up to 19, where the public code itself
        # differs from its own fixture by 1.6e-5 on another processor.
        return max(2e-5, 2e-6 * float(np.abs(expected).max()))
    return 1e-3 if "pred_masks" in name else 1e-4


def test_every_output_of_the_published_swin_l(fixture, model):
    assert sum(parameter.numel() for parameter in model.parameters()) == fixture["meta"]["parameters"] == 222_799_144
    images = normalised(fixture, model)
    out = run(model, images) | backbone_tensors(model, images)
    checked = []
    for key, expected in fixture.items():
        stored = key.removeprefix("out/")
        if not key.startswith("out/") or stored.startswith("inst.") or stored == "dec.refpoints.9":
            continue  # the last refinement is never used and never computed here
        if stored == "two_stage.topk_indices":
            assert np.array_equal(out["topk"].numpy(), expected)
        else:
            plain = stored.split("@")[0].split("_stride")[0].split("_first")[0]
            close(stored, part(out[plain], stored), expected, tolerance(plain, expected))
        checked.append(stored)
    assert len(checked) == 43
