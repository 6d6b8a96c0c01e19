"""Checkpoints of three origins load whole and equal; everything else is one error that says what is wrong."""

import json
import math
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from l2g import build_model, checkpoint, load_checkpoint, save_checkpoint
from l2g.checkpoint import shipped_checkpoints
from l2g.config import PRESETS, AlignerConfig, BackboneConfig
from l2g.errors import CheckpointError
from l2g.modeling.backbones.resnet import set_batch_norm
from l2g.modeling.family.maskdino import public_name
from l2g.public.classes import COCO_CLASSES
from tests import golden
from tests.checkpoint.files import PREDICTOR, refused, save, step
from tests.modeling.small import CONFIG, small_model

# --- the public format --------------------------------------------------------------------------------------------


def r50_listing_file(path, keep):
    """The public R50 listing as a file of zeros that share their bytes: names and shapes without the 200 MB."""
    listing = [entry for entry in golden.r50_listing() if keep(entry)]
    zeros = torch.zeros(max(math.prod(entry["shape"]) for entry in listing))
    tensors = {e["name"]: zeros[: math.prod(e["shape"])].view(e["shape"]) for e in listing}
    return save(tensors, path), len(tensors)


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (lambda e: True, 720),
        (lambda e: not e.get("alias_of"), 610),
        # detrex: its state dict has the box head only under the decoder.
        (lambda e: not e["name"].startswith((PREDICTOR + "_bbox_embed.", PREDICTOR + "bbox_embed.")), 660),
    ],
    ids=["aliases", "no aliases", "detrex"],
)
def test_the_state_dict_listing_loads(tmp_path, keep, names):
    path, count = r50_listing_file(tmp_path / "model.pth", keep)
    assert count == names
    model = load_checkpoint(path)
    expected = PRESETS["maskdino_r50"].replace(class_names=COCO_CLASSES)
    assert model.config == expected
    assert all(tensor.eq(0).all() for tensor in model.state_dict().values())
    assert not model.training


def variants(tiny):
    def without(*prefixes):
        return {name: tensor for name, tensor in tiny.items() if not name.startswith(prefixes)}

    copies = [PREDICTOR + name for name in ("bbox_embed.", "decoder.bbox_embed.", "decoder.norm.")]
    yield "no aliases", without(*copies)
    yield "detrex", without(PREDICTOR + "_bbox_embed.", PREDICTOR + "bbox_embed.")
    yield "norm under the decoder", without(PREDICTOR + "decoder_norm.")
    yield "no training leftovers", without("criterion.")
    yield "data parallel", {f"module.{name}": tensor for name, tensor in tiny.items()}
    norms = [name.removesuffix("running_var") for name in tiny if name.endswith("running_var")]
    yield "batch counters", tiny | {f"{norm}num_batches_tracked": torch.tensor(3) for norm in norms}


@pytest.mark.parametrize("index", range(6))
def test_every_variant_gives_the_same_answer(tmp_path, tiny, expected, index):
    name, tensors = list(variants(tiny))[index]
    assert tensors.keys() != tiny.keys(), name
    found = step(load_checkpoint(save(tensors, tmp_path / "model.pth"), **golden.TINY))[0]
    assert torch.equal(found.logits, expected.logits), name
    assert torch.equal(found.mask_logits, expected.mask_logits), name


@pytest.mark.parametrize("container", ["model", "state_dict", "model_ema", None])
def test_containers(tmp_path, tiny, expected, container):
    path = save(tiny, tmp_path / "model.pth", container)
    assert torch.equal(step(load_checkpoint(path, **golden.TINY))[0].logits, expected.logits)


def test_a_container_may_hold_more_than_the_model(tmp_path, tiny, expected):
    torch.save({"iteration": 5, "optimizer": {"state": {0: torch.ones(3)}}, "model": tiny}, tmp_path / "model.pth")
    found = load_checkpoint(tmp_path / "model.pth", **golden.TINY)
    assert torch.equal(step(found)[0].logits, expected.logits)


