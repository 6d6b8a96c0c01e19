"""What FP16 and INT8 cost: AP, identities and drift of exported graphs beside their float32 original, in ONNX Runtime.

    python benchmarks/precision.py --reference tiny.onnx --candidates tiny.fp16.onnx tiny.int8.onnx

Prints the model card's table. An FP16 graph is measured twice: as ONNX Runtime executes it on a CPU, which is float32
with rounded weights, and emulated (export/precision_emulate.py), which rounds every tensor as a GPU's kernels do; the
second is the honest one. The row "FP32, state in FP16" is the float32 graph with nothing but its state rounded from
frame to frame: what that drifts is the model's own sensitivity to FP16, and no fault of a graph.

Exit code: 0 within the budgets, 1 beyond one, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.precision import Measured, measure
from l2g.export.precision.emulate import emulate_file, is_reduced
from l2g.files import write_json
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.outputs import RawOutputs

# The most AP (percent points) that a precision may lose.
BUDGETS = {"fp16": 0.2, "int8": 0.5}
BASELINE = "FP32, state in FP16"


class RoundedState:
    """A backend whose state is FP16 between two frames."""

    def __init__(self, backend: Backend):
        self.backend, self.contract = backend, backend.contract
        self.read_state, self.write_state, self.close = backend.read_state, backend.write_state, backend.close

    def step(self, frames: np.ndarray, reset: np.ndarray) -> RawOutputs:
        state = self.backend.read_state()
        if state is not None and len(state.valid) == len(frames):
            self.backend.write_state(state.changed(lambda tensor: tensor.astype(np.float16).astype(np.float32)))
        return self.backend.step(frames, reset)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="the float32 graph, or a checkpoint")
    parser.add_argument("--candidates", required=True, nargs="+", help="FP16 and INT8 graphs of the same model")
    parser.add_argument("--datasets", nargs="+", default=["synthetic:val", "synthetic:long"])
    parser.add_argument("--videos", type=int, metavar="N", help="only the first N videos of each")
    parser.add_argument("--streams", type=int, default=4, help="videos that share a step (default 4)")
    parser.add_argument("--no-direct", action="store_true", help="FP16 graphs emulated only")
    parser.add_argument("--no-baseline", action="store_true", help="leave the row with the rounded state out")
    parser.add_argument("--report", help="write all numbers as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        found = run(options)
        if options.report:
            write_json(options.report, found)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(row["within"] for row in found["rows"]) else 1


def run(options: argparse.Namespace) -> dict:
    rows = []
    print("| data set | videos | graph | AP/VPQ | loss | switches | same objects, % by quarter | mask IoU by quarter |")
    print("|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        files = _files(options, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2g-precision-"))))
        reference = stack.enter_context(closing(open_backend(options.reference, top_k=None)))
        rounded = RoundedState(stack.enter_context(closing(open_backend(options.reference, top_k=None))))
        candidates = {} if options.no_baseline else {BASELINE: rounded}
        candidates |= {name: stack.enter_context(closing(open_backend(path))) for name, (path, _) in files.items()}
        for name in options.datasets:
            dataset = load_dataset(name, "valid")
            dataset = replace(dataset, videos=dataset.videos[: options.videos])
            first, rest = measure(reference, candidates, dataset, streams=options.streams)
            place = f"| {name} | {len(dataset.videos)} |"
            print(f"{place} FP32 | {_cells(first, first)}", flush=True)
            for label, measured in rest.items():
                print(f"{place} {label} | {_cells(measured, first)}", flush=True)
                within = label == BASELINE or _within(measured, first, BUDGETS[files[label][1]])
                rows.append({"dataset": name, "graph": label, "within": within, **measured.to_json()})
            rows.append({"dataset": name, "graph": "FP32", "within": True, **first.to_json()})
    return {"reference": str(options.reference), "rows": rows}


def _files(options: argparse.Namespace, folder: Path) -> dict[str, tuple[str, str]]:
    """What to run: (path, precision) by the name of its row."""
    found = {}
    for number, path in enumerate(options.candidates):
        model = read_model(path)
        precision = read_contract(model, path).build.precision or "fp16"
        precision, name = precision if precision in BUDGETS else "fp16", Path(path).name
        half = is_reduced(model)
        if not half or not options.no_direct:
            found[name] = str(path), precision
        if half:
            emulated = emulate_file(path, folder / f"{number}.onnx")
            found[f"{name}, FP16 emulated"] = str(emulated), precision
    return found


def _loss(measured: Measured, first: Measured) -> float:
    if measured.ap is None or first.ap is None:
        raise L2GError("the data set holds no annotation that counts, so there is no AP; give another")
    return first.ap - measured.ap


def _within(measured: Measured, first: Measured, budget: float) -> bool:
    return measured.finite and _loss(measured, first) <= budget + 1e-9


def _cells(measured: Measured, first: Measured) -> str:
    cells = [f"{measured.ap:.2f}", f"{_loss(measured, first):+.2f}", f"{measured.switches:.2f}"]
    cells.append(" ".join("n/a" if value is None else f"{value:.1f}" for value in measured.identity) or "-")
    cells.append(" ".join("n/a" if value is None else f"{value:.4f}" for value in measured.mask_iou) or "-")
    return " | ".join(cells) + (" |" if measured.finite else " | NaN or infinity |")


if __name__ == "__main__":
    sys.exit(main())
