"""ONNX Runtime and OpenVINO on a CPU: FP32, BF16, INT8, and INT8 with BF16 around it, in one interleaved run.

    python benchmarks/cpu.py                                     # R50 at 480 x 864, random weights, 2 threads
    python benchmarks/cpu.py --onnx r50.onnx --work outputs/cpu  # a graph that is there

Time does not depend on the weights, so random ones do; INT8 is calibrated on noise. Medians and ratios of one process
in which the graphs take turns frame by frame. Asked for, on a processor with BF16: INT8 with BF16 around it 3.0 times
as fast as FP32 in ONNX Runtime and 1.7 times its INT8, BF16 1.9 times FP32, OpenVINO's FP32 at least as fast. A
processor without BF16 runs the rest, and says so. The load of the machine is printed: on a busy one ratios move.

Exit code: 0 all that was asked for, 1 something was missed, 2 bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2g.artifacts.onnx_file import read_contract, read_model, with_contract, with_sum
from l2g.calibration.observation import Observed, observe
from l2g.calibration.placement import LAYOUTS, find_places, quantise
from l2g.calibration.ranges import AUTO, PERCENTILE
from l2g.calibration.recording import Recording, Sample, write_samples
from l2g.calibration.units import take_inventory
from l2g.errors import L2GError
from l2g.evaluation.bench.candidates import Candidate
from l2g.evaluation.bench.measure import BenchReport, measure
from l2g.evaluation.bench.page import table
from l2g.export.exporter import ExportOptions, build_facts, build_graph, contract_of, reduced_graph
from l2g.export.verification.rollouts import random_video
from l2g.modeling.local2global import build_model
from l2g.runtime.backends.openvino.backend import native_precisions

OPSET = 20
# (faster, slower, at least so many times).
TARGETS = (
    ("OpenVINO INT8+BF16", "ONNX Runtime FP32", 3.0),
    ("OpenVINO INT8+BF16", "ONNX Runtime INT8", 1.7),
    ("OpenVINO BF16", "ONNX Runtime FP32", 1.9),
    ("OpenVINO FP32", "ONNX Runtime FP32", 1.0),
)
CALIBRATION_FRAMES = 3
# By its name in the tables: what runs which graph.
GRAPHS = {
    "ONNX Runtime FP32": ("onnxruntime", "fp32"),
    "ONNX Runtime INT8": ("onnxruntime", "int8-onnxruntime"),
    "OpenVINO FP32": ("openvino", "fp32"),
    "OpenVINO BF16": ("openvino", "bf16"),
    "OpenVINO INT8+FP32": ("openvino", "int8-openvino"),
    "OpenVINO INT8+BF16": ("openvino", "int8-bf16"),
}


def graphs(base: Path, folder: Path) -> dict[str, Path]:
    """FP32, BF16, and INT8 in the layouts of both libraries, of which one also with BF16; those that are there stay."""
    model = read_model(base)
    contract = read_contract(model, base)
    paths = {name: folder / f"{name}.onnx" for name in ("bf16", "int8-onnxruntime", "int8-openvino", "int8-bf16")}
    if not all(path.is_file() for path in paths.values()):
        del model.metadata_props[:]
        float32 = model.SerializeToString()
        made = {"bf16": reduced_graph(float32, "bf16")}
        write_samples(folder / "video_0000.npz", _noise(contract))
        inventory = take_inventory(model)
        nodes = inventory.nodes(inventory.default)
        for layout in (LAYOUTS["onnxruntime"], LAYOUTS["openvino"]):
            tensors = find_places(model, nodes, layout).tensors
            cache = folder / f"histograms_{layout.name}.npz"
            observed = Observed(
                observe(model, tensors, Recording(folder), cache, "rollout", False), layout.symmetric, PERCENTILE
            )
            graph = quantise(model, nodes, lambda tensor, seen=observed: seen.interval(tensor, AUTO), layout)
            made[f"int8-{layout.name}"] = graph.SerializeToString(deterministic=True)
        made["int8-bf16"] = reduced_graph(made["int8-openvino"], "bf16")
        for name, graph in made.items():
            precision = "bf16" if name == "bf16" else "int8"
            build = with_sum(dataclasses.replace(contract.build, precision=precision), graph)
            paths[name].write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))
    return {"fp32": base, **paths}


def sides(paths: dict[str, Path], threads: int) -> list[Candidate]:
    found = {name: GRAPHS[name] for name in GRAPHS if "BF16" not in name or "bf16" in native_precisions()}
    if found != GRAPHS:
        print("this processor has no BF16: INT8 has FP32 around it, and BF16 is not measured")
    return [Candidate(str(paths[graph]), name, how(library, threads)) for name, (library, graph) in found.items()]


def how(library: str, threads: int) -> dict[str, Any]:
    """Options of `open_backend`."""
    return {"library": library, "device": "cpu", "threads": threads}


def judge(report: BenchReport) -> bool:
    """Print the ratios; True where all that was asked for is there."""
    medians = {item.runs_on: item.median for item in report.measured}
    best = {item.runs_on: item.best for item in report.measured}
    met = True
    for fast, slow, least in TARGETS:
        if fast not in medians or slow not in medians:
            continue
        ratio = medians[slow] / medians[fast]
        met &= ratio >= least
        print(
            f"{fast} is {ratio:.2f} times as fast as {slow} (of the best frames {best[slow] / best[fast]:.2f}); "
            f"asked for {least:g}: {'ok' if ratio >= least else 'MISSED'}"
        )
    return met


def _noise(contract) -> list[Sample]:
    samples = []
    for time, frame in enumerate(random_video(1, CALIBRATION_FRAMES, contract.height, contract.width, 0)):
        inputs = {"frames": frame, contract.valid_input: np.zeros((1, 1), np.float32)}
        for state in contract.states:
            inputs[state.input] = np.zeros(contract.input(state.input).sized(1), np.float32)
        samples.append(Sample(inputs, "first", 0, time))
    return samples


def _export(path: Path, height: int, width: int) -> Path:
    """R50 with random weights; what is timed need not be verified."""
    if not path.is_file():
        torch.manual_seed(0)
        model = build_model("l2g_r50", input_size=(height, width)).eval()
        options = ExportOptions(opset=OPSET)
        contract = contract_of(model, options)
        graph = build_graph(model, contract, options)
        build = with_sum(build_facts(options, None), graph)
        path.write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, help="an FP32 graph of opset 20 (default: R50 with random weights)")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=864)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=10, help="interleaved frames that count (default 10)")
    parser.add_argument("--work", type=Path, help="folder to keep the graphs in (default: none is kept)")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.work or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            base = args.onnx or _export(folder / "fp32.onnx", args.height, args.width)
            report = measure(sides(graphs(base, folder), args.threads), frames=args.frames, threads=args.threads)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(report))
    return 0 if judge(report) else 1


if __name__ == "__main__":
    sys.exit(main())
