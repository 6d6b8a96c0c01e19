"""Any number of levels in either order: the public Mask DINO's numbers (tests/assets/maskdino/golden_levels.npz).

Made by running the public pixel decoder and predictor (MaskDINO 3831d85) on a CPU: no backbone, its four maps are drawn
(`maps`), the weights by the recipe; every fourth pixel of the mask logits is kept. The cases are chosen so that scores
lie apart, and that no first box changes where mask logits move by 1e-3.
"""

import numpy as np
import pytest
import torch

from l2g import load_checkpoint, save_checkpoint
from l2g.config import BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig
from l2g.modeling.family.maskdino import public_name
from l2g.modeling.local2global import FrameState, Local2Global
from tests import golden
from tests.checkpoint.files import PREDICTOR, refused, save

PIXEL = "sem_seg_head.pixel_decoder."
CASES = golden.fixture("levels")["cases"]


def config(case) -> ModelConfig:
    return ModelConfig(
        backbone=BackboneConfig("bottleneck", (1, 1, 1, 1), stem_channels=8, width=4, out_channels=16),
        encoder=EncoderConfig(1, 64, 32, case["levels"], case["finest"], case["order"]),
        decoder=DecoderConfig(2, 64),
        aligner=None,
        num_queries=case.get("queries", 12),
        num_classes=5,
    )


def tensors(name):
    case, drawn = CASES[name], {}
    with torch.device("meta"):
        shapes = {public_name(key): tensor.shape for key, tensor in Local2Global(config(case)).state_dict().items()}
    if case["finest"] == 4:  # of an FPN level whose result the public code does not use
        shapes |= {f"{PIXEL}{part}_2.weight": (256, 32, 1, 1) for part in ("adapter", "layer")}
    for key, shape in shapes.items():
        drawn[key] = torch.from_numpy(golden.recipe.draw(key, tuple(shape), case["seed"]))
    if "raised" in case:  # what all tokens of invalid anchors become scores highest
        norm, head = drawn[f"{PREDICTOR}enc_output_norm.weight"], drawn[f"{PREDICTOR}class_embed.weight"][0]
        drawn[f"{PREDICTOR}enc_output.bias"] = case["raised"] * head * norm
    return drawn


def maps(case):
    rng = np.random.default_rng(int(case["seed"].split(".")[1]))
    height, width = case["hw"]
    sizes = [(1, 16 << stage, height // 4 >> stage, width // 4 >> stage) for stage in range(4)]
    return tuple(torch.from_numpy(rng.normal(0, 1, size).astype(np.float32)) for size in sizes)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    return lambda name: save(tensors(name), folder / "model.pth")


def numbers_agree(name, box_init, model):
    with torch.inference_mode():
        decoded = model.decode(model.encoder(maps(CASES[name])))
    output, data = decoded.output, golden.fixture("levels")
    found = {"logits": output.logits, "boxes": output.boxes, "masks": output.mask_logits[..., ::4, ::4]}
    for key, atol in (("logits", 1e-4), ("boxes", 1e-4), ("masks", 1e-3)):
        np.testing.assert_allclose(found[key], data[f"{name}/{box_init}/{key}"], rtol=0, atol=atol, err_msg=key)
    return decoded


@pytest.mark.parametrize("name", CASES)
def test_levels_are_the_public_codes(name, file, tmp_path):
    """The order is read off the public file, and kept by a native one."""
    path, case = file(name), CASES[name]
    for box_init in case["inits"]:
        model = load_checkpoint(path, box_init=box_init, num_queries=case.get("queries", 12))
        assert model.config.encoder == config(case).encoder
        numbers_agree(name, box_init, model)
    save_checkpoint(model, tmp_path / "native.safetensors")
    numbers_agree(name, box_init, load_checkpoint(tmp_path / "native.safetensors"))


def test_invalid_anchors_are_chosen_and_start_as_the_whole_picture(file):
    """Exactly: the public code hands infinity to the sigmoid, which no clamp may touch."""
    case = CASES["invalid chosen"]
    model = load_checkpoint(file("invalid chosen"), box_init="no", num_queries=24)
    first = []
    model.decoder.layers[0].register_forward_pre_hook(lambda _, args: first.append(args[2]))
    decoded = numbers_agree("invalid chosen", "no", model)
    whole = (first[0] == 1).all(-1)
    assert case["hw"][1] // 8 == 56
    assert int(whole.sum()) == 16, "two columns of the finest level"
    state = FrameState(decoded.state.queries, decoded.state.boxes.round(), decoded.state.valid)
    with torch.inference_mode():
        model.decode(model.encoder(maps(case)), state)
    assert set(state.boxes.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(first[1], state.boxes.clamp(1e-5, 1 - 1e-5)), "a state's boxes are of masks"


def test_old_native_files_have_no_order_and_keep_theirs(file, tmp_path):
    """A model without `feature_order` in its config is low2high, and is written as before there was one."""
    model = load_checkpoint(file("res3+2"), box_init="bitmask", num_queries=12)
    assert "feature_order" not in model.config.to_dict()["encoder"]
    save_checkpoint(model, tmp_path / "native.safetensors")
    numbers_agree("res3+2", "bitmask", load_checkpoint(tmp_path / "native.safetensors"))


@pytest.mark.parametrize(
    ("levels", "words"),
    [((5,), "an encoder of res5 alone"), ((5, 4), "an encoder of res4 and res5, high2low"), ((2, 3, 4), "to the last")],
)
def test_encoders_that_are_not_computed_say_so(levels, words, file, tmp_path):
    given = torch.load(file("res3 turned"))["model"]
    given = {name: tensor for name, tensor in given.items() if f"{PIXEL}input_proj." not in name}
    for index, level in enumerate(levels):
        given[f"{PIXEL}input_proj.{index}.0.weight"] = torch.zeros(256, 16 << level - 2, 1, 1)
    refused(save(given, tmp_path / "model.pth"), words)