def test_half_precision_is_read_as_float32(tmp_path, tiny, expected):
    """The fixture's weights are exact in half precision, all but the criterion's."""
    path = save({name: tensor.half() for name, tensor in tiny.items()}, tmp_path / "model.pth")
    model = load_checkpoint(path, **golden.TINY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(step(model)[0].logits, expected.logits)


def test_public_names_in_safetensors(tmp_path, tiny, expected):
    save_file({name: tensor.contiguous().clone() for name, tensor in tiny.items()}, tmp_path / "model.safetensors")
    found = load_checkpoint(tmp_path / "model.safetensors", **golden.TINY)
    assert torch.equal(step(found)[0].logits, expected.logits)


def to_public(model) -> dict[str, torch.Tensor]:
    return {public_name(name): tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": BackboneConfig.resnet(18)},
        {"backbone": BackboneConfig.resnet(34, stem_channels=8, width=16, out_channels=16)},
        {"backbone": BackboneConfig.resnet(101, stem_channels=8, width=4, out_channels=32)},
        {"backbone": BackboneConfig("bottleneck", (2, 1, 3, 1), 12, 6, 20)},
        {"encoder": {"layers": 3, "ffn_dim": 24, "mask_dim": 40}, "decoder": {"layers": 1, "ffn_dim": 32}},
        {"hidden_dim": 128, "num_classes": 7},
        {"num_classes": 1},
    ],
)
def test_architecture_is_inferred(tmp_path, changes):
    model = small_model(aligner=None, association="embedding", **changes)
    path = save(to_public(model), tmp_path / "model.pth")
    found = load_checkpoint(path, num_queries=10, num_heads=4, input_size=CONFIG.input_size)
    assert found.config == model.config
    assert torch.equal(step(found)[0].logits, step(model)[0].logits)


def test_what_shapes_cannot_tell_is_given(tmp_path, tiny_file):
    model = load_checkpoint(
        tiny_file, num_queries=7, num_heads=8, box_init="bitmask", class_names=list("abcde"), input_size=(64, 96)
    )
    config = model.config
    assert (config.num_queries, config.box_init, config.class_names) == (7, "bitmask", tuple("abcde"))
    assert (config.input_size, config.association, config.aligner) == ((64, 96), "embedding", None)
    assert load_checkpoint(tiny_file).config.num_queries == 300


def test_coco_names():
    assert len(set(COCO_CLASSES)) == 80
    assert [COCO_CLASSES[i] for i in (0, 17, 62, 79)] == ["person", "horse", "tv", "toothbrush"]


# --- the native format --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aligner": None, "state_box": "head"},
        {"slot_marks": 0.25},
        {"trajectory": False},
        {"aligner": {"local_position": "dynamic"}, "box_init": "bitmask"},
    ],
)
def test_native_round_trip_is_exact(tmp_path, changes):
    model = small_model(class_names=("cat", "dog", "größe"), **changes)
    save_checkpoint(model, tmp_path / "model.safetensors")
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert found.config == model.config
    state = step(model)[1]
    one, two = step(model, state)[0], step(found, state)[0]
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.mask_logits, two.mask_logits)
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_marks_are_kept_and_not_drawn_anew(tmp_path):
    """Another version of PyTorch may draw others from the same seed."""
    model = small_model(slot_marks=0.25)
    model.slot_marks.mul_(2)
    save_checkpoint(model, tmp_path / "model.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "model.safetensors").slot_marks, model.slot_marks)


def test_the_header_holds_the_config(tmp_path):
    save_checkpoint(small_model(), tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert json.loads(header["__metadata__"]["l2g.config"]) == json.loads(json.dumps(CONFIG.to_dict()))


def test_a_file_is_known_by_its_content(tmp_path):
    model = small_model()
    save_checkpoint(model, tmp_path / "renamed.pth")
    assert torch.equal(step(load_checkpoint(tmp_path / "renamed.pth"))[0].logits, step(model)[0].logits)


def test_trainable_norms_are_saved_as_frozen_ones(tmp_path):
    model = small_model()
    set_batch_norm(model, trainable=True)
    save_checkpoint(model.eval(), tmp_path / "model.safetensors")
    found = load_checkpoint(tmp_path / "model.safetensors")
    torch.testing.assert_close(step(found)[0].logits, step(model)[0].logits, atol=1e-5, rtol=0)


def test_a_native_file_overrules_the_defaults_and_is_overruled_by_arguments(tmp_path):
    save_checkpoint(small_model(aligner=None, box_init="bitmask"), tmp_path / "model.safetensors")
    assert load_checkpoint(tmp_path / "model.safetensors").config.box_init == "bitmask"
    changed = load_checkpoint(tmp_path / "model.safetensors", box_init="mask2box", num_queries=5, class_names="abc")
    assert (changed.config.box_init, changed.config.num_queries) == ("mask2box", 5)
    assert changed.config.class_names == ("a", "b", "c")


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(small_model(), tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"before"
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(small_model(), tmp_path / "missing" / "model.safetensors")


def test_shipped_checkpoints_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path / "weights")
    assert shipped_checkpoints() == []
    assert refused("l2g_small", "no such file").endswith("expected the path of a .safetensors or .pth checkpoint")
    (tmp_path / "weights").mkdir()
    model = small_model()
    save_checkpoint(model, tmp_path / "weights" / "l2g_small.safetensors")
    assert shipped_checkpoints() == ["l2g_small"]
    assert torch.equal(step(load_checkpoint("l2g_small"))[0].logits, step(model)[0].logits)
    monkeypatch.chdir(tmp_path)
    for other in ("l2g_large", "./l2g_small"):
        with pytest.raises(CheckpointError, match=r"or a shipped model's name \(l2g_small\)"):
            load_checkpoint(other)


# --- errors -------------------------------------------------------------------------------------------------------


def test_no_file_and_a_directory(tmp_path):
    refused(tmp_path / "no.pth", "no such file", "expected the path of")
    refused(tmp_path, "a directory", "expected the path of")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"not a checkpoint\n" * 99, bytes(1000), b"\x80\x02", b"PK\x03\x04" + bytes(99)]
)
def test_files_that_are_no_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "not a whole", "copy or download it again")


