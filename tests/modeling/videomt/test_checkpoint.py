"""VidEoMT comes out of Hugging Face folders and its authors' files, or one error says why not."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideomtForUniversalSegmentation

import l2g
from l2g.contract import PIXEL_MEAN, PIXEL_STD
from l2g.errors import CheckpointError
from l2g.modeling.videomt import checkpoint
from tests.modeling.videomt.small import NAMES, moving_frames, network


@pytest.fixture
def folder(tmp_path):
    network(seed=5).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(model):
    frames = torch.from_numpy(moving_frames(model, 1, 1)[:, 0])
    with torch.no_grad():
        return model.step(frames)[0].logits.numpy()


def refused(path, **options):
    with pytest.raises(CheckpointError) as error:
        l2g.load_checkpoint(path, **options)
    return str(error.value)


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folder_of_transformers(folder):
    model = l2g.load_checkpoint(folder)
    assert model.family == "videomt"
    assert not model.training
    assert model.config.class_names == NAMES
    for name, tensor in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(model.network.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_half_precision_file_is_computed_in_float32(folder):
    file = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    edit(folder, dtype="float16")
    assert {tensor.dtype for tensor in l2g.load_checkpoint(folder).network.parameters()} == {torch.float32}


def test_class_names_may_be_given(folder):
    names = ("a", "b", "c", "d", "e", "f")
    assert l2g.load_checkpoint(folder, class_names=names).config.class_names == names
    assert "2 class names for 6 classes" in refused(folder, class_names=("a", "b"))


def test_saved_and_loaded_again(folder, tmp_path):
    model = l2g.load_checkpoint(folder, class_names=("a", "b", "c", "d", "e", "f"))
    l2g.save_checkpoint(model, tmp_path / "again")
    again = l2g.load_checkpoint(tmp_path / "again")
    np.testing.assert_array_equal(logits(again), logits(model))
    assert again.config == model.config
    # And transformers takes it for its own.
    public = VideomtForUniversalSegmentation.from_pretrained(tmp_path / "again")
    assert public.config.id2label[2] == "c"
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a file is there"):
        l2g.save_checkpoint(model, tmp_path / "file")


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_saved_whole_or_not_at_all(folder, tmp_path, monkeypatch, there):
    """A disk that fills up when the weights are written; what was there goes on to load."""
    model, target = l2g.load_checkpoint(folder), tmp_path / "again"
    if there:
        l2g.save_checkpoint(model, target)
    before = {path.name: path.read_bytes() for path in target.rglob("*")}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_with_sum", full)
    with pytest.raises(CheckpointError, match=r"again.*: cannot be written \(No space left on device\)"):
        l2g.save_checkpoint(model, target)
    assert target.exists() == there
    assert {path.name: path.read_bytes() for path in target.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"][not there :]


def test_a_flipped_bit_is_seen_in_what_was_saved_here(folder, tmp_path):
    target = tmp_path / "again"
    l2g.save_checkpoint(l2g.load_checkpoint(folder), target)
    for path in (target, folder):  # transformers' own file carries no sum
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-4] ^= 1
        (path / "model.safetensors").write_bytes(content)
    assert "was damaged or changed since it was written" in refused(target)
    assert l2g.load_checkpoint(folder)


def test_fields_that_this_version_of_transformers_does_not_know_do_no_harm(folder):
    """The published configs were written by an earlier one, and have "num_frames"."""
    plain = logits(l2g.load_checkpoint(folder))
    edit(folder, num_frames=2, transformers_version="5.3.0.dev0")
    np.testing.assert_array_equal(logits(l2g.load_checkpoint(folder)), plain)


def test_another_model_is_refused(folder):
    edit(folder, model_type="eomt")
    assert "a model of type 'eomt', expected videomt" in refused(folder)


PROCESSOR = {
    "do_resize": True,
    "size": {"height": 96, "width": 96},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_center_crop": False,
    "do_convert_rgb": True,
    "do_sample_frames": False,
}


def processor(folder, name="video_preprocessor_config.json", **changes):
    (folder / name).write_text(json.dumps(PROCESSOR | changes))
    return folder


def test_the_default_processor_changes_nothing(folder):
    plain = l2g.load_checkpoint(folder).contract()
    assert (plain.mean, plain.std) == (PIXEL_MEAN, PIXEL_STD)
    assert l2g.load_checkpoint(processor(folder)).contract() == plain


@pytest.mark.parametrize(
    ("changes", "normalised"),
    [
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}, lambda x: (x / 255 - M) / S),
        ({"rescale_factor": 1 / 127.5}, lambda x: (x / 127.5 - IMAGENET[0]) / IMAGENET[1]),
        ({"do_rescale": False, "image_mean": [100, 90, 80], "image_std": [50, 60, 70]}, lambda x: (x - LEVELS) / STEPS),
        ({"do_normalize": False}, lambda x: x / 255),
    ],
)
@pytest.mark.parametrize("name", ["video_preprocessor_config.json", "preprocessor_config.json"])
def test_a_folders_normalisation_is_taken_over(folder, tmp_path, name, changes, normalised):
    """By what the public forward makes of pixels that are normalised by hand; saved and loaded again too."""
    model = l2g.load_checkpoint(processor(folder, name, **changes))
    frames = torch.from_numpy(moving_frames(model, 1, 1)[:, 0])
    pixels = normalised(frames.double()).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.network(pixel_values_videos=pixels[:, None]).class_queries_logits
    np.testing.assert_allclose(logits(model), expected.numpy(), rtol=0, atol=1e-4)
    l2g.save_checkpoint(model, tmp_path / "again")
    again = l2g.load_checkpoint(tmp_path / "again")
    np.testing.assert_allclose(logits(again), expected.numpy(), rtol=0, atol=1e-4)
    assert again.contract().mean == pytest.approx(model.contract().mean)


M, S = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 0.2])
LEVELS, STEPS = torch.tensor([100.0, 90, 80]), torch.tensor([50.0, 60, 70])
IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def test_the_processor_inside_a_larger_file(folder):
    nested = {"video_processor": PROCESSOR | {"image_mean": [0.5, 0.5, 0.5]}, "processor_class": "Any"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    processor(folder)  # what transformers looks at afterwards
    assert l2g.load_checkpoint(folder).contract().mean == (127.5, 127.5, 127.5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": {"height": 96, "width": 128}}, "size {'height': 96, 'width': 128} found, height and width of 96"),
        ({"size": {"shortest_edge": 96}}, "size {'shortest_edge': 96} found"),
        ({"resample": 3}, "resample 3 found, 2 (bilinear) expected"),
        ({"do_resize": False}, "do_resize False found, true expected"),
        ({"do_center_crop": True}, "do_center_crop True found, false expected"),
        ({"do_pad": True}, "do_pad True found"),
        ({"image_std": [0.2, 0, 0.2]}, "image_std [0.2, 0, 0.2] found, numbers above 0 expected"),
        ({"image_mean": [0.5, 0.5]}, "image_mean [0.5, 0.5] found, three finite numbers expected"),
        ({"image_mean": "grey" * 100}, "image_mean 'greygrey"),
        ({"image_mean": [10**400, 0, float("nan")]}, "three finite numbers expected"),
        ({"rescale_factor": 0}, "rescale_factor 0 found, a finite number above 0 expected"),
    ],
)
def test_what_l2g_does_not_do_to_frames_is_refused(folder, changes, text):
    message = refused(processor(folder, **changes))
    assert "video_preprocessor_config.json: " in message
    assert text in message
    assert len(message) < 400


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "null"])
def test_a_damaged_processor_is_named(folder, text):
    (folder / "video_preprocessor_config.json").write_text(text[:200_000])
    assert "video_preprocessor_config.json: " in refused(folder)


def test_code_that_a_folder_brings_along_is_not_run(folder, tmp_path):
    edit(folder, auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nModel = None\n")
    l2g.load_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_options_of_other_formats_are_refused(folder):
    assert "num heads given, which only a checkpoint of Mask DINO" in refused(folder, num_heads=4)


def test_damaged_folders_are_one_error(folder):
    file = folder / "model.safetensors"
    whole, config = file.read_bytes(), (folder / "config.json").read_text()
    file.write_bytes(whole[: len(whole) // 2])
    assert "no whole VidEoMT" in refused(folder)
    file.unlink()
    assert "no whole VidEoMT" in refused(folder)
    file.write_bytes(whole)
    (folder / "config.json").write_text(config[:-20])
    assert "no configuration of a Hugging Face model" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "no configuration of a Hugging Face model" in refused(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors: tensors.pop("query_updater.weight"), "1 missing: query_updater.weight"),
        (lambda tensors: tensors.update(extra=torch.zeros(3)), "1 unexpected: extra"),
        (lambda tensors: tensors.update({"query.weight": torch.zeros(3, 48)}), "query.weight is [3, 48], expected [11"),
        (lambda tensors: tensors["query.weight"].fill_(torch.nan), "'query.weight' holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, text):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert text in refused(folder)


def authors_tensors(public):
    """A state dict under the names of the authors' code, which fuses query, key and value."""
    trunk = "backbone.encoder.backbone."
    state, found = public.state_dict(), {}
    for name in ("weight", "bias"):
        found[f"{trunk}patch_embed.proj.{name}"] = state[f"embeddings.patch_embeddings.projection.{name}"]
        found[f"{trunk}norm.{name}"] = state[f"layernorm.{name}"]
        found[f"backbone.query_updater.{name}"] = state[f"query_updater.{name}"]
        found[f"backbone.class_head.{name}"] = state[f"class_predictor.{name}"]
        for number, layer in ((0, "fc1"), (2, "fc2"), (4, "fc3")):
            found[f"backbone.mask_head.{number}.{name}"] = state[f"mask_head.{layer}.{name}"]
        for number in range(2):
            block = f"upscale_block.block.{number}."
            found[f"backbone.upscale.{number}.conv1.{name}"] = state[f"{block}conv1.{name}"]
            found[f"backbone.upscale.{number}.norm.{name}"] = state[f"{block}layernorm2d.{name}"]
        for number in range(public.config.num_hidden_layers):
            old, new = f"{trunk}blocks.{number}.", f"layers.{number}."
            parts = [state[f"{new}attention.{part}_proj.{name}"] for part in "qkv"]
            found[f"{old}attn.qkv.{name}"] = torch.cat(parts)
            found[f"{old}attn.proj.{name}"] = state[f"{new}attention.out_proj.{name}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{old}{part}.{name}"] = state[f"{new}{part}.{name}"]
    for number in range(public.config.num_hidden_layers):
        for scale in (1, 2):
            old = f"{trunk}blocks.{number}.ls{scale}.gamma"
            found[old] = state[f"layers.{number}.layer_scale{scale}.lambda1"]
    for number in range(2):
        found[f"backbone.upscale.{number}.conv2.weight"] = state[f"upscale_block.block.{number}.conv2.weight"]
    return found | {
        f"{trunk}cls_token": state["embeddings.cls_token"],
        f"{trunk}reg_token": state["embeddings.register_tokens"],
        f"{trunk}pos_embed": state["embeddings.position_embeddings.weight"][None],
        "backbone.q.weight": state["query.weight"],
        "backbone.attn_mask_probs": state["attn_mask_probs"],
        "criterion.empty_weight": torch.ones(7),
    }


