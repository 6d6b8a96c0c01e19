"""How a long piece of work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """Told of stages and of steps within them. This one keeps it to itself; a command shows it (`l2g.cli.stages`)."""

    def plan(self, stages: Mapping[str, int]) -> None:
        """The stages that will come after those planned so far, in order, and how many steps each has."""

    def stage(self, name: str) -> None:
        """A planned stage begins, and the one before it is over."""

    def step(self) -> None:
        """One step of the current stage is done."""


SILENT = Progress()
