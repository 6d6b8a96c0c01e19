"""A VidEoMT whose weights are written by hand: slot 0 looks for red, slot 1 for green, and both say when there is none.

Random weights see objects in noise, so that nothing can be said of identities that come and go. Here the truth is
known: patches carry how red and how green they are, an attention takes the best match to each query, the class head
asks whether it is good enough, and a mask is where patches match. A norm would mix the channels; each has a twin of the
other sign and two large ones stand beside them, so that the mean is 0 and the deviation almost the same everywhere.
"""

from __future__ import annotations

import torch
from transformers import VideomtForUniversalSegmentation

from l2g.modeling.videomt.model import Videomt
from tests.modeling.videomt.small import config

NAMES = ("red thing", "green thing")
HIDDEN = 32
# Channels: how much a patch matches a colour, what a query looks for, the best match that it found; two of each.
MATCH, WANTED, FOUND, LARGE = 0, 2, 4, 6
TWIN = HIDDEN // 2
LOUD = 40.0  # of the large channels
SCALE = LOUD * (2 / HIDDEN) ** 0.5  # the deviation that a norm divides by
WEIGHTS = ((1.0, -0.5, -0.5), (-0.5, 1.0, -0.5))  # of R, G and B: red, green; grey is 0
LEAST = 0.5  # the match from which on a patch is of a colour; a full one has some 2 to 3


def colour_videomt() -> Videomt:
    """Frames of 96 x 96; patches of 4, which are not upscaled, so that masks are at a quarter."""
    changes = {
        "hidden_size": HIDDEN,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_blocks": 1,
        "num_queries": 3,
        "num_register_tokens": 0,
        "patch_size": 4,
        "num_upscale_blocks": 0,
        "hidden_act": "relu",
        "id2label": dict(enumerate(NAMES)),
    }
    network = VideomtForUniversalSegmentation(config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(float(name.endswith("norm1.weight") or name == "layernorm.weight"))
        _write(network)
    return Videomt(network)


def _write(network: VideomtForUniversalSegmentation) -> None:
    layer, patches = network.layers[0], network.embeddings.patch_embeddings.projection
    for colour in (0, 1):
        weights = torch.tensor(WEIGHTS[colour])[:, None, None].expand(3, 4, 4) / 16
        _twins(patches.weight, MATCH + colour, weights)
        # Queries want one colour each; the third none.
        _twins(network.query.weight.T, WANTED + colour, torch.eye(3)[colour])
        layer.attention.q_proj.weight[colour, WANTED + colour] = 1e3
        layer.attention.k_proj.weight[colour, MATCH + colour] = SCALE
        layer.attention.v_proj.weight[colour, MATCH + colour] = SCALE
    # What an attention found stands beside what the query wanted: a query takes that of its own colour alone.
    for colour in (0, 1):
        _twins(layer.attention.out_proj.weight, FOUND + colour, torch.eye(HIDDEN)[colour])
    layer.layer_scale1.lambda1.fill_(1)
    for bias in (patches.bias, network.query.weight.T):
        _twins(bias, LARGE, torch.tensor(LOUD).expand(bias.shape[1:]))
    _twins(network.embeddings.cls_token[0].T, LARGE, torch.tensor([LOUD]))
    for colour in (0, 1):
        # A score of one half where the match is the least one; "no object" otherwise, whatever is of the other colour.
        head = network.class_predictor
        head.weight[colour, FOUND + colour] = 8 * SCALE
        head.weight[colour, WANTED + colour] = 40 * SCALE
        head.bias[colour] = -40 - 8 * LEAST
        for fc in (network.mask_head.fc1, network.mask_head.fc2):
            fc.weight[colour, WANTED + colour if fc is network.mask_head.fc1 else colour] = 1
        network.mask_head.fc3.weight[MATCH + colour, colour] = 1e2 * SCALE**2
        network.mask_head.fc3.weight[LARGE, colour] = -1e2 * LEAST * SCALE**2 / LOUD


def _twins(weight: torch.Tensor, channel: int, values: torch.Tensor) -> None:
    """Write one channel and its twin."""
    weight[channel] += values
    weight[channel + TWIN] -= values
