"""What a step is given, and where it writes what it finds, number by number."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from l2g.files import write_json
from l2g.gpucheck.devices import Hardware
from l2g.gpucheck.plan import Options, Step, checkpoint_of, label_of
from l2g.gpucheck.report import Figure

OPTIONS_FILE, FACTS_FILE = "options.json", "facts.json"


def figures_file(folder: Path, step: str) -> Path:
    return folder / "steps" / f"{step}.figures.json"


@dataclass
class Notebook:
    """The figures of one step, on the disk from the moment that they are known."""

    path: Path
    figures: list[Figure] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        self.figures += figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, [figure.to_json() for figure in self.figures])


@dataclass(frozen=True)
class Context:
    """folder: of the check; files of the plan are seen from there."""

    folder: Path
    step: Step
    options: Options
    hardware: Hardware
    notebook: Notebook
    presets: frozenset[str]

    @property
    def checkpoint(self) -> str:
        """Of the step's model, as `load_checkpoint` takes it."""
        name = checkpoint_of(self.step.model, self.presets)
        return str(self.folder / name) if name.startswith("models/") else name

    @property
    def canvas(self) -> tuple[int, int] | None:
        """None is the model's own."""
        return None if self.step.role == "parity" else self.options.size

    @property
    def subject(self) -> str:
        """The model and, where it is not its own, the canvas."""
        label = label_of(self.step.model)
        return label if self.canvas is None else f"{label} {self.canvas[0]}x{self.canvas[1]}"
