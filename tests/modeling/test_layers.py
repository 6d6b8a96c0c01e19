"""Layers that take some rows at a time give what they give of all at once."""

import pytest
import torch
from torch import nn

from l2g.modeling import layers
from tests.modeling.small import frames, small_model


@pytest.mark.parametrize("shape", [(2, 37, 8), (1, 5, 7, 8), (3, 8)])
def test_rows_at_a_time_are_all_rows(shape, monkeypatch):
    torch.manual_seed(0)
    network, x, taken = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)), torch.randn(shape), []

    def layer(rows):
        taken.append(rows.numel() // 8)
        return rows + network(rows)

    monkeypatch.setattr(layers, "PART_BYTES", 4 * 32 * 4)  # four rows
    count = x.numel() // 8
    with torch.no_grad():
        found = layers.by_rows(layer, x, 32)
        assert taken == ([4] * (count // 4) + [count % 4] * (count % 4 > 0))
        torch.testing.assert_close(found, x + network(x), rtol=0, atol=1e-6)
    taken.clear()
    assert layers.by_rows(layer, x, 32).requires_grad  # a gradient wants them all
    assert taken == [count]


def test_a_model_by_rows_is_the_model(monkeypatch):
    model = small_model()
    with torch.no_grad():
        whole, _ = model.step(frames(2), None)
        monkeypatch.setattr(layers, "PART_BYTES", 1 << 12)
        parts, _ = model.step(frames(2), None)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.mask_logits, whole.mask_logits, rtol=0, atol=1e-4)
