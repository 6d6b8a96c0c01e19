"""VidEoMT: time a frame and memory of a video, of transformers' own forward and of l2g's, side by side.

    python benchmarks/videomt.py --threads 2 --rounds 5
    python benchmarks/videomt.py --memory --frames 64 --ways transformers
    python benchmarks/videomt.py --make outputs/vits

Random weights of ViT-S at 640 x 640 unless a checkpoint is given; --make writes them, for l2g export and l2g quantize.
Times are interleaved, a frame of each in turn, and the medians of all rounds; transformers gets its frame normalised
already. Memory is the peak of a process of its own above what it took once the model was loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("transformers", "l2g eager", "l2g onnxruntime")
INT8 = "l2g int8"
# What runs from a file, by the option that names it.
GRAPHS = {"l2g onnxruntime": "graph", INT8: "int8"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a Hugging Face folder or id (default: ViT-S, random weights)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory of --frames frames in place of times")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="whose memory (default: all)")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="write the random checkpoint there, and stop")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--graph", help="the model as an ONNX file (default: exported here)")
    parser.add_argument("--int8", help="an INT8 graph of the checkpoint, of l2g quantize, to be timed beside")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.make:
        _random_checkpoint(options.make)
        return 0
    if options.worker:
        print(json.dumps(_peak(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.checkpoint = options.checkpoint or _random_checkpoint(Path(folder) / "model")
        options.graph = options.graph or _exported(options.checkpoint, Path(folder) / "model.onnx")
        (_print_memory if options.memory else _print_times)(options)
    return 0


def _random_checkpoint(folder: Path) -> str:
    import torch
    from transformers import VideomtConfig, VideomtForUniversalSegmentation

    from l2g.data.synthetic.shapes import CLASS_NAMES

    torch.manual_seed(0)
    config = VideomtConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_blocks=3,
        id2label=dict(enumerate(CLASS_NAMES)),  # so that l2g quantize has a data set for it
    )
    network = VideomtForUniversalSegmentation(config)
    with torch.no_grad():
        network.class_predictor.weight.mul_(4)  # some 30 of the 200 slots then reach a score of 0.8
    network.save_pretrained(folder)
    return str(folder)


def _exported(checkpoint: str, path: Path) -> str:
    import l2g
    from l2g.export.exporter import export

    export(l2g.load_checkpoint(checkpoint), path)
    return str(path)


def _step(way: str, options: argparse.Namespace) -> tuple[Callable[[np.ndarray], object], int]:
    """What takes the next frame uint8 [H, W, 3], and the side of the canvas."""
    import torch

    import l2g
    from l2g.runtime.backends.eager import EagerBackend
    from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

    torch.set_num_threads(options.threads)
    if way in GRAPHS:
        backend = OnnxRuntimeBackend(getattr(options, GRAPHS[way]), ["CPUExecutionProvider"], options.threads)
    else:
        model = l2g.load_checkpoint(options.checkpoint)
        backend = EagerBackend(model)
        if way == "transformers":

            def public(frame: np.ndarray) -> object:
                pixels = torch.from_numpy(frame).permute(2, 0, 1)[None, None].float() / 255
                with torch.inference_mode():
                    return model.network(pixel_values_videos=pixels)

            return public, backend.contract.height
    reset = np.array([False])
    return lambda frame: backend.step(frame[None], reset), backend.contract.height


def _print_times(options: argparse.Namespace) -> None:
    ways = (*WAYS, INT8) if options.int8 else WAYS
    steps = {way: _step(way, options) for way in ways}
    side = steps[WAYS[0]][1]
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(options.rounds + 1):
        frame = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for way, (step, _) in steps.items():
            start = time.perf_counter()
            step(frame)
            if round_:  # the first warms up
                times[way].append(time.perf_counter() - start)
    base = statistics.median(times[WAYS[0]])
    print(f"{options.threads} threads, canvas {side}x{side}, medians of {options.rounds} rounds")
    for way, found in times.items():
        median = statistics.median(found)
        spread = f"{min(found):.2f}..{max(found):.2f}"
        print(f"  {way:<18}{median:7.3f} s a frame ({spread})  {base / median:5.2f} times as fast as transformers")


def _print_memory(options: argparse.Namespace) -> None:
    print(f"peak memory of {options.frames} frames above the loaded model")
    for way in options.ways:
        arguments = [sys.executable, __file__, "--worker", way, "--frames", str(options.frames)]
        arguments += ["--checkpoint", options.checkpoint, "--graph", options.graph, "--threads", str(options.threads)]
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode:
            print(f"  {way:<18} does not run: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
            continue
        print(f"  {way:<18}{json.loads(done.stdout.splitlines()[-1])['megabytes']:8.0f} MB")


def _peak(options: argparse.Namespace) -> dict[str, float]:
    """Of the clip forward for transformers, of frame after frame for the others."""
    import torch

    import l2g

    torch.set_num_threads(options.threads)
    if options.worker == "transformers":
        model: Any = l2g.load_checkpoint(options.checkpoint)
        before = _resident()
        pixels = torch.rand(1, options.frames, 3, *model.config.input_size)
        with torch.inference_mode():
            model.network(pixel_values_videos=pixels)
    else:
        step, side = _step(options.worker, options)
        rng, before = np.random.default_rng(0), _resident()
        for _ in range(options.frames):
            step(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main())
