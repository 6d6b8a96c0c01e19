"""Kills at random moments: is anything half-written under a final name, and does what goes on equal the undisturbed?

    python benchmarks/kills.py --kills 40

Each command is killed (SIGKILL, SIGTERM or SIGINT in turn) at a random moment of its undisturbed time, then run again
to its end (`l2g run` with --resume). Its files are then compared with those of the undisturbed run, byte for byte, the
overlay by its pictures, an engine by what its sidecar says of it. Columns: how many were hit before their end; of these
how many left only whole files under final names, left a temporary file behind after the second run, were equal in the
end, and of how many the second run said that it went on; the longest time from the signal to the end. Exit code: 0 all
equal, 1 some not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.artifacts.sidecar import check_file, read_sidecar
from l2g.checkpoint import load_checkpoint
from l2g.runtime.video.writer import VideoWriter
from l2g.training.config import load_config

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of the trainer 1: it ends in good order.
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (130, 1, -15), signal.SIGINT: (130, 1, -2)}


@dataclass(frozen=True)
class Job:
    """words: of the command, with OUT for its folder. files: what it leaves under final names, to be compared. again:
    what is added to the words to go on."""

    name: str
    words: tuple[str, ...]
    files: tuple[str, ...]
    again: tuple[str, ...] = ()

    def command(self, out: Path, again: bool = False) -> list[str]:
        words = [word.replace("OUT", str(out)) for word in (*self.words, *(self.again if again else ()))]
        return [sys.executable, "-m", "l2g", *words]


def jobs(folder: Path) -> list[Job]:
    rng = np.random.default_rng(0)
    clip = folder / "clip.mp4"
    with VideoWriter(clip, 96, 160, 30) as writer:
        for index in range(300):
            image = np.full((96, 160, 3), 90, np.uint8)
            image[20:60, index % 100 : index % 100 + 40] = rng.integers(0, 255, 3)
            writer.write(image, index / 30)
    phases = load_config("synthetic_tiny").phases
    shrunk = [f"phases.{index}.{key}" for index in range(len(phases)) for key in ("iterations=4", "batch_size=1")]
    small = (*shrunk, "save_every=2", "data.workers=0", "evaluation.every=0")
    graph = folder / "graph.onnx"
    few = ("--quiet", "--videos=2", "--frames=4", "--span=8", "--method=max", "--search-videos=2", "--max-trials=1",
           "--probe-frames=2", "--verdict-videos=2", "--ap-budget=none")  # fmt: skip
    one_gpu = ("--compute-capability", "8.9", "--no-cache", "--no-verify", "--quiet")
    return [
        Job("run", ("run", "--model", "l2g_tiny", "--input", str(clip), "--output", "OUT", "--quiet"),
            ("frames.jsonl", "results.json", "overlay.mp4"), ("--resume",)),
        Job("export", ("export", "--ckpt", "l2g_tiny", "--output", "OUT/m.onnx", "--quiet"), ("m.onnx",)),
        Job("train", ("train", "--config", "synthetic_tiny", "--output", "OUT", *small), ("model.safetensors",)),
        Job("quantize", ("quantize", "--ckpt", str(graph), "--dataset", "synthetic:val", "--output", "OUT/q.onnx",
            *few), ("q.onnx",)),
        Job("build", ("build", "--onnx", str(graph), "--output", "OUT/m.engine", "--library", "tensorrt-rtx", *one_gpu),
            ("m.engine",)),
    ]  # fmt: skip


def wait(
    command: list[str], kill_after: float | None = None, how: signal.Signals = signal.SIGKILL
) -> tuple[int, float, str]:
    """Exit code, seconds from the signal (or the start) to the end, and what it said on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    started = time.monotonic()
    try:
        _, said = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
        started = time.monotonic()
        _, said = process.communicate()
    return process.returncode, time.monotonic() - started, said.decode(errors="replace")


def whole(path: Path) -> bool:
    """Whether a file under a final name can be read to its end."""
    if path.suffix == ".jsonl":
        return all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
    if path.suffix == ".json":
        return isinstance(json.loads(path.read_text()), list)
    if path.suffix == ".onnx":
        return intact(path, read_contract(read_model(path), path))
    if path.suffix == ".engine":
        return bool(check_file(path, read_sidecar(path)))
    if path.suffix == ".safetensors":
        return load_checkpoint(path) is not None
    return path.suffix != ".mp4" or len(pictures(path)) > 0


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def equal(one: Path, other: Path) -> bool:
    if one.suffix == ".engine":
        return read_sidecar(one).engine.audit == read_sidecar(other).engine.audit
    if one.suffix != ".mp4":
        return one.read_bytes() == other.read_bytes()
    return len(a := pictures(one)) == len(b := pictures(other)) and all(map(np.array_equal, a, b))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="commands by name (default: all)")
    options = parser.parse_args(argv)
    rng, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen = [job for job in jobs(folder) if not options.only or job.name in options.only]
        times = {}
        for job in chosen:
            (folder / job.name).mkdir()
            if job.name in ("quantize", "build") and not (folder / "graph.onnx").exists():
                wait([sys.executable, "-m", "l2g", "export", "--ckpt", "l2g_tiny", "--output", f"{folder}/graph.onnx"])
            code, times[job.name], said = wait(job.command(folder / job.name))
            assert code == 0, (job, said)
        print("command   signal   hit  whole  leftovers  equal  went on  longest end (s)")
        for job in chosen:
            for how in SIGNALS:
                row = {"hit": 0, "whole": 0, "left": 0, "equal": 0, "on": 0}
                longest = 0.0
                for _ in range(max(1, options.kills // (len(SIGNALS) * len(chosen)))):
                    out = folder / "out"
                    shutil.rmtree(out, ignore_errors=True)
                    out.mkdir()
                    code, seconds, _ = wait(job.command(out), rng.uniform(0.05, 1) * times[job.name], how)
                    if code == 0:
                        continue
                    longest = max(longest, seconds)
                    row["hit"] += code in CODES[how]
                    row["whole"] += all(whole(out / name) for name in job.files if (out / name).exists())
                    again, _, said = wait(job.command(out, again=True))
                    assert again == 0, (job, said)
                    row["on"] += "went on" in said
                    row["left"] += len(list(out.rglob("*.part")))
                    row["equal"] += all(equal(out / name, folder / job.name / name) for name in job.files)
                    bad += code not in CODES[how]
                bad += row["hit"] != row["whole"] or row["hit"] != row["equal"] or row["left"] > 0
                print(f"{job.name:<10}{how.name:<9}{row['hit']:>3}{row['whole']:>7}{row['left']:>11}{row['equal']:>7}"
                      f"{row['on']:>9}{longest:>17.1f}", flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
