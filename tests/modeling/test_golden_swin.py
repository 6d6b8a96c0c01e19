"""Mask DINO with a Swin backbone: our numbers against the public implementation's, tensor by tensor."""

import zlib

import numpy as np
import pytest
import torch

from l2g import load_checkpoint
from l2g.errors import CheckpointError
from l2g.modeling.backbones.swin import Swin
from tests import golden
from tests.modeling.taps import backbone_tensors, close, normalised, run, swin_l_listing

FIXTURES = (
    "swin_tiny_seed0",
    "swin_tiny_seed1",
    "swin_tiny_seed0_96x224",
    "swin_tiny_seed1_96x160",
    "swin_tiny_4levels",
)
BOX_INITS = ("mask2box", "bitmask", "no")


def state_dict(name):
    """The public names with the fixture's weights; each drawn tensor is held to its sum first."""
    tensors = golden.tiny_state_dict(name)
    source = golden.fixture(name)["meta"].get("weights", f"golden_{name}.npz")
    sums = golden.fixture(source.removeprefix("golden_").removesuffix(".npz"))["weights_crc32"]
    for tensor, crc in sums.items():
        assert f"{zlib.crc32(tensors[tensor].numpy().tobytes()):08x}" == crc, tensor
    return tensors


def model_of(name, folder, **overrides):
    torch.save({"model": state_dict(name)}, folder / "model.pth")
    box_init = golden.fixture(name)["meta"]["box_init"]
    return load_checkpoint(folder / "model.pth", **{"box_init": box_init, **golden.TINY, **overrides})


def part(array, name):
    """`array` as the fixture stores it: `@firstNch` is the first N channels."""
    if "@first" not in name:
        return array
    count = int(name.split("@first")[1].removesuffix("ch"))
    return array[:, :count] if array.ndim == 4 else array[..., :count]


@pytest.mark.parametrize("name", FIXTURES)
def test_every_stored_tensor_agrees(name, tmp_path):
    model, fixture = model_of(name, tmp_path), golden.fixture(name)
    images = normalised(fixture, model)
    out = run(model, images) | backbone_tensors(model, images)
    skipped = ("spatial_shapes", "level_start_index", "valid_ratios", "inst.", "proposals_unsig")
    refinements = len([key for key in out if key.startswith("dec.hs")])
    checked = 0
    for key, expected in fixture.items():
        stored = key.removeprefix("out/")
        plain = stored.split("@")[0]
        if not key.startswith("out/") or any(word in stored for word in skipped) or "enc.input_proj" in stored:
            continue
        if plain == f"dec.refpoints.{refinements}":
            continue  # the last refinement is never used and never computed here
        if plain == "two_stage.topk_indices":
            assert np.array_equal(out["topk"].numpy(), expected)
        else:
            tolerance = 2e-5 if plain.startswith(("backbone", "swin")) else 1e-3 if "pred_masks" in plain else 1e-4
            close(stored, part(out[plain], stored), expected, tolerance)
        checked += 1
    assert checked >= 19
    shapes = fixture["out/enc.in.spatial_shapes"]
    assert model.config.encoder.levels == len(shapes)
    invalid = np.isinf(fixture["out/two_stage.proposals_unsig"]).any(-1).sum()
    assert invalid == fixture["meta"]["margins"]["invalid_anchors"]


@pytest.mark.parametrize("box_init", BOX_INITS)
@pytest.mark.parametrize("name", [name for name in FIXTURES if name.count("_") == 2])
def test_all_box_initialisations(name, box_init, tmp_path):
    fixture = golden.fixture(name)
    own = fixture["meta"]["box_init"] == box_init
    model = model_of(name, tmp_path, box_init=box_init)
    out = run(model, normalised(fixture, model))
    for key in ("dec.in.refpoints_unsig", "pred_logits", "pred_boxes"):
        expected = fixture[f"out/{key}" if own else f"{box_init}/{key}"]
        # Where the public code has infinity, a clamp stands in both decoders: compared after the sigmoid.
        found, expected = (x.sigmoid() if key.endswith("unsig") else x for x in (out[key], torch.from_numpy(expected)))
        close(key, found, expected.numpy())


def test_the_architecture_is_read_off_shapes(tmp_path):
    model = model_of("swin_tiny_seed1", tmp_path)
    backbone, encoder = model.config.backbone, model.config.encoder
    assert isinstance(model.backbone, Swin)
    assert (backbone.embed_dim, backbone.depths, backbone.heads) == (24, (1, 2, 3, 1), (1, 2, 4, 8))
    assert (backbone.window, backbone.mlp_ratio, encoder.levels, encoder.finest) == (4, 4, 5, 2)
    assert sum(p.numel() for p in model.parameters()) == golden.fixture("swin_tiny_seed1")["meta"]["parameters"]


