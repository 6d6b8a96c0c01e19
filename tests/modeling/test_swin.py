"""Swin models of every make against plain steps, at sizes where windows reach beyond the maps."""

import numpy as np
import pytest
import torch

from l2g.config import SwinConfig
from l2g.modeling.backbones.swin import Swin
from tests.modeling import plain_swin
from tests.modeling.small import frames, small_model


def drawn(seed):
    """(config, height, width): any embedding, depths, heads and window; small enough that a map is within a window."""
    rng = np.random.default_rng(seed)
    per_head = int(rng.choice([4, 8, 12]))
    heads = tuple(int(n) for n in rng.choice([1, 2, 3], 1) * 2 ** np.arange(4))
    depths = tuple(int(n) for n in rng.integers(1, 4, 4))
    config = SwinConfig(
        heads[0] * per_head, depths, heads, int(rng.choice([4, 5, 6, 7, 8, 12])), int(rng.choice([2, 4]))
    )
    return config, *(int(side) * 32 for side in rng.integers(1, 6, 2))


@pytest.mark.parametrize("seed", range(10))
def test_any_swin_is_its_plain_steps(seed):
    config, height, width = drawn(seed)
    torch.manual_seed(seed)
    model = Swin(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        images = torch.randn(2, 3, height, width)
        expected = plain_swin.swin(model.state_dict(), images, config.depths, config.heads, config.window)
        for name, wanted, found in zip(("res2", "res3", "res4", "res5"), expected, model(images), strict=True):
            assert found.shape == wanted.shape
            scale = float(wanted.abs().max())
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * max(1, scale), err_msg=f"{config} {name}")


def test_the_ten_reach_what_matters():
    """Windows beyond the map in every stage, maps smaller than a window with a shift, windows that fit."""
    seen = set()
    for seed in range(10):
        config, height, width = drawn(seed)
        padded = [any(side // 4 // 2**stage % config.window for side in (height, width)) for stage in range(4)]
        seen |= {"all padded"} if all(padded) else {"some fit"} if not all(padded) and any(padded) else set()
        for stage, depth in enumerate(config.depths):
            if depth > 1 and min(height, width) // 4 // 2**stage < config.window:
                seen.add("shift on a small map")
    assert seen == {"all padded", "some fit", "shift on a small map"}


@pytest.mark.parametrize(
    ("levels", "finest", "box_init"), [(5, 2, "bitmask"), (6, 2, "no"), (4, 2, "mask2box"), (3, 3, "no"), (5, 3, "no")]
)
def test_a_whole_model_of_any_levels(levels, finest, box_init):
    model = small_model(
        backbone=vars(SwinConfig(16, (1, 2, 1, 2), (1, 2, 4, 8), 5)),
        encoder={"levels": levels, "finest": finest},
        box_init=box_init,
        aligner=None,
    )
    pictures = frames(2, height=96, width=160)
    with torch.no_grad():
        found, state = model.step(pictures)
        with plain_swin.public_steps(model):
            expected, wanted = model.step(pictures)
    for name, one, other in (
        ("logits", found.logits, expected.logits),
        ("boxes", found.boxes, expected.boxes),
        ("queries", state.queries, wanted.queries),
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.mask_logits, expected.mask_logits, rtol=0, atol=1e-3)
    assert found.boxes.std() > 0.01
