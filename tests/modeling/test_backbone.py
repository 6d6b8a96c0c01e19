"""ResNets of both blocks against the published recipe written out with plain functions, and the swap of norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from l2g.config import BackboneConfig
from l2g.modeling.backbones.resnet import FrozenBatchNorm, ResNet, set_batch_norm
from tests.modeling.small import frames, small_model

CONFIGS = {
    "resnet 18": BackboneConfig.resnet(18, stem_channels=8, width=8, out_channels=8),
    "resnet 34": BackboneConfig.resnet(34, stem_channels=4, width=4, out_channels=4),
    "resnet 50": BackboneConfig.resnet(50, stem_channels=8, width=4, out_channels=16),
    "resnet 101": BackboneConfig.resnet(101, stem_channels=8, width=4, out_channels=16),
    "uneven": BackboneConfig("bottleneck", (1, 2, 1, 3), stem_channels=6, width=5, out_channels=12),
}


def reference(state: dict[str, Tensor], blocks: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """He et al. 2016 with the stride in the 3x3 convolution (in the first of a basic block's), from named tensors."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = [state[f"{name}.norm.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm, training=False, eps=1e-5)

    x = F.max_pool2d(conv("stem.conv1", x, 2).relu(), kernel_size=3, stride=2, padding=1)
    outputs = []
    for stage, count in enumerate(blocks):
        for index in range(count):
            name = f"res{stage + 2}.{index}"
            stride = 2 if stage > 0 and index == 0 else 1
            shortcut = conv(f"{name}.shortcut", x, stride) if f"{name}.shortcut.weight" in state else x
            if f"{name}.conv3.weight" in state:
                y = conv(f"{name}.conv2", conv(f"{name}.conv1", x).relu(), stride).relu()
                y = conv(f"{name}.conv3", y)
            else:
                y = conv(f"{name}.conv2", conv(f"{name}.conv1", x, stride).relu())
            x = (y + shortcut).relu()
        outputs.append(x)
    return outputs


def random_norms(backbone: ResNet) -> ResNet:
    for name, buffer in backbone.named_buffers():
        noise = torch.rand_like(buffer)
        buffer.copy_(0.5 + noise if name.endswith(("weight", "running_var")) else noise - 0.5)
    return backbone


@pytest.mark.parametrize("name", CONFIGS)
def test_against_the_published_recipe(name):
    config = CONFIGS[name]
    torch.manual_seed(0)
    backbone = random_norms(ResNet(config))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = backbone(x)
        expected = reference(backbone.state_dict(), config.blocks, x)
    for stage, (one, two) in enumerate(zip(found, expected, strict=True)):
        stride = 4 * 2**stage
        assert one.shape == (2, config.channels[stage], 64 // stride, 96 // stride)
        # Deep random nets grow: compare relative to the largest value.
        assert (one - two).abs().max() < 1e-5 * two.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_against_the_published_recipe(name):
    """Training takes the stem's ReLU after the pooling. In float64: a ReLU near zero is no matter of rounding."""
    config = CONFIGS[name]
    torch.manual_seed(0)
    backbone = random_norms(ResNet(config)).double()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64).requires_grad_()
    found, expected = backbone(x), reference(dict(backbone.state_dict(keep_vars=True)), config.blocks, x)
    inputs = [x, backbone.stem.conv1.weight, *backbone.res5.parameters()]
    gradients = [
        torch.autograd.grad(sum(y.square().mean() / 2 for y in outputs), inputs) for outputs in (found, expected)
    ]
    for one, two in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert (one - two).abs().max() < 1e-9 * two.abs().max()


def test_a_block_has_a_shortcut_where_its_input_has_another_size():
    names = ResNet(BackboneConfig.resnet(18)).state_dict()
    shortcuts = {name.rsplit(".shortcut", 1)[0] for name in names if ".shortcut." in name}
    assert shortcuts == {"res3.0", "res4.0", "res5.0"}
    names = ResNet(CONFIGS["resnet 50"]).state_dict()
    shortcuts = {name.rsplit(".shortcut", 1)[0] for name in names if ".shortcut." in name}
    assert shortcuts == {"res2.0", "res3.0", "res4.0", "res5.0"}


def test_norms_swap_to_trainable_and_back():
    model = small_model()
    random_norms(model.backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model.step(frames(1))[0]
    frozen = sum(p.numel() for p in model.parameters())

    set_batch_norm(model, trainable=True)
    channels = [m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert sum(p.numel() for p in model.parameters()) == frozen + 2 * sum(channels)
    model.eval()
    with torch.no_grad():
        found = model.step(frames(1))[0]
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, atol=1e-4, rtol=0)

    set_batch_norm(model, trainable=False)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(model.step(frames(1))[0].logits, expected.logits)


def test_a_trainable_norm_learns_and_keeps_what_it_learnt():
    backbone = ResNet(CONFIGS["resnet 18"])
    set_batch_norm(backbone, trainable=True)
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    sum(output.square().mean() for output in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    set_batch_norm(backbone, trainable=False)
    norm = backbone.stem.conv1.norm
    assert isinstance(norm, FrozenBatchNorm)
    assert not norm.weight.requires_grad
    assert norm.running_mean.abs().max() > 0
    assert (norm.weight - 1).abs().max() > 0
    backbone.train()
    assert isinstance(backbone.stem.conv1.norm, FrozenBatchNorm)
    x, mean = torch.randn(2, 3, 64, 64), norm.running_mean.clone()
    backbone(x)
    assert torch.equal(norm.running_mean, mean)
