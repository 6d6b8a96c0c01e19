"""Deformable attention in its two ways against a loop over every sample."""

import math

import numpy as np
import pytest
import torch

from l2g.modeling import deformable
from l2g.modeling.deformable import (
    DeformableAttention,
    deformable_attention,
    gather_rows,
    sample_levels,
)

SHAPES = ((5, 7), (3, 4), (1, 6), (4, 1), (1, 1))


def loop(value, shapes, locations, weights) -> np.ndarray:
    """The contract, sample by sample in float64: bilinear over pixel centres, zero outside."""
    value, locations, weights = (np.asarray(x, np.float64) for x in (value, locations, weights))
    b, q, m, levels, p, _ = locations.shape
    out = np.zeros((b, q, m, value.shape[3]))
    starts = np.cumsum([0, *(h * w for h, w in shapes)])
    for bi, qi, mi, level, pi in np.ndindex(b, q, m, levels, p):
        h, w = shapes[level]
        x = locations[bi, qi, mi, level, pi, 0] * w - 0.5
        y = locations[bi, qi, mi, level, pi, 1] * h - 0.5
        if not (-1 < x < w and -1 < y < h):
            continue
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < h and 0 <= column < w:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[bi, qi, mi, level, pi]
                    out[bi, qi, mi] += share * value[bi, starts[level] + row * w + column, mi]
    return out.reshape(b, q, -1)


def inputs(batch=2, queries=9, heads=3, width=4, points=2, spread=1.6, seed=0):
    """value, locations in 0.5 -+ spread / 2, weights that sum to one."""
    generator = torch.Generator().manual_seed(seed)
    tokens, levels = sum(h * w for h, w in SHAPES), len(SHAPES)
    value = torch.randn(batch, tokens, heads, width, generator=generator)
    locations = 0.5 + spread * (torch.rand(batch, queries, heads, levels, points, 2, generator=generator) - 0.5)
    weights = torch.rand(batch, queries, heads, levels * points, generator=generator).softmax(-1)
    return value, locations, weights.view(batch, queries, heads, levels, points)


WAYS = [gather_rows, sample_levels]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spread", [0.0, 1.0, 1.6, 20.0])
def test_against_the_loop(way, spread):
    value, locations, weights = inputs(spread=spread)
    found = way(value, SHAPES, locations, weights)
    np.testing.assert_allclose(found.numpy(), loop(value, SHAPES, locations, weights), atol=2e-6)


@pytest.mark.parametrize("way", WAYS)
def test_on_pixel_centres_borders_and_far_outside(way):
    value, locations, weights = inputs(batch=1, queries=16)
    special = [
        0.0,
        1.0,
        0.5,
        -0.5 / 7,
        1 + 0.5 / 7,
        0.5 / 7,
        6.5 / 7,
        1 / 6,
        -1e4,
        1e4,
        2.0,
        -1.0,
        1e-7,
        1 - 1e-7,
        0.1,
        0.9,
    ]
    locations[..., 0] = torch.tensor(special).view(1, 16, 1, 1, 1)
    locations[..., 1] = torch.tensor(special[::-1]).view(1, 16, 1, 1, 1)
    found = way(value, SHAPES, locations, weights)
    np.testing.assert_allclose(found.numpy(), loop(value, SHAPES, locations, weights), atol=2e-6)


def test_nothing_that_a_location_holds_breaks_the_gather():
    value, locations, weights = inputs(batch=1, queries=5)
    clean = gather_rows(value, SHAPES, locations, weights)
    for strange in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38):
        broken = locations.clone()
        broken[:, 2, :, :, 0] = strange
        found = gather_rows(value, SHAPES, broken, weights)
        without = weights.clone()
        without[:, 2, :, :, 0] = 0
        expected = loop(value, SHAPES, locations, without)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6, err_msg=str(strange))
        assert torch.equal(found[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]])


# Queries of five levels of two points that are done at once.
AT_ONCE = deformable.CHUNK // 10


