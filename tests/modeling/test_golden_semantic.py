"""Mask DINO's model of semantic segmentation: learned queries, softmax, levels from the coarsest, as the public code
computes it (tests/assets/maskdino/golden_semantic.npz)."""

import numpy as np
import pytest
import torch

from l2g import load_checkpoint
from l2g.contract import GraphContract
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.outputs import SoftmaxOutputs
from tests import golden
from tests.checkpoint.files import save

# Channels of the tiny fixtures' backbone, which the heads of this one fit.
SIZES = {16: (16, 24), 32: (8, 12), 64: (4, 6), 128: (2, 3)}


def state_dict():
    backbone = golden.tiny_state_dict("tiny_seed0")
    tensors = {name: tensor for name, tensor in backbone.items() if name.startswith("backbone.")}
    return tensors | golden.tiny_state_dict("semantic")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_checkpoint(save(state_dict(), tmp_path_factory.mktemp("semantic") / "model.pth"))


def test_its_shape_is_read_off_the_file(model):
    config = model.config
    assert (config.two_stage, config.scoring, config.num_queries, config.num_classes) == (False, "softmax", 12, 6)
    assert (config.encoder.levels, config.encoder.finest, config.association) == (3, 3, "embedding")


def test_its_numbers_are_the_public_codes(model):
    data = golden.fixture("semantic")
    rng = np.random.default_rng(data["meta"]["feature_seed"])
    features = [torch.from_numpy(rng.normal(0, 1, (1, c, *size)).astype(np.float32)) for c, size in SIZES.items()]
    with torch.inference_mode():
        output = model.decode(model.encoder(tuple(features))).output
    for name, found, atol in (
        ("pred_logits", output.logits, 1e-4),
        ("pred_boxes", output.boxes, 1e-4),
        ("pred_masks", output.mask_logits, 1e-3),
    ):
        np.testing.assert_allclose(found.numpy(), data[f"out/{name}"], rtol=0, atol=atol)


def test_levels_in_the_wrong_order_would_show(tmp_path):
    """The same file with the backbone's maps numbered the other way round: the numbers are others."""
    tensors = state_dict()
    name = "sem_seg_head.pixel_decoder.transformer.level_embed"
    tensors[name] = tensors[name].flip(0)
    with pytest.raises(AssertionError, match="Not equal"):
        test_its_numbers_are_the_public_codes(load_checkpoint(save(tensors, tmp_path / "model.pth")))


def test_it_runs(model):
    backend = EagerBackend(model, canvas=(64, 96))
    assert GraphContract.from_json(backend.contract.to_json()).to_json() == backend.contract.to_json()
    outputs = backend.step(np.zeros((2, 64, 96, 3), np.uint8), np.ones(2, bool))
    assert isinstance(outputs, SoftmaxOutputs)
    assert outputs.logits.shape == (2, 12, 7)


@pytest.mark.parametrize(
    ("classes", "first", "last", "stuff"),
    [(150, "wall", "flag", range(150)), (19, "road", "bicycle", range(19)), (6, "class_0", "class_5", ())],
)
def test_its_classes_are_named_by_their_number(tmp_path, classes, first, last, stuff):
    tensors = state_dict()
    head = "sem_seg_head.predictor."
    for name, rows in ((head + "class_embed.weight", classes + 1), (head + "label_enc.weight", classes)):
        tensors[name] = torch.zeros(rows, 256)
    tensors[head + "class_embed.bias"] = torch.zeros(classes + 1)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("criterion.")}
    config = load_checkpoint(save(tensors, tmp_path / "model.pth")).config
    assert (config.class_names[0], config.class_names[-1], config.stuff_classes) == (first, last, tuple(stuff))


def test_things_and_stuff_of_coco_are_known_by_their_number(tmp_path):
    tensors = golden.tiny_state_dict("tiny_seed0")
    head = "sem_seg_head.predictor."
    for name in (head + "class_embed.weight", head + "label_enc.weight"):
        tensors[name] = torch.randn(133, 256)
    tensors[head + "class_embed.bias"] = torch.zeros(133)
    config = load_checkpoint(save(tensors, tmp_path / "model.pth"), num_queries=20).config
    assert config.stuff_classes == tuple(range(80, 133))
    assert (config.class_names[0], config.class_names[80], config.class_names[-1]) == ("person", "banner", "rug-merged")
    assert (config.box_init, config.scoring) == ("no", "sigmoid")
