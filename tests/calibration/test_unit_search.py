"""The search on planted losses."""

import itertools

import numpy as np
import pytest

from l2g.calibration.unit_search import ranked, search_units
from l2g.calibration.units import Inventory, Unit


def inventory(default=6, optional=3):
    units = [Unit(f"u{i}", (f"n{i}",), 100 + i, True) for i in range(default)]
    units += [Unit(f"o{i}", (f"m{i}",), 10 + i, False) for i in range(optional)]
    return Inventory(tuple(units), 1000)


def alike(inventory):
    return dict.fromkeys(inventory.names, 0.1)


def test_a_planted_block_is_excluded_and_all_others_are_taken():
    """It looks as gentle as the rest on single frames; only AP tells."""
    for bad in inventory().names:
        found = search_units(inventory(), alike(inventory()), lambda units, bad=bad: 3.0 * (bad in units), 0.5, 30)
        assert set(found.chosen) == set(inventory().names) - {bad}
        assert found.excluded == (bad,)


def test_two_planted_blocks():
    for bad in itertools.combinations(inventory().names, 2):
        found = search_units(
            inventory(), alike(inventory()), lambda units, bad=bad: 1.0 * len(units & set(bad)), 0.5, 40
        )
        assert set(found.chosen) == set(inventory().names) - set(bad)


def test_everything_within_budget_is_everything_in_two_trials():
    found = search_units(inventory(), alike(inventory()), lambda units: 0.1, 0.5)
    assert set(found.chosen) == set(inventory().names)
    assert [set(trial.units) for trial in found.trials] == [set(inventory().default), set(inventory().names)]


def test_nothing_within_budget_is_nothing():
    found = search_units(inventory(), alike(inventory()), lambda units: 9.0, 0.5, 50)
    assert found.chosen == ()
    assert not any(trial.within for trial in found.trials)


def test_the_chosen_set_was_measured_and_is_within():
    """Whatever the losses and however few the trials."""
    rng = np.random.default_rng(0)
    for trials in (1, 2, 5, 9):
        costs = dict(zip(inventory().names, rng.uniform(0, 0.3, 9), strict=True))
        found = search_units(inventory(), costs, lambda units, c=costs: sum(c[u] for u in units), 0.5, trials)
        assert len(found.trials) <= trials
        measured = {trial.units: trial for trial in found.trials}
        assert not found.chosen or measured[found.chosen].within


def test_additive_losses_lead_near_the_best_set():
    """With losses that add up and a ranking that knows them, the greedy prefix is within a unit of the optimum."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        costs = dict(zip(inventory().names, rng.uniform(0.02, 0.3, 9), strict=True))
        flops = {unit.name: unit.flops for unit in inventory().units}
        found = search_units(inventory(), costs, lambda units, c=costs: sum(c[u] for u in units), 0.5, 60)
        sets = itertools.chain.from_iterable(itertools.combinations(costs, n) for n in range(10))
        best = max(sum(flops[u] for u in s) for s in sets if sum(costs[u] for u in s) <= 0.5)
        assert sum(flops[u] for u in found.chosen) >= best - 110


def test_sensitive_units_are_given_up_first():
    order = ranked(inventory(), {**alike(inventory()), "u3": 9.0})
    assert order[-1] == "u3"
    found = search_units(inventory(), {**alike(inventory()), "u3": 9.0}, lambda units: 2.0 * ("u3" in units), 0.5, 30)
    assert "u3" not in found.chosen
    assert len(found.chosen) == 8


def test_without_widening_the_default_set_is_the_most():
    found = search_units(inventory(), alike(inventory()), lambda units: 0.0, 0.5, widen=False)
    assert found.chosen == inventory().default


def test_the_budget_itself_is_within():
    assert search_units(inventory(), alike(inventory()), lambda units: 0.1 + 0.2, 0.3).trials[0].within


def test_shares_are_of_all_arithmetic():
    assert inventory().share(["u0", "o0"]) == pytest.approx(11.0)