@pytest.mark.parametrize("queries", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
def test_chunks_meet_without_a_seam(queries):
    value, locations, weights = inputs(batch=3, queries=queries, heads=2)
    found = gather_rows(value, SHAPES, locations, weights)
    torch.testing.assert_close(found, sample_levels(value, SHAPES, locations, weights), atol=2e-6, rtol=0)
    last = slice(queries - 1, queries)
    alone = gather_rows(value[1:2], SHAPES, locations[1:2, last], weights[1:2, last])
    torch.testing.assert_close(found[1:2, last], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("references", ["points", "boxes"])
def test_a_module_in_chunks_is_the_module(references, monkeypatch):
    """71 queries of three streams, six at a time: as in one piece, through the operator, as a trace sees it."""
    torch.manual_seed(0)
    module = DeformableAttention(32, 4, len(SHAPES)).eval()
    for projection in (module.sampling_offsets, module.attention_weights):
        torch.nn.init.normal_(projection.weight, std=0.2)
    tokens = sum(h * w for h, w in SHAPES)
    query, memory = torch.randn(3, 71, 32), torch.randn(3, tokens, 32)
    reference = torch.rand(1, 71, 2) if references == "points" else torch.rand(3, 71, 4)
    monkeypatch.setattr(deformable, "CHUNK", 6 * 20)
    monkeypatch.setattr(deformable, "TOKENS", 15)
    pieces, read = [], deformable._read
    monkeypatch.setattr(deformable, "_read", lambda *parts: pieces.append(len(parts[2])) or read(*parts))
    with torch.no_grad():
        found = module(query, reference, memory, SHAPES)
        assert pieces == 3 * ([6] * 11 + [5])
        monkeypatch.setattr(deformable, "by_hand", lambda *_: False)
        whole = module(query, reference, memory, SHAPES)
    torch.testing.assert_close(found, whole, atol=2e-6, rtol=0)
    torch.testing.assert_close(found, module(query, reference, memory, SHAPES).detach(), atol=2e-6, rtol=0)


def test_gradients_against_finite_differences():
    value, locations, weights = (x.double() for x in inputs(batch=1, queries=2, heads=2, width=2, points=1, spread=1.2))
    # A bilinear sample has a kink where it crosses a pixel centre: keep away from them.
    sizes = torch.tensor([(w, h) for h, w in SHAPES]).view(-1, 1, 2)
    position = locations * sizes - 0.5
    locations = (position.floor() + 0.1 + 0.8 * (position - position.floor()) + 0.5) / sizes
    arguments = tuple(x.requires_grad_() for x in (value, locations, weights))
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, SHAPES, x, w), arguments)


@pytest.mark.parametrize("spread", [1.0, 1.6])
def test_image_by_image_the_values_and_gradients_are_the_same(spread, monkeypatch):
    """What training on a CPU takes for many queries, against autograd through the plain form."""
    arguments = [x.requires_grad_() for x in inputs(batch=3, queries=70, heads=4, width=8, points=4, spread=spread)]
    direction = torch.randn(3, 70, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(deformable, "MANY_SAMPLES", 70 * 4 * 8 * len(SHAPES) * 4)
    plain = sample_levels(arguments[0], SHAPES, *arguments[1:])
    found = deformable_attention(arguments[0], SHAPES, *arguments[1:])
    assert type(found.grad_fn).__name__ == "_ImageByImageBackward"
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
    gradients = (torch.autograd.grad(output, arguments, direction) for output in (found, plain))
    for mine, true in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("rows", "width", "expected"), [(1, 2, True), (2, 2, False), (1, 4, False)])
