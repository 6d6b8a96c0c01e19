"""Mask DINO's other published make-ups: more queries, other widths, no mask enhancement; shapes tell what they can."""

import pytest
import torch

from l2g import load_checkpoint
from l2g.modeling.family.maskdino import inferred, renamed
from l2g.modeling.local2global import Local2Global
from l2g.public.table import public_models
from tests import golden
from tests.modeling.small import frames


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("variants") / "model.pth"
    torch.save({"model": golden.tiny_state_dict("swin_tiny_seed0")}, path)
    return path


@pytest.mark.parametrize("queries", [300, 900])
def test_more_queries_are_more_of_the_same_tokens(file, queries):
    few, many = (load_checkpoint(file, num_queries=count) for count in (20, queries))
    pictures = frames(1, height=160, width=224)
    with torch.no_grad():
        memory = many.encode(pictures)
        local, decoded = few.decode(memory).local, many.decode(memory)
    assert decoded.output.logits.shape == (1, queries, 5)
    assert decoded.state.boxes.shape == (1, queries, 4)
    assert torch.equal(decoded.local.indices[:, :20], local.indices)
    assert decoded.local.indices[0].unique().numel() == queries
    # Each sees all others, so they do change what the first ones become.
    assert not torch.equal(decoded.state.queries[:, :20], few.decode(memory).state.queries)


def test_without_mask_enhancement(file):
    """The same tensors; where the decoder starts from is an option, and then boxes are the box head's."""
    plain, enhanced = (load_checkpoint(file, box_init=init, **golden.TINY) for init in ("no", "bitmask"))
    with torch.no_grad():
        local = plain.decode(memory := plain.encode(frames(1, height=96, width=160))).local
        boxes = plain.heads.boxes(local.features, local.anchors)
        valid = ((local.anchors[..., :2] > 0.01) & (local.anchors[..., :2] < 0.99)).all(-1)
        masks = enhanced.decode(memory).local.boxes
    torch.testing.assert_close(local.boxes[valid], boxes[valid])
    assert (masks - local.boxes).abs().amax() > 0.1


def test_the_published_one_without_is_known_by_its_name(file):
    """Where an option does not say otherwise."""
    name = public_models()["maskdino-swin-l-no-mask-enhance"].file
    assert name == "maskdino_swinl_50ep_300q_hid2048_3sd1_instance_mask52.1ap_box58.3ap.pth"
    published = file.with_name(name)
    published.hardlink_to(file)
    found = [load_checkpoint(published, box_init=init, **golden.TINY).config.box_init for init in (None, "mask2box")]
    assert found == ["no", "mask2box"]


@pytest.mark.parametrize(
    ("finest", "levels", "ffn_dim", "box_init"),
    [
        (3, 4, 2048, "mask2box"),  # 3s_dowsample1_2048
        (3, 3, 1024, "bitmask"),  # 3s
        (3, 4, 1024, "bitmask"),  # the name of the file that is linked with it
        (3, 5, 1024, "no"),  # 3s_dowsample2
        (2, 4, 2048, "no"),  # 4s_dowsample1_2048
        (2, 5, 2048, "mask2box"),  # none
    ],
)
def test_resnets_start_as_the_public_config_of_their_encoder_says(finest, levels, ffn_dim, box_init):
    tensors = {
        "encoder.level_embed": (levels, 256),
        "encoder.layers.0.linear1.weight": (ffn_dim, 256),
        **{f"encoder.input_proj.{i}.0.weight": (256, 64 << finest + i, 1, 1) for i in range(6 - finest)},
        "encoder.mask_features.weight": (256, 256, 1, 1),
        "decoder.layers.0.linear1.weight": (2048, 256),
        "heads.class_embed.weight": (80, 256),
        "backbone.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.res2.0.conv1.weight": (64, 64, 1, 1),
        "backbone.res2.0.conv3.weight": (256, 64, 1, 1),
        **{f"backbone.res{stage}.0.conv1.weight": (64, 64, 1, 1) for stage in (3, 4, 5)},
    }
    found = inferred(golden.DATA / "r50.pth", {name: torch.zeros(1).expand(shape) for name, shape in tensors.items()})
    assert (found.encoder.finest, found.encoder.levels) == (finest, levels)
    assert found.box_init == box_init


# Inner widths of the encoder's and the decoder's layers, and levels: the parameters that each has more or fewer.
R50 = {(2048, 2048, 4): 0, (1024, 2048, 4): -6 * 1024 * 513, (1024, 1024, 4): -15 * 1024 * 513, (2048, 2048, 5): None}


@pytest.mark.parametrize("variant", R50, ids=lambda variant: "-".join(map(str, variant)))
def test_the_r50_of_any_width_and_levels(variant):
    """The published listing with other sizes: each is inferred, and a model of it has exactly these tensors."""
    encoder, decoder, levels = variant
    heads, points, dim = 8, 4, 256
    sizes = {"linear1.weight": lambda n: (n, dim), "linear1.bias": lambda n: (n,), "linear2.weight": lambda n: (dim, n)}
    tensors = {}
    for entry in golden.r50_listing():
        name, shape = entry["name"], tuple(entry["shape"])
        width = encoder if ".pixel_decoder." in name else decoder
        for ending, sized in sizes.items():
            shape = sized(width) if name.endswith(ending) else shape
        for part, each in (("sampling_offsets", 2), ("attention_weights", 1)):
            shape = (heads * levels * points * each, *shape[1:]) if f".{part}." in name else shape
        shape = (levels, dim) if name.endswith("level_embed") else shape
        tensors[name] = torch.zeros(1).expand(shape)
    for level in range(4, levels):
        stem = "sem_seg_head.pixel_decoder.input_proj"
        for ending, shape in {
            "0.weight": (dim, dim, 3, 3),
            "0.bias": (dim,),
            "1.weight": (dim,),
            "1.bias": (dim,),
        }.items():
            tensors[f"{stem}.{level}.{ending}"] = torch.zeros(1).expand(shape)
    found = renamed(golden.DATA / "r50.pth", tensors)
    config = inferred(golden.DATA / "r50.pth", found)
    assert (config.encoder.ffn_dim, config.decoder.ffn_dim, config.encoder.levels) == variant
    with torch.device("meta"):
        model = Local2Global(config)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in model.state_dict().items()}
    if R50[variant] is not None:
        assert sum(p.numel() for p in model.parameters()) == 52_058_004 + R50[variant]
