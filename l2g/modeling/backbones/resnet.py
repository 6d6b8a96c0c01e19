"""ResNet with frozen batch normalisation, tensor names and strides as in detectron2 (stride in the 3x3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2g.config import BackboneConfig


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with constant statistics: four buffers of one value per channel, eps 1e-5.

    It is applied through the convolution before it (see `Conv`): one product with the weights instead of a pass over
    the activations, in eager mode as in an exported graph.
    """

    eps = 1e-5
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class Conv(nn.Conv2d):
    """A bias-free convolution followed by `norm`: FrozenBatchNorm, or nn.BatchNorm2d while training from scratch."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = FrozenBatchNorm(out_channels)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.norm, FrozenBatchNorm):
            return self.norm(super().forward(x))
        scale, shift = self.norm.scale_and_shift()
        return F.conv2d(x, self.weight * scale[:, None, None, None], shift, self.stride, self.padding)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int):
        super().__init__()
        self.shortcut = Conv(in_channels, out_channels, 1, stride) if in_channels != out_channels else None
        self.conv1 = Conv(in_channels, out_channels, 3, stride)
        self.conv2 = Conv(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        return F.relu(out.add_(x if self.shortcut is None else self.shortcut(x)), inplace=True)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 with the stride, 1x1."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int):
        super().__init__()
        self.shortcut = Conv(in_channels, out_channels, 1, stride) if in_channels != out_channels else None
        self.conv1 = Conv(in_channels, inner, 1)
        self.conv2 = Conv(inner, inner, 3, stride)
        self.conv3 = Conv(inner, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x), inplace=True)
        out = self.conv3(F.relu(self.conv2(out), inplace=True))
        return F.relu(out.add_(x if self.shortcut is None else self.shortcut(x)), inplace=True)


class Stem(nn.Module):
    """7x7 convolution and 3x3 max-pooling, both with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv(3, channels, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # the same, with a quarter of the gradients to pass on
            return F.relu(F.max_pool2d(self.conv1(x), 3, 2, 1), inplace=True)
        return F.max_pool2d(F.relu(self.conv1(x), inplace=True), 3, 2, 1)


class ResNet(nn.Module):
    """Float images [B, 3, H, W], normalised -> (res2, res3, res4, res5) at strides 4, 8, 16, 32."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        block: type[BasicBlock | BottleneckBlock] = BasicBlock if config.block == "basic" else BottleneckBlock
        self.stem = Stem(config.stem_channels)
        channels, stages = config.stem_channels, []
        for stage, (count, out_channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, config.width * 2**stage, out_channels, stride))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.res2, self.res3, self.res4, self.res5 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        res2 = self.res2(self.stem(x))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


def set_batch_norm(model: nn.Module, trainable: bool) -> None:
    """Swap, in place, every backbone norm for a trainable nn.BatchNorm2d or back; the four tensors are kept."""
    for module in model.modules():
        if isinstance(module, Conv) and isinstance(module.norm, FrozenBatchNorm) == trainable:
            old = module.norm
            device = module.weight.device
            new = nn.BatchNorm2d(module.out_channels) if trainable else FrozenBatchNorm(module.out_channels)
            new.load_state_dict(
                {name: old.state_dict()[name] for name in FrozenBatchNorm(1).state_dict()}, strict=False
            )
            module.norm = new.to(device)
