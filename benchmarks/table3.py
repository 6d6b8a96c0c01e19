"""The paper's Table 3 in small: what the aligner and the trajectory bring, at equal training budgets.

    python benchmarks/table3.py --init runs/tiny/phase0.safetensors --output runs/table3 --seeds 0 1

Every variant starts from the same image segmenter (phase 0) and learns from the same clips for the same number of
iterations; then it is measured on `val`, `occluded` and `long`. Interrupt it at any moment: the same command goes on
where it stopped. Several at once, with other seeds and the same output, share the work; the table shows what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from l2g import load_checkpoint
from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.run import evaluate_backend
from l2g.files import write_json
from l2g.runtime.backends.eager import EagerBackend
from l2g.training.config import PhaseConfig, TrainConfig, load_config
from l2g.training.trainer import Trainer

# The baseline propagates the queries alone; its first reference boxes are learned, one per slot.
VARIANTS = {
    "baseline": {"aligner": None, "trajectory": False},
    "+ aligner": {"trajectory": False},
    "+ trajectory": {},
}
SPLITS = ("val", "occluded", "long")
COLUMNS = ("AP", "switches")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", help="weights after phase 0, which all variants start from; without: only the table")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--iterations", type=int, default=300, help="of 2 clips x 8 frames each (default: 300)")
    parser.add_argument("--clip-length", type=int, default=32, help="frames, in windows of 8 (default: 32)")
    parser.add_argument("--videos", type=int, nargs=3, default=[64, 64, 16], help="how many of val, occluded, long")
    options = parser.parse_args(argv)
    try:
        if options.init:
            for seed in options.seeds:
                for variant in VARIANTS:
                    measure(variant, seed, options)
        print(table(options.output))
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run_config(variant: str, seed: int, init: str, iterations: int, clip_length: int) -> TrainConfig:
    """`synthetic_tiny` with one phase, on clips; nothing but the variant's switches and the seed differs."""
    phase = PhaseConfig(
        kind="clip", iterations=iterations, batch_size=2, lr=4e-4, backbone_lr=1.0, warmup=50,
        schedule="cosine", clip_length=clip_length, window=8, stride=(1, 3),
    )  # fmt: skip
    config = load_config("synthetic_tiny")
    return replace(config, init=init, seed=seed, phases=(phase,), overrides=VARIANTS[variant], save_every=100)


def measure(variant: str, seed: int, options) -> None:
    """Train one variant and score it, unless its result is there."""
    folder = options.output / f"{variant.removeprefix('+ ')}-{seed}"
    result = folder / "result.json"
    if result.exists():
        return
    weights = Trainer(run_config(variant, seed, options.init, options.iterations, options.clip_length), folder).run()
    if weights is None:
        raise L2GError(f"stopped; the same command goes on from {folder}")
    scores = {}
    for split, count in zip(SPLITS, options.videos, strict=True):
        dataset = load_dataset(f"synthetic:{split}")
        dataset = replace(dataset, videos=dataset.videos[:count])
        found = evaluate_backend(EagerBackend(load_checkpoint(weights).eval()), dataset)
        scores[split] = {
            "videos": len(dataset.videos),
            "AP": 100 * found.report.stats["AP"],
            "switches": found.identities.switches_per_100_frames,
            "covered": 100 * found.identities.coverage,
        }
    write_json(result, {"variant": variant, "seed": seed, "iterations": options.iterations, "scores": scores})


def table(output: Path) -> str:
    """Markdown: a row per variant, AP (and switches per object and 100 frames), mean of the seeds and each of them."""
    rows = [json.loads(path.read_text()) for path in sorted(output.glob("*/result.json"))]
    lines = ["| variant | seeds | " + " | ".join(f"`{s}` AP | switches" for s in SPLITS) + " |", "|---" * 8 + "|"]
    for variant in VARIANTS:
        runs = sorted((row for row in rows if row["variant"] == variant), key=lambda row: row["seed"])
        if not runs:
            continue
        cells = []
        for split in SPLITS:
            for column, digits in zip(COLUMNS, (1, 2), strict=True):
                values = [run["scores"][split][column] for run in runs]
                each = ", ".join(f"{value:.{digits}f}" for value in values)
                cells.append(f"**{statistics.mean(values):.{digits}f}** ({each})")
        lines.append(f"| {variant} | {', '.join(str(run['seed']) for run in runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
