"""A model small enough for a test of a tenth of a second, with weights that leave nothing trivial."""

import torch
from torch import Tensor

from l2g.config import AlignerConfig, BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig
from l2g.modeling.local2global import FrameState, Local2Global

HEIGHT, WIDTH = 64, 96

CONFIG = ModelConfig(
    backbone=BackboneConfig("bottleneck", (1, 1, 1, 1), stem_channels=8, width=4, out_channels=16),
    encoder=EncoderConfig(layers=1, ffn_dim=48, mask_dim=16),
    aligner=AlignerConfig(layers=2, ffn_dim=40),
    decoder=DecoderConfig(layers=2, ffn_dim=56),
    num_queries=10,
    num_classes=3,
    hidden_dim=64,
    num_heads=4,
    input_size=(HEIGHT, WIDTH),
)


def small_model(seed: int = 0, **changes) -> Local2Global:
    """`CONFIG` with `changes`; every zero or constant initial value is perturbed."""
    torch.manual_seed(seed)
    model = Local2Global(CONFIG.replace(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.eq(parameter.flatten()[0]).all():
                parameter.add_(0.1 * torch.randn_like(parameter))
        # Masks that are neither empty nor full, so that boxes vary.
        model.heads.mask_embed.layers[-1].weight.mul_(4)
    return model


def frames(batch: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (batch, height // 16, width // 16, 3), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, 32, (batch, height, width, 3), generator=generator)
    coarse = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2).int()
    return (coarse + noise).clamp(max=255).to(torch.uint8)


def rows(state: FrameState, index) -> FrameState:
    return FrameState(state.queries[index], state.boxes[index], state.valid[index])


def join(*states: FrameState) -> FrameState:
    return FrameState(*(torch.cat([getattr(s, name) for s in states]) for name in ("queries", "boxes", "valid")))
