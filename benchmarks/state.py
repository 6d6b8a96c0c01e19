"""What the usual mistakes with the state cost, measured: the table of docs/concepts/state.md.

    python benchmarks/state.py --model l2g_tiny --dataset synthetic:val --videos 16
    python benchmarks/state.py --only nudged --dataset synthetic:long     # how sensitive the model itself is

Each mistake is made on purpose around the model, and the parity run compares the result with the model driven rightly.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.parity.report import ParityReport
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.backends.open import open_backend
from l2g.runtime.outputs import RawOutputs


class Right:
    """The model as it is; the mistakes below change how its state is carried."""

    name = "the right way"

    def __init__(self, backend: Backend):
        self.backend, self.contract = backend, backend.contract

    def step(self, frames: np.ndarray, reset: np.ndarray) -> RawOutputs:
        return self.backend.step(frames, reset)

    def read_state(self) -> HostState | None:
        return self.backend.read_state()

    def write_state(self, state: HostState) -> None:
        self.backend.write_state(state)

    def close(self) -> None:
        self.backend.close()


class OtherStream(Right):
    """Streams that share a batch get each other's rows."""

    name = "state of another stream"

    def step(self, frames, reset):
        state = self.backend.read_state()
        if state is not None:
            self.backend.write_state(state.rows(np.roll(np.arange(len(state)), 1)))
        return self.backend.step(frames, reset)


class ForgottenReset(Right):
    """A new video goes on with what the last one left."""

    name = "reset forgotten"

    def step(self, frames, reset):
        return self.backend.step(frames, np.zeros_like(reset))

    def write_state(self, state):
        last = self.backend.read_state()
        if last is None or not last.valid.any():
            self.backend.write_state(state)
            return
        row = int(np.flatnonzero(last.valid)[0])
        tensors = {name: tensor.copy() for name, tensor in state.tensors.items()}
        for name, tensor in tensors.items():
            tensor[~state.valid] = last.tensors[name][row]
        self.backend.write_state(HostState(tensors, np.ones_like(state.valid)))


class HalfPrecision(Right):
    """The state is kept as float16 between two frames."""

    name = "state rounded to FP16"

    def step(self, frames, reset):
        state = self.backend.read_state()
        if state is not None:
            self.backend.write_state(state.changed(lambda tensor: tensor.astype(np.float16).astype(np.float32)))
        return self.backend.step(frames, reset)


class Frozen(Right):
    """Every frame gets the state of the first: what came out is not fed back."""

    name = "state not fed back"

    def __init__(self, backend: Backend):
        super().__init__(backend)
        self._first: HostState | None = None

    def step(self, frames, reset):
        held = self._first
        if held is not None and held.valid.all():
            self.backend.write_state(held)
        outputs = self.backend.step(frames, reset)
        if held is None or not held.valid.all():
            self._first = self.backend.read_state()
        return outputs

    def write_state(self, state):
        self._first = None
        self.backend.write_state(state)


class Nudged(Right):
    """No mistake: the state moves by a millionth between two frames, as the rounding of another library moves it."""

    name = "state nudged by 1e-6"

    def __init__(self, backend: Backend):
        super().__init__(backend)
        self._random = np.random.default_rng(0)

    def step(self, frames, reset):
        state = self.backend.read_state()
        if state is not None:
            self.backend.write_state(state.changed(self._nudge))
        return self.backend.step(frames, reset)

    def _nudge(self, tensor: np.ndarray) -> np.ndarray:
        return tensor + np.float32(1e-6) * self._random.standard_normal(tensor.shape, np.float32)


ROWS = {
    "right": Right,
    "nudged": Nudged,
    "other-stream": OtherStream,
    "no-reset": ForgottenReset,
    "not-fed-back": Frozen,
    "fp16": HalfPrecision,
}


def row(name: str, report: ParityReport) -> str:
    """A line of the table in Markdown."""
    checks = {check.name.split()[0]: check.value for check in report.checks}
    first, *_, last = report.drift()
    ap = f"{report.ap_candidate['AP']:.2f}"
    cells = [
        name,
        ap,
        _number(checks["teacher-forced"], ".1e"),
        _number(checks["identity"], ".1f"),
        _number(first["mask_iou"], ".3f"),
        _number(last["mask_iou"], ".3f"),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, how: str) -> str:
    return "n/a" if value is None else format(value, how)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny", help="a checkpoint, an .onnx, or the name of a shipped model")
    parser.add_argument("--dataset", default="synthetic:val")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows (default: all)")
    parser.add_argument("--confidence", type=float, default=0.5)
    args = parser.parse_args(argv)
    try:
        dataset = load_dataset(args.dataset, "valid")
        dataset = replace(dataset, videos=dataset.videos[: args.videos])
        print("| | AP | mask logits, teacher-forced | same objects, % | mask IoU, first quarter | last quarter |")
        print("|---|---|---|---|---|---|")
        options = ParityOptions(streams=4, confidence=args.confidence, pictures=0)
        for mistake in (ROWS[name] for name in args.only):
            reference = open_backend(args.model, top_k=None)
            wrong, forced = (mistake(open_backend(args.model, top_k=None)) for _ in range(2))
            print(row(mistake.name, run_parity(reference, wrong, forced, dataset, options=options)), flush=True)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
