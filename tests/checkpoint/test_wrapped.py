"""Names as trainers wrap them load; what is claimed, not finite or not plain is refused before it is built."""

import json
import pickle
import shutil
import struct
from argparse import Namespace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from l2g import checkpoint, load_checkpoint, save_checkpoint
from l2g.checkpoint import shipped_checkpoints
from l2g.config import PRESETS
from l2g.errors import CheckpointError
from l2g.modeling.family.pickled import BESIDE, CONTAINERS, read_tensors, unwrapped
from tests import golden
from tests.checkpoint.files import PREDICTOR, refused, save, step
from tests.modeling.small import small_model

PREFIXES = (
    "_orig_mod.", "module._orig_mod.", "model.", "model.module.", "ema_model.module.", "module.ema.", "model_ema.",
    "shadow.", "teacher.", "detector.", "segmentor.", "averaged_model.", "module.module.", "_forward_module.module.",
    "_fsdp_wrapped_module.", "model._orig_mod.", "_orig_mod.module.", "network.", "a.b.c.",
)  # fmt: skip


# Names that a public checkpoint has.
NAMES = (
    "backbone.stem.conv1.weight", "backbone.res2.0.conv1.weight", "sem_seg_head.pixel_decoder.mask_features.weight",
    "sem_seg_head.predictor.class_embed.weight", "sem_seg_head.predictor.decoder.layers.0.linear1.bias",
    "sem_seg_head.predictor.mask_embed.layers.1.bias",
)  # fmt: skip
FEW = {name: torch.randn(3, 2, generator=torch.Generator().manual_seed(n)) for n, name in enumerate(NAMES)}


