"""ModelConfig: presets, changes, JSON, and errors that name the field."""

import dataclasses
import json

import pytest

from l2g.config import PRESETS, AlignerConfig, BackboneConfig, ModelConfig, SwinConfig, get_config
from l2g.errors import ConfigError


def test_the_papers_preset():
    config = PRESETS["l2g_r50"]
    assert (config.num_queries, config.hidden_dim, config.num_heads) == (300, 256, 8)
    assert config.aligner == AlignerConfig(layers=3, ffn_dim=1024, local_position="static")
    assert (config.encoder.layers, config.decoder.layers, config.decoder.ffn_dim) == (6, 9, 2048)
    assert config.backbone == BackboneConfig.resnet(50)
    assert config.association == "propagate"


def test_the_image_preset():
    config = PRESETS["maskdino_r50"]
    assert config.aligner is None
    assert (config.num_classes, config.association) == (80, "embedding")


@pytest.mark.parametrize("name", PRESETS)
def test_json_and_back(name):
    config = PRESETS[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(hash(config), int), "a config with lists inside would not be frozen"


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["l2g_r50"].num_queries = 5


def test_replace_changes_parts_field_by_field():
    config = PRESETS["l2g_r50"].replace(aligner={"ffn_dim": 512}, num_classes=25, encoder={"layers": 3})
    assert config.aligner == AlignerConfig(ffn_dim=512)
    assert (config.encoder.layers, config.encoder.ffn_dim) == (3, 2048)
    assert len(config.class_names) == config.num_classes == 25
    assert PRESETS["l2g_r50"].aligner.ffn_dim == 1024
    assert config.replace(aligner=None).aligner is None
    assert config.replace(aligner=None).replace(aligner={"layers": 1}).aligner == AlignerConfig(layers=1)
    assert config.replace(aligner=AlignerConfig(layers=2)).aligner.layers == 2


def test_class_names_survive_other_changes():
    config = ModelConfig(num_classes=2, class_names=("cat", "dog"))
    assert config.replace(num_queries=5).class_names == ("cat", "dog")
    assert config.replace(class_names=["a", "b"]).class_names == ("a", "b")
    assert ModelConfig(num_classes=2).class_names == ("class_0", "class_1")


def test_get_config_takes_a_name_a_config_and_changes():
    assert get_config("l2g_tiny") is PRESETS["l2g_tiny"]
    assert get_config(PRESETS["l2g_tiny"], num_queries=7).num_queries == 7
    with pytest.raises(
        ConfigError, match=r"no preset named 'l2g_r51'; the presets are l2g_r50, maskdino_r50, .*l2g_tiny"
    ):
        get_config("l2g_r51")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_querys": 5}, "unknown field num_querys; the fields are backbone, encoder"),
        ({"aligner": {1: None, "ffn": 5}}, "unknown field aligner.1; the fields are aligner.layers"),
        ({"aligner": {"ffn": 5}}, "unknown field aligner.ffn; the fields are aligner.layers"),
        ({"aligner": "big"}, "aligner is 'big'; give its fields"),
        ({"encoder": None}, "encoder is None; give its fields"),
        ({"aligner": {"local_position": "both"}}, "local_position 'both'; use static, dynamic or none"),
        ({"backbone": {"block": "dense"}}, "backbone.block 'dense'; use basic or bottleneck"),
        ({"backbone": {"blocks": (1, 2, 3)}}, r"backbone\.blocks: found \(1, 2, 3\), expected 4 items"),
        ({"backbone": {"blocks": 5}}, r"backbone\.blocks: found 5, expected a list"),
        ({"backbone": {"blocks": (1, 2, 0, 3)}}, r"backbone.blocks\[2\] is 0; give a whole number above 0"),
        ({"decoder": {"layers": 0}}, "decoder.layers is 0; give a whole number above 0"),
        ({"num_queries": -1}, "num_queries is -1"),
        ({"num_queries": "300"}, "num_queries: found '300', expected int"),
        ({"num_classes": "5"}, "num_classes: found '5', expected int"),
        ({"num_classes": 2_000_000}, "num_classes is 2000000; give 1,000,000 at most"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": 7}, "hidden_dim 256 does not divide by 7 heads"),
        ({"hidden_dim": 100}, "hidden_dim 100 found; GroupNorm"),
        ({"box_init": "box"}, "box_init 'box'; use one of mask2box, bitmask, no"),
        ({"slot_marks": -0.1}, r"slot_marks -0\.1 found; give a size from 0"),
        ({"slot_marks": True}, "slot_marks: found True, expected float"),
        ({"state_box": "both"}, "state_box 'both'; use mask or head"),
        ({"association": "iou"}, "association 'iou'; use propagate or embedding"),
        ({"class_names": ("one",)}, "1 class names found for 40 classes"),
        ({"input_size": (480, 850)}, r"input_size \(480, 850\); height and width must be positive multiples of 32"),
        ({"input_size": (480,)}, r"input_size: found \(480,\), expected 2 items"),
        ({"encoder": {"feature_order": "low"}}, r"encoder\.feature_order 'low'; use low2high or high2low"),
    ],
)
def test_what_cannot_be_built_names_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        PRESETS["l2g_r50"].replace(**changes)


