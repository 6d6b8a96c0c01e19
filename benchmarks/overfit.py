"""Whether training works at all: learn one clip of four frames by heart, from random weights.

    python benchmarks/overfit.py                               # AP above 95 in minutes
    python benchmarks/overfit.py --iterations 60 --target 80   # the short version that the tests run

Exit code 1 when the AP stays below the target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from l2g import build_model
from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.youtube_vis import load_youtube_vis
from l2g.evaluation.run import evaluate_backend
from l2g.modeling.backbones.resnet import set_batch_norm
from l2g.runtime.backends.eager import EagerBackend
from l2g.training.config import LossConfig
from l2g.training.loss.criterion import Criterion
from l2g.training.loss.objectives import ClipObjective
from l2g.training.loss.targets import collate
from l2g.training.start import quiet_aligner

SEED = 3  # a clip with three instances, all of them visible in all frames


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="96x160", help="height x width of the clip")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--target", type=float, default=95.0, help="AP in percent")
    options = parser.parse_args(argv)
    size = tuple(map(int, options.size.split("x")))
    with tempfile.TemporaryDirectory() as folder:
        directory = write_synthetic(
            Path(folder) / "clip", "train", seed=SEED, videos=1, frames=4, size=size, picture_format="png"
        )
        dataset = load_youtube_vis(directory)
        began = time.perf_counter()
        model = learn(dataset, size, options.iterations, options.rate)
        report = evaluate_backend(EagerBackend(model), dataset, progress=False).report
    ap = 100 * report.stats["AP"]
    print(f"AP {ap:.1f}, AP50 {100 * report.stats['AP50']:.1f} after {options.iterations} iterations", end=" ")
    print(f"in {time.perf_counter() - began:.0f} s (wanted: AP {options.target})")
    return 0 if ap >= options.target else 1


def learn(dataset, size: tuple[int, int], iterations: int, rate: float):
    """A tiny model that has seen nothing but the data set's first video."""
    torch.manual_seed(0)
    model = build_model("l2g_tiny", input_size=size)
    quiet_aligner(model)
    set_batch_norm(model, True)
    model.train()
    batch = collate([dataset.videos[0].read(range(4))])
    objective = ClipObjective(model, Criterion(LossConfig(num_points=0)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for iteration in range(iterations):
        # The last third cools down: masks settle at their edges.
        progress = max(0.0, (iteration - iterations * 2 / 3) / (iterations / 3))
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - 0.95 * progress)
        loss = sum(objective(batch).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    set_batch_norm(model, False)
    return model.eval()


if __name__ == "__main__":
    sys.exit(main())