def test_public_swins_start_from_bitmask_boxes(tmp_path):
    torch.save(state_dict("swin_tiny_seed0"), tmp_path / "model.pth")
    assert load_checkpoint(tmp_path / "model.pth", **golden.TINY).config.box_init == "bitmask"


def test_positions_in_another_order_are_refused(tmp_path):
    tensors = state_dict("swin_tiny_seed0")
    name = "backbone.layers.2.blocks.1.attn.relative_position_index"
    tensors[name] = tensors[name].T.contiguous()
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"layers\.2\.blocks\.1.*another order"):
        load_checkpoint(tmp_path / "model.pth", **golden.TINY)


INDEX = "backbone.layers.1.blocks.0.attn.relative_position_index"


@pytest.mark.parametrize(
    "index",
    [torch.from_numpy(golden.recipe.relative_position_index(5)), torch.zeros(10**6), torch.tensor(3), torch.zeros(0)],
    ids=["another window", "one axis", "a number", "nothing"],
)
def test_an_index_of_another_shape_than_its_table_asks_for_is_refused(index, tmp_path):
    """At once: the table of a window of 1000 would take eight terabytes."""
    torch.save(state_dict("swin_tiny_seed0") | {INDEX: index}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"beside a bias table of 169 rows; expected \[49, 49\]"):
        load_checkpoint(tmp_path / "model.pth", **golden.TINY)


def test_a_small_file_cannot_claim_a_large_window(tmp_path):
    """Table and index of a window of 1000, which repeat one number."""
    table = INDEX.replace("index", "bias_table")
    claimed = {INDEX: torch.zeros(1).expand(10**6, 10**6), table: torch.zeros(1).expand(1999**2, 4)}
    torch.save(state_dict("swin_tiny_seed0") | claimed, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="repeats the few numbers that are stored of it"):
        load_checkpoint(tmp_path / "model.pth", **golden.TINY)


@pytest.mark.parametrize("ratio", [2, 3.5, 3.3])
def test_mlps_of_any_width_are_read_off_shapes(ratio, tmp_path):
    """Rounded down stage by stage, as the public code has it: 79, 158, 316 and 633 of 24 channels and more by 3.3."""
    tensors = state_dict("swin_tiny_seed1")
    for name in [name for name in tensors if ".mlp." in name]:
        stage = int(name.split(".")[2])
        inner, outer = int(24 * 2**stage * ratio), 24 * 2**stage
        if not name.endswith("fc2.bias"):
            shape = {"fc1.weight": (inner, outer), "fc1.bias": (inner,), "fc2.weight": (outer, inner)}
            tensors[name] = torch.full(shape[name.split(".mlp.")[1]], 0.01)
    torch.save(tensors, tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth", **golden.TINY)
    assert model.config.backbone.mlp_ratio == pytest.approx(ratio, abs=0.01)
    assert [stage.blocks[0].mlp.fc1.out_features for stage in model.backbone.layers] == [
        int(24 * 2**stage * ratio) for stage in range(4)
    ]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("MODEL.SWIN.APE: True", {"backbone.absolute_pos_embed": torch.zeros(1, 32, 24, 24)}),
        ("MODEL.SWIN.PATCH_NORM: False", {f"backbone.patch_embed.norm.{name}": None for name in ("weight", "bias")}),
        ("MODEL.SWIN.QKV_BIAS: False", {"backbone.layers.0.blocks.0.attn.qkv.bias": None}),
        ("MODEL.MaskDINO.LEARN_TGT: True", {"sem_seg_head.predictor.query_feat.weight": torch.zeros(20, 256)}),
    ],
)
def test_switches_that_are_not_computed_are_named(field, change, tmp_path):
    tensors = {name: tensor for name, tensor in (state_dict("swin_tiny_seed0") | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"those of {field} in the public config"):
        load_checkpoint(tmp_path / "model.pth", **golden.TINY)


def test_the_listing_of_the_published_swin_l_loads_whole():
    """On the meta device: names and shapes of all 816 tensors, and the published number of parameters."""
    from l2g.modeling.family.maskdino import inferred, renamed

    tensors = {}
    for entry in swin_l_listing():
        index = entry["name"].endswith("relative_position_index")
        drawn = torch.from_numpy(golden.recipe.draw(entry["name"], entry["shape"], "x")) if index else None
        tensors[entry["name"]] = drawn if index else torch.zeros(1).expand(entry["shape"])
    assert len(tensors) == 816
    found = renamed(golden.SWIN / "swin_l.pth", tensors)
    config = inferred(golden.SWIN / "swin_l.pth", found)
    from l2g.config import PRESETS
    from l2g.modeling.local2global import Local2Global

    assert config.backbone == PRESETS["maskdino_swin_l"].backbone
    assert config.encoder == PRESETS["maskdino_swin_l"].encoder
    with torch.device("meta"):
        model = Local2Global(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in found.items()} == expected
    assert sum(p.numel() for p in model.parameters()) == 222_799_144
