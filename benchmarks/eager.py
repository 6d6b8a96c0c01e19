"""Where an eager FP32 frame spends its time on a CPU, part by part, and deformable attention computed in two ways.

    python benchmarks/eager.py                       # Mask DINO R50, 480 x 864, 300 queries, 2 threads
    python benchmarks/eager.py --preset l2g_r50      # with the aligner

The public implementation of Mask DINO took 5.9 s for a frame of the first of these on two CPU cores of another machine,
3.7 s of it in the encoder's deformable attention. The second table compares, in turn and in this one process, the two
ways of `l2g.modeling.deformable` at the encoder's size: `sample_levels` does what the public pure-PyTorch path does,
`gather_rows` is what a CPU runs here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict

import torch
from torch import Tensor

from l2g.config import PRESETS
from l2g.errors import L2GError
from l2g.modeling.deformable import gather_rows, sample_levels
from l2g.modeling.encoder import reference_points
from l2g.modeling.local2global import FrameState, Local2Global, build_model


class Stopwatch:
    """Splits the time of a step without gaps: each lap gives the time since the last one to a part."""

    def __init__(self, model: Local2Global):
        self.parts: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()
        self._end(model.backbone, "backbone")
        for layer in model.encoder.layers:
            self._begin(layer.self_attn, "encoder, rest")
            self._end(layer.self_attn, "encoder, deformable attention")
            self._end(layer.norm2, "encoder, FFN and norms")
        self._begin(model.encoder.adapter, "encoder, rest")
        self._end(model.encoder, "mask features")
        self._end(model.proposals, "proposals")
        if model.aligner is not None:
            self._end(model.aligner, "aligner")
        self._end(model.decoder, "decoder")

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part] += now - self._last
        self._last = now

    def step(
        self, model: Local2Global, frames: Tensor, state: FrameState | None
    ) -> tuple[dict[str, float], FrameState]:
        self.parts.clear()
        self._last = time.perf_counter()
        _, state = model.step(frames, state)
        self.lap("heads and next state")
        return dict(self.parts), state

    def _begin(self, module: torch.nn.Module, part_before: str) -> None:
        module.register_forward_pre_hook(lambda *_: self.lap(part_before))

    def _end(self, module: torch.nn.Module, part: str) -> None:
        module.register_forward_hook(lambda *_: self.lap(part))


def time_parts(model: Local2Global, height: int, width: int, repeats: int) -> dict[str, float]:
    """Median seconds of each part and of the "total" over `repeats` steps of one stream, after one to warm up."""
    frames = torch.randint(0, 256, (repeats + 1, 1, height, width, 3), dtype=torch.uint8)
    watch, state, rows = Stopwatch(model), None, []
    for frame in frames:
        parts, state = watch.step(model, frame, state)
        rows.append(parts | {"total": sum(parts.values())})
    return {part: statistics.median(row[part] for row in rows[1:]) for part in rows[0]}


def time_attention(model: Local2Global, height: int, width: int, repeats: int) -> dict[str, float]:
    """Median seconds of one encoder layer's deformable attention, computed in turn in the two ways."""
    config = model.config
    shapes = tuple((-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64))
    tokens, heads = sum(h * w for h, w in shapes), config.num_heads
    value = torch.randn(1, tokens, heads, config.hidden_dim // heads)
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
    offsets = torch.randn(1, tokens, heads, len(shapes), 4, 2) * 3
    reference = reference_points(shapes, value.device)[None, :, None, None, None]
    locations = reference + offsets / sizes[:, None]
    weights = torch.rand(1, tokens, heads, len(shapes) * 4).softmax(-1).view(1, tokens, heads, len(shapes), 4)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        results = []
        for way in (gather_rows, sample_levels):
            start = time.perf_counter()
            results.append(way(value, shapes, locations, weights))
            times[way.__name__].append(time.perf_counter() - start)
        torch.testing.assert_close(*results, atol=1e-4, rtol=0)
    return {way: statistics.median(values[1:]) for way, values in times.items()}


def report(args: argparse.Namespace) -> None:
    """Print both tables."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model(args.preset, num_queries=args.queries, input_size=(args.height, args.width))
    with torch.inference_mode():
        parts = time_parts(model, args.height, args.width, args.repeats)
        ways = time_attention(model, args.height, args.width, args.repeats)
    total = parts["total"]
    print(f"{args.preset}, {args.height} x {args.width}, {args.queries} queries, {args.threads} threads, eager FP32")
    print(f"median of {args.repeats} frames, torch {torch.__version__}\n")
    for part, seconds in parts.items():
        print(f"{part:32s} {seconds:8.3f} s {100 * seconds / total:6.1f} %")
    gather, sample = ways["gather_rows"], ways["sample_levels"]
    print("\ndeformable attention of one encoder layer")
    print(f"gather_rows {gather:.3f} s, sample_levels {sample:.3f} s: {sample / gather:.1f} times as fast")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="maskdino_r50", choices=list(PRESETS))
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    try:
        report(args)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
