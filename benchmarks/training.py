"""What a training iteration costs, beside another version of the code: CPU seconds on one thread, and the losses.

    git worktree add ../old v0.1                                       # or any folder with the other code
    python benchmarks/training.py --baseline ../old
    python benchmarks/training.py --baseline ../old --phase 3
    python benchmarks/training.py --baseline ../old --batch 8 --baseline-batch 2 phases.5.consistency=0

Both sides run in processes of their own and take turns, an iteration each, so that whatever else the machine does falls
on either. Every iteration starts from the same weights (`--init`), the same clips and the same random numbers, so that
losses can be compared. The medians count. `data` is the drawing of a clip, spread over the windows in which it is
learned. Exit code 1 where a loss differs by more than `--tolerance`, relative.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# Runs in the other version too: it may use only what both have.
WORKER = """
import dataclasses, json, pathlib, sys, time
import torch
torch.set_num_threads(1)
from l2g.training.config import load_config
from l2g.training.optimiser import build_optimiser
from l2g.training.source import Batches
from l2g.training.trainer import Trainer

name, phase, batch, init, output, *changes = sys.argv[1:]
config = load_config(name, [f"init={init}", *changes])
phase = dataclasses.replace(config.phases[int(phase)], batch_size=int(batch))
config = dataclasses.replace(config, phases=(phase,))
trainer = Trainer(config, pathlib.Path(output))
trainer.model.train()
trainer.model.marked = phase.slot_marks
objective = trainer._objective(phase)
optimiser = build_optimiser(objective, config, phase)
scaler = torch.amp.GradScaler("cpu", enabled=False)
batches = Batches(trainer.dataset, config.data, phase, (0, 0))
begin = {name: value.clone() for name, value in trainer.model.state_dict().items()}
for line in sys.stdin:
    number = int(line)
    begun = time.process_time()
    drawn = batches[number]
    ready = time.process_time()
    trainer.model.load_state_dict(begin)
    torch.manual_seed(number)
    started = time.process_time()
    losses, norm = trainer._iteration(objective, drawn, optimiser, scaler)
    done = time.process_time()
    losses["gradient"] = norm
    print(json.dumps({"data": ready - begun, "step": done - started, "losses": losses}), flush=True)
"""


class Side:
    """One version of the code in a process of its own."""

    def __init__(self, folder: Path, clips: int, options: argparse.Namespace, output: str):
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._clips = clips
        arguments = [options.config, str(options.phase), str(clips), options.init, output, *options.changes]
        self.rows: list[dict] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            env=environment, cwd=output, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def iterate(self, number: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(number, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}")
        self.rows.append(json.loads(line))

    def close(self) -> None:
        self._process.communicate()

    def rate(self, warm_up: int) -> float:
        """Clips (or windows of them) per CPU hour."""
        return 3600 * self._clips / sum(self.seconds(warm_up))

    def seconds(self, warm_up: int) -> tuple[float, float]:
        """CPU seconds of an iteration: drawing (mean, since a clip in windows is drawn once), learning (median)."""
        rows = self.rows[warm_up:]
        return statistics.mean(row["data"] for row in rows), statistics.median(row["step"] for row in rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="folder of another version of the code (default: none)")
    parser.add_argument("--config", default="synthetic_tiny", help="default: %(default)s")
    parser.add_argument("--phase", type=int, default=5, help="number of the config's phase (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="clips, one process's share (default: %(default)s)")
    parser.add_argument("--baseline-batch", type=int, help="clips of the other version, whose losses then are others")
    parser.add_argument("--init", default="l2g_tiny", help="weights to start from (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=24, help="of each side (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="iterations not counted (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of losses, relative (default: %(default)s)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the config")
    options = parser.parse_args(argv)
    folders = [Path(__file__).resolve().parent.parent, *([options.baseline.resolve()] if options.baseline else [])]
    with tempfile.TemporaryDirectory() as scratch:
        sides = []
        for index, folder in enumerate(folders):
            output = Path(scratch, str(index))
            output.mkdir()
            clips = options.baseline_batch if index and options.baseline_batch else options.batch
            sides.append(Side(folder, clips, options, str(output)))
        for number in range(options.iterations):
            for side in sides:
                side.iterate(number)
        for side in sides:
            side.close()
    print(f"{'CPU seconds an iteration':<28}{'data':>8}{'step':>8}{'clips/CPU hour':>16}")
    rates = [side.rate(options.warm_up) for side in sides]
    for name, side, rate in zip(("this code", "baseline"), sides, rates, strict=False):
        data, step = side.seconds(options.warm_up)
        print(f"{name:<28}{data:>8.3f}{step:>8.3f}{rate:>16.0f}")
    if len(sides) < 2:
        return 0
    print(f"{'times as fast':<28}{'':>16}{rates[0] / rates[1]:>16.2f}")
    if options.baseline_batch:
        return 0
    pairs = list(zip(*(side.rows for side in sides), strict=True))
    difference = max(abs(a["losses"]["total"] / b["losses"]["total"] - 1) for a, b in pairs)
    steepness = max(abs(a["losses"]["gradient"] / b["losses"]["gradient"] - 1) for a, b in pairs)
    print(f"largest relative difference: {difference:.1e} of a loss, {steepness:.1e} of a gradient's norm")
    return 1 if difference > options.tolerance else 0


if __name__ == "__main__":
    sys.exit(main())
