"""The aligner against PyTorch's own decoder layer and against Eq. 1 of the paper in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from l2g.modeling.aligner import Aligner, AlignerLayer
from tests.modeling.small import CONFIG

DIM, HEADS, N = 64, 4, 10


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def test_a_layer_without_positions_is_pytorchs_decoder_layer():
    torch.manual_seed(0)
    layer = randomised(AlignerLayer(DIM, HEADS, 96))
    reference = nn.TransformerDecoderLayer(DIM, HEADS, 96, dropout=0.0, batch_first=True).eval()
    names = {"multihead_attn.": "cross_attn."}
    ours = layer.state_dict()
    reference.load_state_dict(
        {
            name: ours[next((new + name[len(old) :] for old, new in names.items() if name.startswith(old)), name)]
            for name in reference.state_dict()
        }
    )
    queries, local = torch.randn(2, N, DIM), torch.randn(2, N, DIM)
    with torch.no_grad():
        found = layer(queries, torch.zeros(1), local, local)
        expected = reference(queries, local)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def attention(module: nn.MultiheadAttention, query, key, value) -> np.ndarray:
    weights = module.in_proj_weight.detach().double().numpy().reshape(3, DIM, DIM)
    biases = module.in_proj_bias.detach().double().numpy().reshape(3, DIM)
    q, k, v = (
        (x @ w.T + b).reshape(len(x), HEADS, DIM // HEADS)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(DIM // HEADS)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v).reshape(len(query), DIM)
    return linear(module.out_proj, mixed)


def linear(module: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()


def norm(module: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * module.weight.detach().double().numpy() + module.bias.detach().double().numpy()


def equation_1(aligner: Aligner, queries, position, local, local_position) -> np.ndarray:
    """g_pos in the queries (and the keys of the self-attention), l_pos in the keys, no position in the values."""
    for layer in aligner.layers:
        q = queries + position
        queries = norm(layer.norm1, queries + attention(layer.self_attn, q, q, queries))
        read = attention(layer.cross_attn, queries + position, local + local_position, local)
        queries = norm(layer.norm2, queries + read)
        hidden = np.maximum(linear(layer.linear1, queries), 0)
        queries = norm(layer.norm3, queries + linear(layer.linear2, hidden))
    return queries


@pytest.mark.parametrize("local_position", ["static", "dynamic", "none"])
def test_against_equation_1(local_position):
    torch.manual_seed(1)
    aligner = randomised(Aligner(CONFIG.replace(aligner={"local_position": local_position})))
    queries, position, local, given = (torch.randn(2, N, DIM) for _ in range(4))
    with torch.no_grad():
        found = aligner(queries, position, local, given if local_position == "dynamic" else None)
    for stream in range(2):
        given_keys = given[stream] if local_position == "dynamic" else torch.zeros(N, DIM)
        keys = aligner.local_position.weight.detach() if local_position == "static" else given_keys
        arguments = (x.double().numpy() for x in (queries[stream], position[stream], local[stream], keys))
        np.testing.assert_allclose(found[stream].numpy(), equation_1(aligner, *arguments), atol=1e-5)


@pytest.mark.parametrize("local_position", ["static", "none"])
def test_the_order_of_the_local_queries_matters_only_where_ranks_have_positions(local_position):
    torch.manual_seed(1)
    aligner = randomised(Aligner(CONFIG.replace(aligner={"local_position": local_position})))
    queries, position, local = (torch.randn(2, N, DIM) for _ in range(3))
    with torch.no_grad():
        apart = (aligner(queries, position, local) - aligner(queries, position, local.flip(1))).abs().max().item()
    assert apart < 1e-5 if local_position == "none" else apart > 1e-2
