"""One step in a process of its own, so that a library that crashes or hangs costs this step and no other.

    python -m l2g.gpucheck.child STEP FOLDER DEVICE

Called by `l2g.gpucheck.run`, which gives it the time and kills it with all that it started.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import l2g
from l2g.config import PRESETS
from l2g.errors import L2GError
from l2g.files import read_json
from l2g.gpucheck.devices import Hardware
from l2g.gpucheck.notebook import OPTIONS_FILE, Context, Notebook, figures_file
from l2g.gpucheck.plan import Options, Step, plan

# kind of a step -> where it is done.
KINDS = {
    "machine": "l2g.gpucheck.steps.machine",
    "weights": "l2g.gpucheck.steps.weights",
    "parity": "l2g.gpucheck.steps.correctness",
    "floors": "l2g.gpucheck.steps.floors",
    "latency": "l2g.gpucheck.steps.latency",
    "capture": "l2g.gpucheck.steps.capture",
    "video": "l2g.gpucheck.steps.video",
}
_PR_SET_PDEATHSIG = 1
# Models without weights of their own.
RANDOM = frozenset(PRESETS) - {file.stem for file in Path(l2g.__file__).with_name("weights").glob("*.safetensors")}


def main(argv: Sequence[str] | None = None, hardware: Callable[[str], Hardware] = Hardware) -> int:
    name, folder, device = sys.argv[1:] if argv is None else argv
    _die_with_the_parent()
    try:
        step = find_step(name, Path(folder))
        os.chdir(folder)
        if step.command:
            return _run_command(step)
        run_step(step, Path("."), hardware(device))
        return 0
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def find_step(name: str, folder: Path) -> Step:
    options = Options.from_json(read_json(folder / OPTIONS_FILE, dict))
    return next(step for step in plan(options, RANDOM) if step.name == name)


def run_step(step: Step, folder: Path, hardware: Hardware) -> None:
    """Measure; what is found is in the step's file as soon as it is found."""
    options = Options.from_json(read_json(folder / OPTIONS_FILE, dict))
    context = Context(folder, step, options, hardware, Notebook(figures_file(folder, step.name)), RANDOM)
    importlib.import_module(KINDS[step.kind]).run(context)


def _run_command(step: Step) -> int:
    """This process becomes the command."""
    if step.output is not None:
        Path(step.output).parent.mkdir(parents=True, exist_ok=True)
    os.execv(sys.executable, [sys.executable, "-m", "l2g", *step.command])


def _die_with_the_parent() -> None:
    """A check that is killed leaves nothing that goes on using the GPU (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