def test_around_points_a_layer_and_its_gradients_are_the_same(rows, width, expected, monkeypatch):
    """With the offsets scaled image by image; other references than points that all images share are left out."""
    module = DeformableAttention(32, 4, len(SHAPES))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    query, memory = (torch.randn(2, n, 32, generator=generator) for n in (70, sum(h * w for h, w in SHAPES)))
    reference = torch.rand(rows, 70, width, generator=generator)
    inputs = [query.requires_grad_(), memory.requires_grad_(), *module.parameters()]
    direction = torch.randn(2, 70, 32, generator=generator)
    taken = []
    taken_from = deformable.around_points
    monkeypatch.setattr(deformable, "around_points", lambda *given: taken.append(len(given)) or taken_from(*given))
    found = []
    for least in (1, 1 << 30):
        monkeypatch.setattr(deformable, "MANY_SAMPLES", least)
        result = module(query, reference, memory, SHAPES)
        found.append((result, *torch.autograd.grad(result, inputs, direction)))
    assert taken == [5 if expected else 4]
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, atol=2e-5, rtol=1e-4)


def test_training_differentiates_and_inference_calls_the_operator(monkeypatch):
    value, locations, weights = inputs()
    calls = []
    for way in WAYS:
        monkeypatch.setattr(deformable, way.__name__, lambda *args, way=way: calls.append(way.__name__) or way(*args))
    weights.requires_grad_()
    training = deformable_attention(value, SHAPES, locations, weights)
    assert training.requires_grad
    with torch.no_grad():
        inference = deformable_attention(value, SHAPES, locations, weights)
        single = deformable_attention(value.half().float(), SHAPES, locations, weights)
    assert calls == ["sample_levels", "gather_rows", "gather_rows"]
    torch.testing.assert_close(training, inference, atol=2e-6, rtol=0)
    torch.testing.assert_close(single, inference, atol=1e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_keeps_the_rules_of_operators(dtype):
    """Of both ways: a CPU gathers float32, everything else is sampled. Compiled code relies on the layout."""
    value, locations, weights = (tensor.to(dtype) for tensor in inputs())
    flat = [side for shape in SHAPES for side in shape]
    operator, arguments = torch.ops.l2g.deformable_attention.default, (value, flat, locations, weights)
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    with torch.no_grad():
        promised = operator(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
        assert operator(*arguments).stride() == promised.stride()


@pytest.mark.parametrize("reference_dim", [2, 4])
def test_module_against_the_paper(reference_dim):
    """Offsets count pixels around a point (Zhu et al., appendix), and eighths of the box's sides around a box."""
    torch.manual_seed(0)
    shapes = ((4, 6), (2, 3), (1, 2), (1, 1))
    module = DeformableAttention(32, 4, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    query, memory = torch.randn(2, 5, 32), torch.randn(2, 33, 32)
    reference = torch.rand(2, 5, reference_dim)
    with torch.no_grad():
        found = module(query, reference, memory, shapes)
        value = (memory @ module.value_proj.weight.T + module.value_proj.bias).numpy().reshape(2, 33, 4, 8)
        offsets = module.sampling_offsets(query).numpy().reshape(2, 5, 4, 4, 4, 2)
        scores = module.attention_weights(query).numpy().reshape(2, 5, 4, 16).astype(np.float64)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    locations = np.zeros((2, 5, 4, 4, 4, 2))
    for level, (h, w) in enumerate(shapes):
        centre = reference[..., :2].numpy()[:, :, None, None]
        if reference_dim == 2:
            locations[:, :, :, level] = centre + offsets[:, :, :, level] / (w, h)
        else:
            side = reference[..., 2:].numpy()[:, :, None, None]
            locations[:, :, :, level] = centre + offsets[:, :, :, level] / 4 * side / 2
    read = loop(value, shapes, locations, weights.reshape(2, 5, 4, 4, 4))
    projection = module.output_proj
    expected = read @ projection.weight.detach().double().numpy().T + projection.bias.detach().double().numpy()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_fresh_module_looks_around_in_every_direction():
    """The first offsets of 8 heads point along the 8 compass directions, point k at k pixels (maximum norm)."""
    offsets = DeformableAttention(32, 8, 4).sampling_offsets.bias.view(8, 4, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(4):
            expected = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], expected.expand(4, 2), atol=1e-5, rtol=0)