def test_unknown_depth():
    with pytest.raises(ConfigError, match=r"ResNet depth 152 found, one of \[18, 34, 50, 101\] expected"):
        BackboneConfig.resnet(152)


def test_a_swin_in_the_place_of_a_resnet():
    swin = get_config("l2g_tiny", backbone={"embed_dim": 32, "heads": [2, 4, 8, 16], "depths": [1, 1, 2, 1]})
    assert swin.backbone == SwinConfig(32, (1, 1, 2, 1), (2, 4, 8, 16))
    assert swin.replace(backbone={"window": 7}).backbone == SwinConfig(32, (1, 1, 2, 1), (2, 4, 8, 16), 7)
    assert ModelConfig.from_dict(json.loads(json.dumps(swin.to_dict()))) == swin
    assert swin.replace(backbone={"width": 16}).backbone == BackboneConfig(width=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"embed_dim": 97}}, "97 channels do not divide by 3 heads"),
        ({"backbone": {"depths": (2, 2, 2)}}, r"backbone\.depths: found \(2, 2, 2\), expected 4 items"),
        ({"backbone": {"heads": (0, 6, 12, 24)}}, r"backbone\.heads\[0\] is 0; give a whole number above 0"),
        ({"backbone": {"heads": (3, 6, -12, 24)}}, r"backbone\.heads\[2\] is -12"),
        ({"backbone": {"embed_dim": 0}}, r"backbone\.embed_dim is 0"),
        ({"backbone": {"window": 0}}, r"backbone\.window is 0"),
        ({"backbone": {"mlp_ratio": 0}}, r"backbone\.mlp_ratio is 0; give a number above 0"),
        ({"backbone": {"mlp_ratio": float("nan")}}, r"backbone\.mlp_ratio is nan"),
        ({"backbone": {"mlp_ratio": float("inf")}}, r"backbone\.mlp_ratio is inf"),
        ({"encoder": {"finest": 3, "levels": 2}}, "encoder.finest 3 with 2 levels"),
        ({"backbone": {"depths": (2, 0, 2, 2)}}, r"backbone.depths\[1\] is 0"),
    ],
)
def test_swins_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        get_config("l2g_swin_t", **changes)


def test_fields_of_later_are_left_out_at_their_first_value():
    """A config that is older than these fields is written as it was: exported files stay the same to the byte."""
    assert "levels" not in get_config("l2g_r50").to_dict()["encoder"]
    assert "feature_order" not in get_config("l2g_r50").to_dict()["encoder"]
    large = get_config("maskdino_swin_l")
    assert large.to_dict()["encoder"]["levels"] == 5
    assert "feature_order" not in large.to_dict()["encoder"]
    turned = large.replace(encoder={"feature_order": "high2low"})
    assert turned.to_dict()["encoder"]["feature_order"] == "high2low"
    assert ModelConfig.from_dict(json.loads(json.dumps(turned.to_dict()))) == turned
    assert ModelConfig.from_dict(get_config("l2g_r50").to_dict()) == get_config("l2g_r50")


def test_true_is_no_size():
    from l2g.config import ModelConfig

    with pytest.raises(ConfigError, match="num_queries: found True, expected int"):
        ModelConfig.from_dict(ModelConfig().to_dict() | {"num_queries": True})
    with pytest.raises(ConfigError, match=r"encoder\.ffn_dim: found True, expected int"):
        ModelConfig().replace(encoder={"ffn_dim": True})
