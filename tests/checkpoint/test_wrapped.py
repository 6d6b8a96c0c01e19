"""Names as trainers wrap them load; what is claimed, not finite or not plain is refused before it is built."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from l2g import load_checkpoint, save_checkpoint
from l2g.config import PRESETS
from l2g.errors import CheckpointError
from tests import golden
from tests.checkpoint.files import PREDICTOR, refused, save, step
from tests.modeling.small import small_model


@pytest.mark.parametrize(
    "prefixes",
    [("_orig_mod.",), ("module.", "_orig_mod."), ("model.",), ("model.", "module."), ("ema_model.", "module.")],
    ids="/".join,
)
@pytest.mark.parametrize("container", ["model", "state_dict", "ema"])
def test_names_as_trainers_wrap_them(tmp_path, tiny, expected, prefixes, container):
    wrapped = {"".join(prefixes) + name: tensor for name, tensor in tiny.items()}
    wrapped["n_averaged"] = torch.tensor(7)
    torch.save({container: wrapped, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "model.pth")
    found = load_checkpoint(tmp_path / "model.pth", **golden.TINY)
    assert torch.equal(step(found)[0].logits, expected.logits)


def test_a_container_within_a_container(tmp_path, tiny, expected):
    torch.save({"model_ema": {"state_dict": tiny, "decay": 0.9}}, tmp_path / "model.pth")
    found = load_checkpoint(tmp_path / "model.pth", **golden.TINY)
    assert torch.equal(step(found)[0].logits, expected.logits)


def test_containers_without_an_end(tmp_path, tiny):
    around = {"state_dict": {"epoch": 3}}
    around["model"] = around
    torch.save(around, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "a dict without tensors")
    deep = tiny
    for _ in range(100):
        deep = {"model": deep}
    torch.save(deep, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "a dict without tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, tiny, value):
    name = "sem_seg_head.pixel_decoder.mask_features.bias"
    broken = tiny[name].clone()
    broken[3] = value
    save({**tiny, name: broken}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", name, "holds NaN or infinity", **golden.TINY)


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, value):
    """Of a native file; what lay there before stays."""
    model, path = small_model(), tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    before = path.read_bytes()
    with torch.no_grad():
        model.heads.class_embed.bias[1] = value
    with pytest.raises(CheckpointError, match=r"not written, since 'heads\.class_embed\.bias' holds NaN"):
        save_checkpoint(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    # Written by somebody else: the last eight bytes are two numbers of the last tensor.
    path.write_bytes(before[:-4] + struct.pack("<f", value))
    refused(path, "holds NaN or infinity")


def test_integers_in_the_place_of_weights_are_refused(tmp_path, tiny):
    name = "backbone.stem.conv1.weight"
    save({**tiny, name: tiny[name].view(torch.int32)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", name, "holds int32", **golden.TINY)


def test_tensors_that_are_not_plain(tmp_path, tiny):
    name = "backbone.stem.conv1.weight"
    save({**tiny, name: tiny[name].to_sparse()}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", name, "is sparse", **golden.TINY)
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    for odd, kind in ((nested, "nested"), (torch.zeros(2, device="meta"), "a shape without numbers")):
        save({**tiny, name: odd}, tmp_path / "model.pth")
        refused(tmp_path / "model.pth", name, f"is {kind}", **golden.TINY)
    save({**tiny, name: tiny[name].to(torch.float8_e4m3fn)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", name, "holds float8_e4m3fn", **golden.TINY)
    save({**tiny, 1: torch.zeros(2)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "a tensor is named 1", **golden.TINY)
    save({**tiny, None: torch.zeros(2)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "a tensor is named None", **golden.TINY)


def test_layers_that_are_only_claimed_are_not_built(tmp_path, tiny):
    """At once, and without the memory: a name that claims a millionth layer, a config that does."""
    save({**tiny, PREDICTOR + "decoder.layers.999999.norm1.weight": torch.ones(1)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "layers claimed", **golden.TINY)
    save({**tiny, "backbone.stem.conv1.weight": torch.zeros(1, 1).expand(10**7, 64)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "of another shape", **golden.TINY)
    tensors, config = {"a": torch.zeros(1)}, PRESETS["l2g_tiny"].to_dict()
    for part, field, value, words in (
        ("encoder", "layers", 10**6, "layers claimed"),
        ("encoder", "ffn_dim", 10**10, "missing"),
        ("backbone", "width", 10**8, "no model can have the sizes"),
    ):
        many = tensors | {f"t{index}": torch.zeros(1) for index in range(300)}
        changed = {**config, part: {**config[part], field: value}}
        save_file(many, tmp_path / "a.safetensors", metadata={"l2g.config": json.dumps(changed)})
        refused(tmp_path / "a.safetensors", words)
