"""Parameter counts: the public checkpoint's, the paper's totals, and torchvision's for the plain ResNets."""

import pytest
import torch
from torch import nn

from l2g.config import PRESETS, BackboneConfig, ModelConfig
from l2g.modeling.backbones.resnet import ResNet, set_batch_norm
from l2g.modeling.local2global import Local2Global
from tests import golden


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes_only(config: ModelConfig) -> Local2Global:
    with torch.device("meta"):
        return Local2Global(config)


@pytest.fixture(scope="module")
def maskdino() -> Local2Global:
    return shapes_only(PRESETS["maskdino_r50"])


def test_total_is_the_public_one(maskdino):
    assert count(maskdino) == 52_058_004
    unique = [entry for entry in golden.r50_listing() if not entry.get("alias_of")]
    listed = sum(torch.Size(entry["shape"]).numel() for entry in unique)
    buffers = sum(buffer.numel() for name, buffer in maskdino.named_buffers() if name not in ("mean", "std"))
    assert buffers == 106_240
    assert listed == 52_058_004 + 106_240 + 81  # and the criterion's class weights, which no model needs


def test_components(maskdino):
    encoder, heads, decoder = maskdino.encoder, maskdino.heads, maskdino.decoder
    assert count(maskdino.backbone) == 23_454_912
    assert count(encoder) == 14_055_424
    assert count(encoder.input_proj) == 5_639_168
    assert [count(layer) for layer in encoder.layers] == [1_282_176] * 6
    assert encoder.level_embed.numel() == 1_024
    assert count(encoder.adapter) + count(encoder.output) == 656_384
    assert count(encoder.mask_features) == 65_792
    assert [count(layer) for layer in decoder.layers] == [1_545_856] * 9
    assert count(decoder.ref_point_head) == 197_120
    assert count(heads.bbox_embed) == 132_612
    assert count(heads.mask_embed) == 197_376
    assert count(heads.class_embed) == 20_560
    assert count(heads.norm) == 512
    assert count(maskdino.proposals) == 66_304
    assert count(maskdino.label_embed) == 20_480
    assert count(decoder) + count(heads) + count(maskdino.proposals) + count(maskdino.label_embed) == 14_547_668


@pytest.mark.parametrize(("classes", "total"), [(40, 52_037_484), (25, 52_029_789)])
def test_other_class_counts(classes, total):
    assert count(shapes_only(PRESETS["maskdino_r50"].replace(num_classes=classes))) == total


@pytest.mark.parametrize(("ffn_dim", "layers"), [(512, 2_372_352), (1024, 3_160_320), (2048, 4_736_256)])
def test_aligner_layers(ffn_dim, layers):
    """Two attentions of 4 (256 x 256 + 256), an FFN of 512 F + F + 256, three norms of 512."""
    assert layers == 3 * (2 * 263_168 + 513 * ffn_dim + 256 + 1_536)
    model = shapes_only(PRESETS["l2g_r50"].replace(aligner={"ffn_dim": ffn_dim}))
    assert count(model.aligner.layers) == layers
    assert count(nn.TransformerDecoderLayer(256, 8, ffn_dim)) * 3 == layers


def test_local2global_is_mask_dino_and_an_aligner():
    model = shapes_only(PRESETS["l2g_r50"].replace(num_classes=80))
    assert count(model) == 52_058_004 + 3_160_320 + 300 * 256  # the published 55.2 M, and the embedding per rank
    dynamic = shapes_only(PRESETS["l2g_r50"].replace(num_classes=80, aligner={"local_position": "dynamic"}))
    assert count(dynamic) == 55_218_324
    without_boxes = shapes_only(PRESETS["l2g_r50"].replace(num_classes=80, trajectory=False))
    assert count(without_boxes) == count(model) + 300 * 4


@pytest.mark.parametrize(("depth", "total"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)])
def test_resnets_have_the_standard_size(depth, total):
    """torchvision's counts without the classifier; theirs include the affine part of batch normalisation."""
    backbone = ResNet(BackboneConfig.resnet(depth))
    frozen = count(backbone)
    set_batch_norm(backbone, trainable=True)
    assert count(backbone) == total
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert frozen == total - sum(2 * norm.num_features for norm in norms)


def test_the_shipped_size_fits_16_megabytes():
    tensors = shapes_only(PRESETS["l2g_tiny"]).state_dict()
    assert sum(tensor.numel() for tensor in tensors.values()) * 4 < 16e6
