"""Assignments against brute force, and an instance's slot for life."""

import itertools

import pytest
import torch

from l2g.modeling.local2global import FrameOutput
from l2g.training.config import LossConfig
from l2g.training.loss.matcher import assign, match_costs
from l2g.training.loss.targets import FrameTargets


def cheapest(costs, columns):
    slots = itertools.permutations(range(costs.shape[0]), len(columns))
    return min(
        sum(costs[slot, column].item() for slot, column in zip(chosen, columns, strict=True)) for chosen in slots
    )


def test_assignment_is_the_cheapest():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(3, 6, 4, generator=generator)
    wanted = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])
    slots = assign(costs, wanted)
    assert slots[1, 1] == slots[1, 3] == -1
    assert slots[2].eq(-1).all()
    for row in range(2):
        columns = wanted[row].nonzero().flatten().tolist()
        found = sum(costs[row, slots[row, column], column].item() for column in columns)
        assert found == pytest.approx(cheapest(costs[row], columns))


def test_a_slot_is_kept_and_never_given_twice():
    costs = torch.ones(1, 3, 3)
    costs[0, 0] = 0  # slot 0 is the cheapest for everybody
    taken = torch.tensor([[2, -1, -1]])  # but instance 0 already lives in slot 2
    slots = assign(costs, torch.tensor([[True, True, False]]), taken)
    assert slots.tolist() == [[2, 0, -1]]
    hidden = assign(costs, torch.tensor([[False, False, True]]), slots)
    assert hidden.tolist() == [[2, 0, 1]]  # hidden instances keep their slots, the new one gets the free one


@pytest.mark.parametrize("num_points", [0, 256])
def test_costs_prefer_the_slot_that_is_right(num_points):
    torch.manual_seed(0)
    masks = torch.zeros(1, 2, 32, 32, dtype=torch.uint8)
    masks[0, 0, 4:12, 4:20] = 1
    masks[0, 1, 16:30, 8:24] = 1
    boxes = torch.tensor([[[12 / 32, 8 / 32, 0.5, 0.25], [0.5, 23 / 32, 0.5, 14 / 32]]])
    targets = FrameTargets(torch.tensor([[1, 0]]), boxes, masks, torch.ones(1, 2, dtype=torch.bool))
    logits = torch.full((1, 3, 2), -4.0)
    logits[0, 2, 1] = logits[0, 0, 0] = 4.0
    mask_logits = torch.full((1, 3, 8, 8), -6.0)
    mask_logits[0, 2, 1:3, 1:5] = 6.0
    mask_logits[0, 0, 4:7, 2:6] = 6.0
    predicted = torch.full((1, 3, 4), 0.5)
    predicted[0, 2], predicted[0, 0] = boxes[0, 0], boxes[0, 1]
    costs = match_costs(FrameOutput(logits, predicted, mask_logits), targets, LossConfig(num_points=num_points))
    assert assign(costs, targets.present).tolist() == [[2, 0]]
    assert costs[0, :, 0].argmin() == 2
    assert costs[0, :, 1].argmin() == 0


def test_a_diverged_prediction_is_still_assigned():
    targets = FrameTargets(
        torch.zeros(1, 1, dtype=torch.int64), torch.rand(1, 1, 4), torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    nan = torch.full((1, 2, 2), float("nan"))
    output = FrameOutput(nan, torch.full((1, 2, 4), float("nan")), torch.full((1, 2, 2, 2), float("nan")))
    assert assign(match_costs(output, targets, LossConfig(num_points=0)), targets.present).item() in (0, 1)