def _is_read(path):
    """Whether the file gives the tensors of FEW, and nothing but what is known to lie beside some."""
    found = unwrapped(read_tensors(path))
    assert {name for name in found if not BESIDE.match(name)} == FEW.keys()
    return all(torch.equal(found[name], tensor) for name, tensor in FEW.items())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_as_trainers_wrap_them(tmp_path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in FEW.items()}
    wrapped["n_averaged"] = torch.tensor(7)
    torch.save({"state_dict": wrapped, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "model.pth")
    assert _is_read(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("part", "mark"),
    [
        ("backbone.", "_orig_mod."), ("backbone.", "_fsdp_wrapped_module."), ("sem_seg_head.", "_orig_mod."),
        ("sem_seg_head.predictor.", "_checkpoint_wrapped_module."), ("sem_seg_head.pixel_decoder.", "_orig_mod."),
        ("sem_seg_head.predictor.decoder.", "_orig_mod."), ("backbone.res2.0.", "_checkpoint_wrapped_module."),
        ("backbone.stem.", "_orig_mod."), ("sem_seg_head.predictor.decoder.layers.0.", "_fsdp_wrapped_module."),
        ("sem_seg_head.predictor.mask_embed.layers.", "_orig_mod."),
    ],
)  # fmt: skip
def test_parts_that_are_wrapped_alone(tmp_path, part, mark):
    """torch.compile of the backbone alone, sharding and recomputation block by block."""
    wrapped = {name.replace(part, part + mark, 1): tensor for name, tensor in FEW.items()}
    assert wrapped.keys() != FEW.keys()
    torch.save({"model": wrapped}, tmp_path / "model.pth")
    assert _is_read(tmp_path / "model.pth")


@pytest.mark.parametrize("as_safetensors", [False, True])
def test_a_model_wrapped_in_every_way_gives_the_same_answer(tmp_path, tiny, expected, as_safetensors):
    wrapped = {f"model.module.{name}".replace("backbone.", "backbone._orig_mod."): tiny[name] for name in tiny}
    if as_safetensors:
        save_file({name: tensor.clone() for name, tensor in wrapped.items()}, tmp_path / "model.pth")
    else:
        torch.save({"state_dict": wrapped, "hyper_parameters": Namespace(lr=1e-4)}, tmp_path / "model.pth")
    found = load_checkpoint(tmp_path / "model.pth", **golden.TINY)
    assert torch.equal(step(found)[0].logits, expected.logits)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container(tmp_path, container):
    torch.save({container: FEW, "epoch": 3, "lr": [1e-4]}, tmp_path / "model.pth")
    assert _is_read(tmp_path / "model.pth")


@pytest.mark.parametrize("copy", ["ema_model.module.", "model_ema.", "teacher.", "shadow.", "swa_model."])
@pytest.mark.parametrize("first", ["model", "copy"])
def test_of_a_model_and_its_copy_in_one_dict_the_model_is_loaded(tmp_path, copy, first):
    """Whichever stands first, and whether the copy is whole or of some tensors."""
    models = {f"model.{name}": tensor for name, tensor in FEW.items()}
    for kept in (FEW, [name for name in FEW if "class_embed" in name]):
        copies = {copy + name: FEW[name] + 1 for name in kept}
        torch.save(models | copies if first == "model" else copies | models, tmp_path / "model.pth")
        assert _is_read(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "value",
    [
        Namespace(lr=1e-4, output_dir=Path("runs"), backbone="resnet50"), SimpleNamespace(a=1), Path("a/b"),
        PurePosixPath("a"), np.float64(46.1), np.float32(46.1), np.int64(3), np.bool_(True),
        np.arange(6, dtype=np.int32).reshape(2, 3), [np.ones((), np.float16)],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_data_beside_the_weights(tmp_path, value):
    """What DETR's trainers were called with, best scores, curves."""
    torch.save({"model": FEW, "args": value, "best": {"mask AP": value}}, tmp_path / "model.pth")
    assert _is_read(tmp_path / "model.pth")


def _pickled(tensors, path, protocol=2):
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "a zoo"}, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F", ">"])
def test_arrays_of_numpy(tmp_path, protocol, order):
    """As detectron2's model zoo has them, with and without torch.save around."""
    arrays = {name: np.asarray(tensor.numpy(), order="F" if order == "F" else "C") for name, tensor in FEW.items()}
    if order == ">":
        arrays = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()}
    assert _is_read(_pickled(arrays, tmp_path / "model.pkl", protocol))
    torch.save({"model": arrays}, tmp_path / "model.pth")
    assert _is_read(tmp_path / "model.pth")


class _Call:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, None], object), np.array(["a"]), np.zeros(2, [("a", "f4")]), np.array(["2026"], "M8[Y]"),
        _Call(exec, "print('was run')"), _Call(eval, "print('was run')"), _Call(np.void, b"1"),
        _Call(np.dtype, "O"), _Call(np.frombuffer, b"1234", "f4"), _Call(np.ndarray, (10**12,), np.dtype("f4")),
    ],
    ids=range(10),
)  # fmt: skip
def test_other_objects_in_a_pickle_are_refused(tmp_path, value, capsys):
    """Dtypes of objects too: NumPy would take bytes of the file for pointers."""
    arrays = {name: tensor.numpy() for name, tensor in FEW.items()}
    refused(_pickled(arrays | {"x": value}, tmp_path / "model.pkl"), "not a whole PyTorch checkpoint of plain tensors")
    torch.save({"model": FEW, "x": value}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "not a whole PyTorch checkpoint of plain tensors")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"epoch: 3, loss: 0.1\n", "(it begins with b'epoch: 3', neither a ZIP archive nor a pickle)"),
        (b"\0\0\0\x20ftypisom", "(it begins with b'\\x00\\x00\\x00 ftyp', neither a ZIP archive nor a pickle)"),
        (b"", "(it is empty)"),
        (b"\x80\x02}h\x65.", "(it is damaged, or holds other things than tensors)"),
        (b"PK\x03\x04" + bytes(40), "(PytorchStreamReader failed reading zip archive"),
    ],
    ids=["text", "video", "empty", "pickle", "archive"],
)
def test_what_is_no_checkpoint_is_said_in_words(tmp_path, content, reason):
    (tmp_path / "model.pth").write_bytes(content)
    refused(tmp_path / "model.pth", reason)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "held"),
    [
        (_Call(exec, "pass"), "exec"),
        (_Call(shutil.rmtree, "x"), "shutil.rmtree)"),
        (np.array([None]), "an array of 'O8'"),
    ],
)
def test_what_is_refused_is_named_without_unsafe_advice(tmp_path, value, held, zipped):
    """PyTorch's own text is to load it all the same."""
    torch.save({"model": FEW, "x": value}, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    text = refused(tmp_path / "model.pth", f"(it holds {held}")
    assert not any(word in text for word in ("weights_only", "Re-running", "allowlist", "\n", "\033"))


def test_a_torchscript_archive_is_refused_without_unsafe_advice(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    assert "weights_only" not in refused(tmp_path / "model.pt", "(it is damaged, or holds other things than tensors)")


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
    # Written by somebody else, without a sum: the last eight bytes are two numbers of the last tensor.
    path.write_bytes(before[:-4].replace(b'"l2g.sha256"', b'"l2g.anyhow"') + struct.pack("<f", value))
    refused(path, "holds NaN or infinity")


def flipped(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.75, 1])
def test_a_flipped_bit_that_leaves_weights_finite(tmp_path, share):
    """The lowest bit of a number of the head, the middle, the end."""
    path = tmp_path / "model.safetensors"
    save_checkpoint(small_model(), path)
    load_checkpoint(path)
    start = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    count = (path.stat().st_size - start) // 4
    flipped(path, start + 4 * min(count - 1, int(share * count)))
    refused(path, "was damaged or changed since it was written", "its header carries")


def test_a_config_that_was_edited_in_the_header(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(small_model(), path)
    content = path.read_bytes()
    assert content.count(b'\\"trajectory\\": true') == 1
    path.write_bytes(content.replace(b'\\"trajectory\\": true', b'\\"trajectory\\":false'))
    refused(path, "was damaged or changed since it was written")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("name", shipped_checkpoints())
def test_a_flipped_bit_in_shipped_weights(tmp_path, monkeypatch, name, share):
    """Their files are older than the sums in headers; anywhere, the header too."""
    shutil.copytree(checkpoint.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path / "weights")
    path = tmp_path / "weights" / f"{name}.safetensors"
    flipped(path, min(path.stat().st_size - 1, int(share * path.stat().st_size)))
    refused(path, "was damaged or changed since it was written", "SHA256SUMS' lists")


def test_shipped_weights_are_those_that_are_listed():
    lines = (checkpoint.WEIGHTS / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == [f"{name}.safetensors" for name in shipped_checkpoints()]
    for name in shipped_checkpoints():
        load_checkpoint(name)


def test_a_native_file_without_a_sum_loads(tmp_path):
    """As all of earlier versions."""
    path = tmp_path / "model.safetensors"
    model = small_model()
    save_checkpoint(model, path)
    path.write_bytes(path.read_bytes().replace(b'"l2g.sha256"', b'"l2g.anyhow"'))
    flipped(path, -4)
    loaded = load_checkpoint(path).state_dict()
    different = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, loaded[name])]
    assert len(different) == 1


@pytest.mark.parametrize("summed", [True, False])
def test_a_flipped_bit_in_an_archive(tmp_path, tiny, expected, summed):
    """torch.save writes a CRC-32 of each part unless told not to; torch.load takes what has another."""
    torch.serialization.set_crc32_options(summed)
    try:
        path = save(tiny, tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    whole = load_checkpoint(path, **golden.TINY)
    assert torch.equal(step(whole)[0].logits, expected.logits)
    name = "sem_seg_head.pixel_decoder.mask_features.weight"
    place = path.read_bytes().index(tiny[name].numpy().tobytes())
    flipped(path, place + 8)
    if summed:
        refused(path, "was damaged or changed since it was written", "Bad CRC-32", **golden.TINY)
    else:
        assert load_checkpoint(path, **golden.TINY)


def test_an_archive_of_the_old_kind_loads(tmp_path, tiny, expected):
    torch.save({"model": tiny}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(step(load_checkpoint(tmp_path / "model.pth", **golden.TINY))[0].logits, expected.logits)


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
    save({**tiny, "backbone.stem.conv1.weight": torch.zeros(1, 1).expand(10**12, 64)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "conv1.weight' [1000000000000, 64] repeats the few numbers", **golden.TINY)
    tensors, config = {"a": torch.zeros(1)}, PRESETS["l2g_tiny"].to_dict()
    for part, field, value, words in (
        ("encoder", "layers", 10**6, "layers claimed"),
        ("encoder", "ffn_dim", 10**10, "missing"),
        ("backbone", "width", 10**8, "no model can have the sizes"),
        ("backbone", "blocks", [0, 1, 1, 1], "blocks[0] is 0; give a whole number above 0"),
    ):
        many = tensors | {f"t{index}": torch.zeros(1) for index in range(300)}
        changed = {**config, part: {**config[part], field: value}}
        save_file(many, tmp_path / "a.safetensors", metadata={"l2g.config": json.dumps(changed)})
        refused(tmp_path / "a.safetensors", words)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """Also with several keys of metadata, which safetensors orders anew each time."""
    model = small_model()
    for number in range(8):
        save_checkpoint(model, tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert load_checkpoint(tmp_path / "0.safetensors").config == model.config
