"""What a Swin costs on a CPU and how near its exports are: parity, the public steps, ONNX Runtime's floor, attention.

    python benchmarks/swin.py --part parity                  # 100 frames, one and three streams, two libraries
    python benchmarks/swin.py --part eager                   # Swin-L, 480 x 864, beside the public code's steps
    python benchmarks/swin.py --part floor --onnx swin_l.onnx
    python benchmarks/swin.py --part attention               # an encoder layer's, four levels beside five

Weights are random unless `--model` names a checkpoint. `parity`: each side feeds back its own state; a stream starts
again in the middle. `eager`: the public steps are those of `tests/modeling/plain_swin.py`, and the boxes of all tokens,
which the public code computes whether it needs them or not; masks it makes in evaluation, as here, of the chosen tokens
and of the last layer alone. Both sides in turn. `floor`: the graph's operations, as `l2g inspect` counts them, at the
rate at which the same library multiplies two matrices of 2048 x 2048 in the same process.

Exit code: 0 all that is asked for, 1 something was missed, 2 bad input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.checkpoint import load_checkpoint
from l2g.config import SwinConfig
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, export
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.export.verification.rollouts import random_video
from l2g.modeling.deformable import DeformableAttention
from l2g.modeling.encoder import reference_points
from l2g.modeling.local2global import Local2Global, build_model
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.openvino.backend import OpenVinoBackend
from tests.modeling.plain_swin import public_steps

TOLERANCES = {"queries": 1e-4, "boxes": 1e-4, "logits": 1e-4, "mask_logits": 1e-3}
SMALL = SwinConfig(embed_dim=32, depths=(1, 1, 2, 1), heads=(2, 4, 8, 16), window=5)
# Asked for: times as fast as the public steps; at most so many times the floor.
LEAST_SPEED_UP, MOST_FLOORS = 2.0, 1.5
STRIDES = (4, 8, 16, 32, 64)


def rollout(
    model: Local2Global, backends: Mapping[str, Backend], streams: int, frames: int, resets: Collection[int]
) -> dict[str, dict[str, float]]:
    """The largest absolute differences of each backend's outputs from PyTorch's over a drawn video. resets: frames at
    which the last stream starts again."""
    sides: dict[str, Backend] = {"eager": EagerBackend(model), **backends}
    largest = {name: dict.fromkeys(TOLERANCES, 0.0) for name in backends}
    for side in sides.values():
        side.write_state(HostState.empty(side.contract, streams))
    for time_, pictures in enumerate(random_video(streams, frames, *model.config.input_size, seed=streams)):
        fresh = np.full(streams, time_ == 0)
        fresh[-1] |= time_ in resets
        outputs = {name: side.step(pictures, fresh) for name, side in sides.items()}
        for name, found in largest.items():
            for output in found:
                apart = getattr(outputs[name], output) - getattr(outputs["eager"], output)
                found[output] = float(np.maximum(found[output], np.abs(apart).max()))  # NaN stays
    return largest


def small_swin() -> Local2Global:
    """`l2g_tiny` with a Swin that pads every stage of its canvas, five levels, and boxes that do not start from
    masks; random weights."""
    torch.manual_seed(0)
    encoder = {"levels": 5, "finest": 2}
    return build_model("l2g_tiny", backbone=vars(SMALL), encoder=encoder, box_init="no", input_size=(96, 160))


def parity(args: argparse.Namespace) -> bool:
    model = load_checkpoint(args.model).eval() if args.model else small_swin()
    met = True
    with tempfile.TemporaryDirectory() as folder:
        path = export(model, Path(folder, "swin.onnx"), ExportOptions()).path
        for streams in (1, 3):
            backends = {
                "ONNX Runtime": OnnxRuntimeBackend(path, threads=args.threads),
                "OpenVINO": OpenVinoBackend(path, threads=args.threads, cached=False),
            }
            for name, found in rollout(model, backends, streams, args.frames, (args.frames // 2,)).items():
                met &= all(found[output] <= most for output, most in TOLERANCES.items())
                cells = ", ".join(f"{output} {value:.1e}" for output, value in found.items())
                print(f"{name}, B = {streams}, {args.frames} frames: {cells}", flush=True)
    return met


def eager(args: argparse.Namespace) -> bool:
    model = _large(args)
    height, width = model.config.input_size
    pictures = torch.from_numpy(next(iter(random_video(1, 1, height, width, seed=0))))

    def boxes_of_all(_: nn.Module, __: object, features: Tensor) -> None:
        model.heads.bbox_embed(features)

    def public() -> Tensor:
        hook = model.proposals.norm.register_forward_hook(boxes_of_all)
        with public_steps(model):
            masks = model.step(pictures)[0].mask_logits
        hook.remove()
        return masks

    seconds = _in_turn({"these steps": lambda: model.step(pictures)[0].mask_logits, "public steps": public}, args)
    ratio = seconds["public steps"] / seconds["these steps"]
    print(f"{ratio:.2f} times as fast as the public steps; asked for {LEAST_SPEED_UP}")
    return ratio >= LEAST_SPEED_UP


def floor(args: argparse.Namespace) -> bool:
    if args.onnx is None:
        raise L2GError("no graph given; give --onnx with a file that l2g export wrote")
    graph = read_model(args.onnx)
    contract = read_contract(graph, args.onnx)
    flops = sum(count_flops(graph, shapes_for_one_stream(graph))[0].values())
    del graph
    rate = _gemm_rate(args.threads)
    backend = OnnxRuntimeBackend(args.onnx, threads=args.threads)
    pictures = next(iter(random_video(1, 1, contract.height, contract.width, seed=0)))
    backend.step(pictures, np.array([True]))
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        backend.step(pictures, np.array([False]))
        seconds.append(time.perf_counter() - began)
        rate = max(rate, _gemm_rate(args.threads))
    median, least = statistics.median(seconds), flops / rate
    print(f"{flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s: floor {least:.2f} s")
    print(f"ONNX Runtime {median:.2f} s, {median / least:.2f} floors; asked for {MOST_FLOORS}")
    return median / least <= MOST_FLOORS


def attention(args: argparse.Namespace) -> bool:
    """Seconds and microseconds per token of an encoder layer's deformable attention, projections included."""
    sides, tokens = {}, {}
    for levels in (4, 5):
        shapes = tuple((-(-args.height // s), -(-args.width // s)) for s in STRIDES[-levels:])
        tokens[levels] = sum(h * w for h, w in shapes)
        torch.manual_seed(0)
        module = DeformableAttention(256, 8, levels).eval()
        torch.nn.init.normal_(module.sampling_offsets.weight, std=0.02)
        torch.nn.init.normal_(module.attention_weights.weight, std=0.05)
        memory, reference = torch.randn(1, tokens[levels], 256), reference_points(shapes, torch.device("cpu"))[None]
        sides[f"{levels} levels"] = lambda m=module, x=memory, r=reference, s=shapes: m(x, r, x, s)
    seconds = _in_turn(sides, args)
    each = {levels: seconds[f"{levels} levels"] / count * 1e6 for levels, count in tokens.items()}
    print(", ".join(f"{levels} levels: {tokens[levels]} tokens, {each[levels]:.2f} us each" for levels in each))
    samples = {levels: each[levels] / levels for levels in each}
    print(f"per token {each[5] / each[4]:.2f}, per sample {samples[5] / samples[4]:.2f} of the four levels'")
    return each[5] <= each[4]


def _in_turn(sides: Mapping[str, Callable[[], Tensor]], args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each side, which must agree where their results are of one shape; the first round warms up."""
    torch.set_num_threads(args.threads)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats + 1):
        results = []
        for name, side in sides.items():
            began = time.perf_counter()
            with torch.inference_mode():
                results.append(side())
            seconds[name].append(time.perf_counter() - began)
        if results[0].shape == results[1].shape:
            apart = float((results[0] - results[1]).abs().max())
            if not apart <= 1e-2:
                raise L2GError(f"the sides differ by {apart:.2g}; what is timed is not the same")
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.3f} s", flush=True)
    return medians


def _gemm_rate(threads: int, size: int = 2048) -> float:
    """Operations a second of ONNX Runtime's float32 product of two square matrices, the best of some."""
    import onnxruntime

    make = onnx.helper.make_tensor_value_info
    weight = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "gemm",
        [make("x", 1, [size, size])],
        [make("y", 1, [size, size])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        session.run(None, {"x": weight})
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def _large(args: argparse.Namespace) -> Local2Global:
    if args.model:
        return load_checkpoint(args.model).eval()
    torch.manual_seed(0)
    return build_model(args.preset, input_size=(args.height, args.width))


PARTS = {"parity": parity, "eager": eager, "floor": floor, "attention": attention}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--model", help="a checkpoint (default: random weights)")
    parser.add_argument("--preset", default="l2g_swin_l", help="of eager (default: %(default)s)")
    parser.add_argument("--onnx", type=Path, help="the graph of floor")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--frames", type=int, default=100, help="of parity (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        return 0 if PARTS[args.part](args) else 1
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
