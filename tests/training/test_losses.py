"""Loss terms and sampling against their definitions."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from l2g.training.loss.dense import dense_mask_losses
from l2g.training.loss.points import point_mask_losses, sample, uncertain_points
from l2g.training.loss.targets import FrameTargets
from l2g.training.loss.terms import dice, focal, generalised_iou, mask_bce


def test_focal_is_the_papers_formula():
    for logit, target in ((0.3, 1), (0.3, 0), (-2.0, 1), (4.0, 0)):
        p = 1 / (1 + math.exp(-logit))
        expected = -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log(1 - p)
        actual = focal(torch.tensor([logit]), torch.tensor([target]))
        assert actual.item() == torch.tensor(expected).float().item() or abs(actual.item() - expected) < 1e-6


def test_dice_and_bce_of_known_masks():
    logits = torch.tensor([[50.0, 50.0, -50.0, -50.0]])
    same, other = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 1]])
    assert dice(logits, same).item() == 0
    assert abs(dice(logits, other).item() - (1 - 1 / 5)) < 1e-6  # no overlap, smoothed by one
    assert mask_bce(logits, same).item() < 1e-6
    assert abs(mask_bce(logits, other).item() - 50) < 1e-4


def test_generalised_iou_by_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (np.sort(rng.integers(0, 20, (2, 2)), axis=0) for _ in range(2))
        a[1] += 1
        b[1] += 1
        grids = []
        for (x1, y1), (x2, y2) in (a, b):
            grid = np.zeros((24, 24), bool)
            grid[y1:y2, x1:x2] = True
            grids.append(grid)
        intersection, union = (grids[0] & grids[1]).sum(), (grids[0] | grids[1]).sum()
        low, high = np.minimum(a[0], b[0]), np.maximum(a[1], b[1])
        hull = np.prod(high - low)
        expected = intersection / union - (hull - union) / hull
        boxes = [torch.tensor([*((c[0] + c[1]) / 2), *(c[1] - c[0])], dtype=torch.float32) / 24 for c in (a, b)]
        assert abs(generalised_iou(*boxes).item() - expected) < 1e-5


def test_points_sit_at_pixel_centres():
    mask = torch.arange(12.0).view(1, 3, 4)
    centres = torch.tensor([[[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)]])
    assert torch.allclose(sample(mask, centres), mask.flatten(1), atol=1e-5)


def test_uncertain_points_crowd_at_the_boundary():
    torch.manual_seed(0)
    logits = torch.linspace(-8, 8, 32).expand(1, 32, 32).contiguous()  # the boundary is the vertical middle
    points = uncertain_points(logits, 400)
    near = ((points[..., 0] - 0.5).abs() < 0.2).float().mean().item()
    assert near > 0.75  # 0.4 by chance alone


def test_everywhere_is_stride_two_and_the_gradients_are_those_of_the_terms():
    torch.manual_seed(0)
    masks = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
    masks[0, 1, :6, 3:14] = masks[1, 2, 5:, 8:] = masks[1, 0] = 1
    present = torch.tensor([[True, True, False], [False, True, True]])  # a mask where none is present is not seen
    targets = FrameTargets(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4), masks, present)
    which = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 2, 0, 2, 1])
    logits = (3 * torch.randn(5, 4, 6)).requires_grad_()
    weights = torch.rand(2, 5)
    large = F.interpolate(logits[:, None], scale_factor=2, mode="bilinear")[:, 0].flatten(1)
    pooled = F.avg_pool2d(masks.float() * present[..., None, None], 2)[which].flatten(1)
    assert pooled[0].unique().tolist() == [0, 0.5, 1]
    expected = mask_bce(large, pooled), dice(large, pooled)
    slope = torch.autograd.grad((weights * torch.stack(expected)).sum(), logits)[0]
    found = dense_mask_losses(logits, targets, which)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad((weights * torch.stack(found)).sum(), logits)[0], slope)
    # Points all over the masks say much the same.
    points = point_mask_losses(10 * logits.detach().sign(), targets, which, 4000)
    dense = dense_mask_losses(10 * logits.detach().sign(), targets, which)
    torch.testing.assert_close(points[1], dense[1], rtol=0, atol=0.2)