@pytest.mark.parametrize("kind", ["zip", "legacy", "native"])
def test_truncated_files(tmp_path, tiny, kind):
    whole = tmp_path / "whole"
    if kind == "native":
        save_checkpoint(small_model(), whole)
    else:
        torch.save({"model": tiny}, whole, _use_new_zipfile_serialization=kind == "zip")
    data = whole.read_bytes()
    path = tmp_path / ("model.safetensors" if kind == "native" else "model.pth")
    size = len(data)
    for length in (0, 1, 2, 5, 8, 9, 64, 1000, size // 3, size // 2, size - 5000, size - 100, size - 1):
        path.write_bytes(data[:length])
        refused(path, "not a whole", "copy or download it again")


class Harmful:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_objects_are_never_unpickled(tmp_path, tiny):
    torch.save({"model": tiny, "trainer": Harmful(tmp_path / "harm")}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "would run its code", "torch.save({'model': model.state_dict()}")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ([1, 2], "list found"),
        ({}, "a dict without tensors (keys: none) found"),
        ({"model": {}}, "a dict without tensors (keys: none) found"),
        ({"epoch": 3, "lr": 0.1}, "a dict without tensors (keys: epoch, lr) found"),
        (torch.ones(3), "Tensor found"),
    ],
)
def test_pickles_of_something_else(tmp_path, data, found):
    torch.save(data, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", found, "expected a state dict")


def test_missing_tensors_are_named_as_the_file_names_them(tmp_path, tiny):
    layer = "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.norm1."
    save({name: t for name, t in tiny.items() if not name.startswith(layer)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", f"2 missing: {layer}bias, {layer}weight", "is complete", **golden.TINY)


@pytest.mark.parametrize(
    "name",
    ["class_embed.weight", "decoder.layers.0.linear1.weight"],
)
def test_missing_tensors_that_tell_the_architecture(tmp_path, tiny, name):
    save({key: t for key, t in tiny.items() if key != PREDICTOR + name}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", f"'{PREDICTOR}{name}' is missing", "architecture cannot be inferred")


def test_a_backbone_alone_is_not_a_model(tmp_path, tiny):
    save({name: t for name, t in tiny.items() if name.startswith("backbone.")}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "class_embed.weight' is missing")


def test_unexpected_tensors_are_named(tmp_path, tiny):
    save({**tiny, "roi_heads.fc.weight": torch.ones(3), "roi_heads.fc.bias": torch.ones(3)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "2 unexpected tensors", "roi_heads.fc.weight, roi_heads.fc.bias", "Mask DINO")
    extra = "backbone.res2.0.conv1.scale"
    save({**tiny, extra: torch.ones(3)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", f"1 unexpected: {extra}", **golden.TINY)


def test_half_a_swin_backbone_is_named(tmp_path, tiny):
    resnet = {name: t for name, t in tiny.items() if not name.startswith("backbone.")}
    save({**resnet, "backbone.patch_embed.proj.weight": torch.ones(96, 3, 4, 4)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "relative_position_bias_table' is missing", "with a ResNet or Swin backbone")


def test_mis_shaped_tensors_are_named_with_both_shapes(tmp_path, tiny):
    name = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight"
    save({**tiny, name: torch.ones(255)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "1 of another shape", f"{name} is [255], expected [256]", **golden.TINY)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (5, 0), (5, 255)])
def test_mis_shaped_tensors_that_tell_the_architecture(tmp_path, tiny, shape):
    save({**tiny, PREDICTOR + "class_embed.weight": torch.ones(shape)}, tmp_path / "model.pth")
    message = refused(tmp_path / "model.pth")
    assert "255" in message if shape == (5, 255) else PREDICTOR + "class_embed.weight" in message


def test_wrong_head_counts(tiny_file):
    refused(tiny_file, "of another shape", "attention_weights", "Check num_heads", num_heads=4, num_queries=20)
    refused(tiny_file, "hidden_dim 256 does not divide by 7 heads", num_heads=7, num_queries=20)


def test_wrong_arguments(tiny_file):
    refused(tiny_file, "4 class names found for 5 classes", class_names=tuple("abcd"))
    refused(tiny_file, "unknown field colour", colour=3)
    refused(tiny_file, "box_init 'box'", box_init="box")
    refused(tiny_file, "missing: aligner.layers.0.cross_attn.in_proj_bias", aligner=AlignerConfig())


def test_box_heads_that_are_not_shared_are_refused(tmp_path, tiny):
    name = PREDICTOR + "bbox_embed.1.layers.0.bias"
    assert name in tiny
    save({**tiny, name: tiny[name] + 1}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", f"'{name}' differs from its shared original '{PREDICTOR}_bbox_embed.layers.0.bias'")


def test_native_files_of_another_version_or_architecture(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in small_model().state_dict().items()}
    config = CONFIG.to_dict()

    def write(metadata, **changes):
        save_file({**tensors, **changes}, path, metadata=metadata)
        return path

    refused(write({}), "bare state dict of an l2g model found", "l2g.save_checkpoint")
    refused(write({"l2g.config": "{"}), "config in its header is damaged")
    refused(write({"l2g.config": "3"}), "config in its header is damaged")

    def changed(**changes):
        return write({"l2g.config": json.dumps(config | changes)})

    refused(changed(future=1), "another version of l2g", "unknown field future")
    refused(changed(num_queries=11), "aligner.local_position.weight is [10, 64], expected [11, 64]")
    refused(changed(aligner=None), "unexpected: aligner.layers.0")
    whole = {"l2g.config": json.dumps(config)}
    refused(write(whole, label_embed=torch.ones(3)), "1 unexpected: label_embed")
    del tensors["heads.norm.bias"]
    refused(write(whole), "1 missing: heads.norm.bias")


def test_presets_survive_the_native_format(tmp_path):
    model = build_model("l2g_tiny")
    save_checkpoint(model, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < 16e6
    assert load_checkpoint(tmp_path / "model.safetensors").config == PRESETS["l2g_tiny"]


@pytest.mark.parametrize("case", ["bare", "contained", "wrapped", "safetensors", "no aligner"])
def test_a_bare_state_dict_of_our_own_is_named_and_what_the_error_advises_works(tmp_path, case):
    model = small_model(aligner=None) if case == "no aligner" else small_model()
    tensors, path = model.state_dict(), tmp_path / "model.pth"
    if case == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
    elif case == "contained":
        torch.save({"model": tensors, "epoch": 3}, path)
    elif case == "wrapped":
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"bare state dict.*l2g\.save_checkpoint\(model, 'model\.safetensors'\)"):
        load_checkpoint(path)
    if case in ("bare", "no aligner"):
        again = build_model(model.config)
        again.load_state_dict(torch.load(path))
        save_checkpoint(again, tmp_path / "native.safetensors")
        assert torch.equal(step(load_checkpoint(tmp_path / "native.safetensors"))[0].logits, step(model)[0].logits)


def test_a_whole_pickled_model_is_told_of_save_checkpoint(tmp_path):
    torch.save(small_model(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"l2g\.save_checkpoint"):
        load_checkpoint(tmp_path / "model.pth")
