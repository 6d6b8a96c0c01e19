"""Small VidEoMTs with random weights, whose numbers are spread as a trained one's: `transformers` is the truth."""

from __future__ import annotations

import functools

import numpy as np
import torch
from transformers import VideomtConfig, VideomtForUniversalSegmentation

from l2g.modeling.videomt.dinov3 import VideomtDinov3Config, VideomtDinov3ForUniversalSegmentation
from l2g.modeling.videomt.model import Videomt

NAMES = ("person", "dog", "cat", "bird", "fish", "boat")


def config(**changes) -> VideomtConfig:
    return VideomtConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 96,
            "num_blocks": 2,
            "num_queries": 11,
            "num_register_tokens": 3,
            "id2label": dict(enumerate(NAMES)),
            **changes,
        }
    )


def network(seed: int = 0, **changes) -> VideomtForUniversalSegmentation:
    torch.manual_seed(seed)
    return _spread(VideomtForUniversalSegmentation(config(**changes)))


def dinov3_network(seed: int = 0, **changes) -> VideomtDinov3ForUniversalSegmentation:
    """The same with a DINOv3 backbone."""
    torch.manual_seed(seed)
    settings = {key: value for key, value in config().to_diff_dict().items() if key not in ("model_type", "mlp_ratio")}
    settings |= {"intermediate_size": 160, "layer_norm_eps": 1e-5, **changes}
    return _spread(VideomtDinov3ForUniversalSegmentation(VideomtDinov3Config(**settings)))


def _spread(found):
    with torch.no_grad():
        found.embeddings.register_tokens.normal_()
        found.class_predictor.weight.mul_(8)  # so that classes win over "no object", and by a margin
    return found.eval()


@functools.cache
def small_videomt() -> Videomt:
    return Videomt(network()).eval()


def moving_frames(model: Videomt, streams: int, frames: int, seed: int = 0) -> np.ndarray:
    """uint8 [B, T, H, W, 3]: blobs of colour that drift."""
    rng = np.random.default_rng(seed)
    height, width = model.config.input_size
    coarse = rng.integers(0, 256, (streams, 6, 6, 3)).repeat(height // 3, 1).repeat(width // 3, 2).astype(np.uint8)
    return np.stack([coarse[:, 3 * t : 3 * t + height, t : t + width] for t in range(frames)], axis=1)


def public_forward(model: Videomt, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What transformers makes of clips uint8 [B, T, H, W, 3]: logits [T, B, N, K + 1] and mask logits [T, B, N, h, w].

    Its rows come frame by frame. The pixels are normalised as its processor does, a factor of 1/255 in mean and std.
    """
    mean, std = (torch.tensor(values) * 255 for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = ((torch.from_numpy(clip).float() - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        found = model.network(pixel_values_videos=pixels)
    shape = (clip.shape[1], clip.shape[0])
    return tuple(t.unflatten(0, shape).numpy() for t in (found.class_queries_logits, found.masks_queries_logits))


def public_queries(model: Videomt, clip: np.ndarray) -> list[np.ndarray]:
    """The queries that its forward carries from frame to frame, caught on their way into the next."""
    caught: list[np.ndarray] = []
    hook = model.network.query_updater.register_forward_pre_hook(lambda _, args: caught.append(args[0].numpy().copy()))
    try:
        public_forward(model, clip)
    finally:
        hook.remove()
    return caught


def dinov3_authors_tensors(network: VideomtDinov3ForUniversalSegmentation) -> dict[str, torch.Tensor]:
    """A state dict as the authors' code saves it: DINOv3 is transformers' own there, under two other names."""
    heads = {"query": "q", "class_predictor": "class_head", "upscale_block.block": "upscale"}
    heads |= {f"mask_head.fc{number}": f"mask_head.{2 * number - 2}" for number in (1, 2, 3)}
    trunk = {"embeddings": "patch_embed", "layers": "blocks", "layernorm": "norm"}
    found = {"criterion.empty_weight": torch.ones(7)}
    for name, tensor in network.state_dict().items():
        if name.startswith("criterion."):
            continue
        for prefixes, place in ((trunk, "backbone.encoder.backbone."), (heads, "backbone."), ({"": ""}, "backbone.")):
            match = next((old for old in prefixes if name.startswith(f"{old}." if old else "")), None)
            if match is not None:
                found[place + prefixes[match] + name[len(match) :].replace("layernorm2d", "norm")] = tensor
                break
    return found
