"""The largest set of units whose loss of AP stays within the budget, found in a few measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l2g.calibration.units import Inventory


@dataclass(frozen=True)
class UnitTrial:
    """One measured set: its units, its share of the arithmetic in percent, and the AP that it loses."""

    units: tuple[str, ...]
    share: float
    loss: float
    within: bool


@dataclass(frozen=True)
class UnitSearch:
    """chosen: the units to quantise. excluded: those that broke the budget when they were added. trials: in order."""

    chosen: tuple[str, ...]
    excluded: tuple[str, ...]
    trials: tuple[UnitTrial, ...]


def search_units(
    inventory: Inventory,
    sensitivity: dict[str, float],
    loss: Callable[[frozenset[str]], float],
    budget: float,
    max_trials: int = 12,
    widen: bool = True,
) -> UnitSearch:
    """Start from the default set; widen it while the loss of AP stays within `budget`, or narrow it until it does.

    sensitivity: of each unit, the error that quantising it alone causes; the order of trying is error per arithmetic,
    gentlest first. loss: AP percent points that a set loses; measured at most `max_trials` times. Adding is by
    bisection: the longest prefix within budget is kept, the unit behind it is left out, and the rest is tried again.
    """
    run = _Trials(inventory, loss, budget, max_trials)
    order = ranked(inventory, sensitivity)
    default = [name for name in order if name in inventory.default]
    optional = [name for name in order if name not in inventory.default] if widen else []
    if run.within(frozenset(default)):
        chosen = run.extend(frozenset(default), optional)
    else:
        chosen = run.extend(frozenset(), default, known_to_fail=True)
        chosen = run.extend(chosen, optional)
    return UnitSearch(
        tuple(name for name in inventory.names if name in chosen), tuple(run.excluded), tuple(run.trials.values())
    )


def ranked(inventory: Inventory, sensitivity: dict[str, float]) -> list[str]:
    """Units by error per arithmetic, gentlest first; ties in the graph's order."""
    return [unit.name for unit in sorted(inventory.units, key=lambda u: sensitivity[u.name] / max(u.flops, 1))]


class _Trials:
    def __init__(self, inventory: Inventory, loss: Callable, budget: float, max_trials: int):
        self.inventory, self.loss, self.budget, self.max_trials = inventory, loss, budget, max_trials
        self.trials: dict[frozenset[str], UnitTrial] = {}
        self.excluded: list[str] = []

    def within(self, units: frozenset[str]) -> bool:
        if not units:
            return True
        if units not in self.trials:
            loss = self.loss(units)
            names = tuple(name for name in self.inventory.names if name in units)
            # Percent points carry the last bits of two sums, which must not decide.
            within = loss <= self.budget + 1e-9
            self.trials[units] = UnitTrial(names, self.inventory.share(units), loss, within)
        return self.trials[units].within

    def extend(self, kept: frozenset[str], rest: Sequence[str], known_to_fail: bool = False) -> frozenset[str]:
        """`kept` and as many of `rest` as the budget and the number of trials allow."""
        rest = list(rest)
        while rest and self._left():
            if not known_to_fail and self.within(kept | frozenset(rest)):
                return kept | frozenset(rest)
            known_to_fail = False
            good, bad = 0, len(rest)  # a prefix of `good` is within, one of `bad` is not
            while bad - good > 1 and self._left():
                middle = (good + bad) // 2
                if self.within(kept | frozenset(rest[:middle])):
                    good = middle
                else:
                    bad = middle
            kept |= frozenset(rest[:good])
            if bad - good > 1:
                break
            self.excluded.append(rest[good])
            rest = rest[bad:]
        return kept

    def _left(self) -> bool:
        return len(self.trials) < self.max_trials
