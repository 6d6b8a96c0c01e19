"""The backbone that a config describes."""

from __future__ import annotations

from torch import nn

from l2g.config import BackboneConfig, SwinConfig
from l2g.modeling.backbones.resnet import ResNet
from l2g.modeling.backbones.swin import Swin


def build_backbone(config: BackboneConfig | SwinConfig) -> nn.Module:
    """The module of `config`: float images [B, 3, H, W], normalised -> (res2, res3, res4, res5)."""
    return Swin(config) if isinstance(config, SwinConfig) else ResNet(config)
