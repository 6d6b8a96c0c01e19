"""What INT8 gains on a CPU, and what recording the state was worth.

    python benchmarks/int8.py --part speed                       # R50 at 480 x 864, random weights, 2 threads
    python benchmarks/int8.py --part state --model l2g_tiny --dataset synthetic:val

Speed: an FP32 graph and its INT8 twin in the layout of ONNX Runtime take turns, in one process and so under one load.
Asked for: INT8 at least 1.4 times as fast. Time does not depend on the weights, so random ones do.

State: the same sets quantised three times, calibrated on frames with the state that the model carried there, with
zeros in its place, and with random numbers; AP of each over the data set. The default set computes before the state
enters, so there the three are the same file; with all units quantised the aligner and the decoder see the state.

Exit code 1: the speed asked for was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from l2g.artifacts.onnx_file import read_contract, read_model, with_contract, with_sum
from l2g.calibration.job import QuantizeOptions, export_base
from l2g.calibration.observation import Observed, observe
from l2g.calibration.placement import ONNXRUNTIME, find_places, quantise
from l2g.calibration.ranges import AUTO, PERCENTILE
from l2g.calibration.recording import STATES, Recording, RecordingOptions, Sample, record, write_samples
from l2g.calibration.scoring import average_precision, interleaved_speed
from l2g.calibration.units import take_inventory
from l2g.config import PRESETS
from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, export
from l2g.export.verification.rollouts import random_video
from l2g.modeling.local2global import build_model
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

SPEED_TARGET = 1.4


def speed_part(args: argparse.Namespace, folder: Path) -> bool:
    """Print FP32 and INT8 side by side; True when the target is met."""
    base = Path(args.onnx) if args.onnx else _random_export(args, folder)
    model = read_model(base)
    contract = read_contract(model, base)
    write_samples(folder / "video_0000.npz", _random_samples(contract))
    recording = Recording(folder)
    inventory = take_inventory(model)
    quantised = _quantised(model, inventory.default, recording, folder / "histograms.npz", "rollout")
    path = _saved(quantised, contract, folder / "int8.onnx")
    sample = next(iter(recording))
    seconds = interleaved_speed({"FP32": base, "INT8": path}, sample, args.rounds, args.threads)
    gain = seconds["FP32"] / seconds["INT8"]
    share = inventory.share(inventory.default)
    print(
        f"{contract.height} x {contract.width}, {args.threads} threads, {inventory.flops / 1e9:.0f} GFLOP a frame, ",
        end="",
    )
    print(f"{share:.1f} % of them in INT8; median of {args.rounds} interleaved frames after one to warm up")
    print("".join(f"{name} {value:.3f} s   " for name, value in seconds.items()), end="")
    print(f"{gain:.2f} times as fast (asked for: {SPEED_TARGET})")
    return gain >= SPEED_TARGET


def state_part(args: argparse.Namespace, folder: Path) -> bool:
    """Print the AP of each kind of calibration, for the default set and for all units."""
    dataset = load_dataset(args.dataset, "valid").first(args.videos)
    calibration = load_dataset(args.calibrate_on, "valid") if args.calibrate_on else dataset
    base = export_base(args.model, folder, QuantizeOptions())
    model = read_model(base)
    contract = read_contract(model, base)
    backend = OnnxRuntimeBackend(base)
    recording = record(backend, calibration, folder / "rollouts", RecordingOptions())
    backend.close()
    inventory = take_inventory(model)
    whole = average_precision(base, dataset, args.streams)
    print(f"{args.model} on {dataset.name}, {len(dataset.videos)} videos, FP32: AP {whole:.2f}")
    print("| quantised | state in calibration | percent of arithmetic | AP | lost |\n|---|---|---|---|---|", flush=True)
    known: dict[bytes, float] = {}
    for words, units in (("default set", inventory.default), ("all units", inventory.names)):
        for state in STATES:
            graph = _quantised(model, units, recording, folder / f"histograms_{state}.npz", state)
            data = graph.SerializeToString(deterministic=True)
            if data not in known:
                known[data] = average_precision(_saved(graph, contract, folder / "trial.onnx"), dataset, args.streams)
            ap, share = known[data], inventory.share(units)
            print(f"| {words} | {state} | {share:.1f} | {ap:.2f} | {whole - ap:+.2f} |", flush=True)
    return True


def _quantised(model: onnx.ModelProto, units, recording: Recording, cache: Path, state: str) -> onnx.ModelProto:
    inventory = take_inventory(model)
    tensors = find_places(model, inventory.nodes(inventory.names), ONNXRUNTIME).tensors
    observed = Observed(observe(model, tensors, recording, cache, state), ONNXRUNTIME.symmetric, PERCENTILE)
    return quantise(model, inventory.nodes(units), lambda tensor: observed.interval(tensor, AUTO), ONNXRUNTIME)


def _saved(model: onnx.ModelProto, contract, path: Path) -> Path:
    del model.metadata_props[:]
    graph = model.SerializeToString()
    path.write_bytes(with_contract(graph, replace(contract, build=with_sum(contract.build, graph))))
    return path


def _random_export(args: argparse.Namespace, folder: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(args.preset, input_size=(args.height, args.width))
    export(model, folder / "fp32.onnx", ExportOptions())
    return folder / "fp32.onnx"


def _random_samples(contract) -> list[Sample]:
    """Two frames: enough for ranges whose numbers nobody looks at."""
    rng = np.random.default_rng(0)
    samples = []
    for time, frames in enumerate(random_video(1, 2, contract.height, contract.width, 0)):
        inputs = {"frames": frames}
        for spec in contract.inputs[1:]:
            inputs[spec.name] = rng.random((1, *spec.shape[1:]), dtype=np.float32)
        inputs[contract.valid_input] = np.full((1, 1), float(time > 0), np.float32)
        samples.append(Sample(inputs, "later" if time else "first", 0, time))
    return samples


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("speed", "state"), default="speed")
    parser.add_argument("--preset", default="l2g_r50", choices=list(PRESETS), help="model of the speed (l2g_r50)")
    parser.add_argument("--onnx", help="an FP32 export of this package, in place of a fresh one of the preset")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved frames (default 7)")
    parser.add_argument("--model", default="l2g_tiny", help="checkpoint of the state part (l2g_tiny)")
    parser.add_argument("--dataset", default="synthetic:val", help="AP is measured here")
    parser.add_argument("--calibrate-on", help="rollouts are recorded here (default: --dataset)")
    parser.add_argument("--videos", type=int, help="only the first N videos")
    parser.add_argument("--streams", type=int, default=4)
    args = parser.parse_args(argv)
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    part = {"speed": speed_part, "state": state_part}[args.part]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if part(args, Path(folder)) else 1
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