def test_the_authors_own_file(tmp_path):
    public = network(seed=6, hidden_size=64, num_attention_heads=1, num_hidden_layers=5)
    with torch.no_grad():
        for layer in public.layers:  # of ones they could be mixed up unseen
            layer.layer_scale1.lambda1.normal_()
            layer.layer_scale2.lambda1.normal_()
    torch.save({"model": authors_tensors(public)}, tmp_path / "yt_2019.pth")
    model = l2g.load_checkpoint(tmp_path / "yt_2019.pth", class_names=NAMES)
    expected, found = public.state_dict(), model.network.state_dict()
    for name in expected:
        if not name.startswith("criterion."):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    assert model.config.class_names == NAMES
    for name in ("num_hidden_layers", "num_blocks", "image_size", "num_upscale_blocks", "num_register_tokens"):
        assert getattr(model.network.config, name) == getattr(public.config, name), name


def test_a_broken_file_of_the_authors_is_named(tmp_path):
    tensors = authors_tensors(network(seed=6, hidden_size=64, num_attention_heads=1))
    tensors["backbone.surprise"] = torch.zeros(2)
    del tensors["backbone.class_head.bias"]
    torch.save(tensors, tmp_path / "model.pth")
    message = refused(tmp_path / "model.pth")
    assert "1 missing: class_predictor.bias. 1 unexpected: backbone.surprise" in message
    del tensors["backbone.encoder.backbone.pos_embed"]
    torch.save(tensors, tmp_path / "model.pth")
    assert "expected a whole VidEoMT with a DINOv2 or DINOv3 backbone" in refused(tmp_path / "model.pth")
