"""Kills at random moments: is anything half-written under a final name, and does what goes on equal the undisturbed?

    python benchmarks/kills.py --kills 40

Each command is killed (SIGKILL, SIGTERM and SIGINT in turn) at a random moment of its undisturbed time, then run again
to its end (`l2g run` with --resume). Its files are then compared with those of the undisturbed run, byte for byte, the
overlay by its pictures, an engine by what its sidecar says of it. Processes are forked from one that has imported the
libraries. Columns: how many were hit before their end; of these how many left only whole files under final names, how
many temporary files there were after the second run, how many were equal in the end, and how many had left
something to go on from; the longest time from the signal to the end. Exit code: 0 all equal, 1 some not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.artifacts.sidecar import check_file, read_sidecar
from l2g.checkpoint import load_checkpoint
from l2g.runtime.video.writer import VideoWriter

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of the trainer 1: it ends in good order.
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (130, -15), signal.SIGINT: (130, -2)}
# Writers clear away what others of their file left, once that is a second old.
LEFTOVERS_SECONDS = 1.1

# Once, before the processes are forked, so that the moments lie in the work.
IMPORTED = ["torch", "onnx", "onnxruntime", "av", "cv2", "l2g.cli.main", "l2g.training.trainer", "l2g.export.exporter",
            "l2g.calibration.job", "l2g.engines.build", "l2g.runtime.video.job", "l2g.evaluation.run"]  # fmt: skip

SMALL = """model: l2g_tiny
overrides:
  backbone: {blocks: [1, 1, 1, 1], stem_channels: 8, width: 4, out_channels: 16}
  encoder: {layers: 1, ffn_dim: 32, mask_dim: 32}
  decoder: {layers: 2, ffn_dim: 32}
  aligner: {layers: 1, ffn_dim: 32}
  hidden_dim: 32
  num_queries: 10
  num_heads: 4
  num_classes: 8
data: {source: synthetic, split: train, workers: 0, augment: {canvas: [64, 96], flip: 0.5}}
evaluation: {every: 0}
save_every: 2
ema: 0.9
phases:
  - {kind: image, iterations: 10, batch_size: 1, lr: 1.0e-3, warmup: 2, schedule: cosine}
  - {kind: clip, iterations: 4, batch_size: 1, lr: 4.0e-4, warmup: 2, schedule: cosine, clip_length: 3}
"""


@dataclass(frozen=True)
class Job:
    """words: of the command, with OUT for its folder. files: what it leaves under final names, to be compared. again:
    what is added to the words to go on. memory: pattern of what it goes on from."""

    name: str
    words: tuple[str, ...]
    files: tuple[str, ...]
    again: tuple[str, ...] = ()
    memory: str = "nothing"

    def command(self, out: Path, again: bool = False) -> list[str]:
        return [word.replace("OUT", str(out)) for word in (*self.words, *(self.again if again else ()))]


@dataclass(frozen=True)
class Ended:
    """seconds: from the signal, or from the start where there was none. said: on stderr."""

    code: int
    seconds: float
    said: str


def jobs(folder: Path) -> list[Job]:
    graph, small = folder / "graph.onnx", folder / "train" / "model.safetensors"
    few = ("--quiet", "--videos=1", "--frames=2", "--span=4", "--method=max", "--search-videos=1", "--max-trials=1",
           "--probe-frames=1", "--verdict-videos=1", "--ap-budget=none")  # fmt: skip
    one_gpu = ("--compute-capability", "8.9", "--no-cache", "--no-verify", "--quiet")
    return [
        Job("train", ("train", "--config", str(folder / "small.yaml"), "--output", "OUT"), ("model.safetensors",),
            memory="resume.pt"),
        Job("run", ("run", "--model", "l2g_tiny", "--input", str(folder / "clip.mp4"), "--output", "OUT", "--quiet"),
            ("frames.jsonl", "results.json", "overlay.mp4"), ("--resume",), "unfinished/memory-*.npz"),
        Job("export", ("export", "--ckpt", str(small), "--height=64", "--width=96", "--output", "OUT/m.onnx",
            "--quiet"), ("m.onnx",)),
        Job("quantize", ("quantize", "--ckpt", str(graph), "--dataset", str(folder / "data"), "--output",
            "OUT/q.onnx", *few), ("q.onnx",), memory="q.onnx.work/measurements.json"),
        Job("build", ("build", "--onnx", str(graph), "--output", "OUT/m.engine", "--library", "tensorrt-rtx", *one_gpu),
            ("m.engine",)),
    ]  # fmt: skip


class Processes:
    """Runs commands, one at a time, and ends them."""

    def __init__(self, log: Path):
        self.log = log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED)

    def run(self, words: list[str], kill_after: float | None = None, how: signal.Signals = signal.SIGKILL) -> Ended:
        process = self._context.Process(target=enter, args=(words, self.log))
        process.start()
        started = time.monotonic()
        process.join(kill_after)
        if process.exitcode is None:
            assert process.pid
            os.kill(process.pid, how)
            started = time.monotonic()
            process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, time.monotonic() - started, self.log.read_text(errors="replace"))


def make_inputs(folder: Path, processes: Processes) -> None:
    """What the jobs read: a clip, a config, videos with annotation, the undisturbed run's weights and their graph."""
    rng = np.random.default_rng(0)
    with VideoWriter(folder / "clip.mp4", 96, 160, 30) as writer:
        for index in range(260):
            image = np.full((96, 160, 3), 90, np.uint8)
            image[20:60, index % 100 : index % 100 + 40] = rng.integers(0, 255, 3)
            writer.write(image, index / 30)
    (folder / "small.yaml").write_text(SMALL)
    drawn = "data draw --split val --videos 2 --frames 8 --size 64 96 --output"
    ended = [processes.run([*drawn.split(), str(folder / "data")])]
    job = jobs(folder)[0]
    ended.append(processes.run(job.command(folder / "train")))
    weights, canvas = str(folder / "train" / "model.safetensors"), ["--height=64", "--width=96"]
    ended.append(processes.run(["export", "--ckpt", weights, *canvas, "--output", str(folder / "graph.onnx")]))
    assert [end.code for end in ended] == [0, 0, 0], ended


def enter(words: list[str], log: Path) -> None:
    """In the forked process: the command, with what it says in a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from l2g.cli.main import main

    sys.exit(main(words))


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
    if not (one.exists() and other.exists()):
        return False
    if one.suffix == ".engine":
        return read_sidecar(one).engine.audit == read_sidecar(other).engine.audit
    if one.suffix != ".mp4":
        return one.read_bytes() == other.read_bytes()
    return len(a := pictures(one)) == len(b := pictures(other)) and all(map(np.array_equal, a, b))


def killed(processes: Processes, job: Job, undisturbed: Path, after: float, how: signal.Signals) -> Counter[str]:
    """One kill, what it left, and what the second run made of that; nothing where the command was over before."""
    out = undisturbed.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    first = processes.run(job.command(out), after, how)
    if first.code == 0:
        return Counter()
    found = Counter(hit=1, code=int(first.code in CODES[how]))
    found["whole"] = int(all(whole(out / name) for name in job.files if (out / name).exists()))
    found["on"] = int(any(out.glob(job.memory)))
    time.sleep(LEFTOVERS_SECONDS)
    second = processes.run(job.command(out, again=True))
    found["left"] = len(list(out.rglob("*.part")))
    found["equal"] = int(second.code == 0 and all(equal(out / name, undisturbed / name) for name in job.files))
    found["ms"] = round(1000 * first.seconds)
    if not (found["code"] and found["whole"] and found["equal"]) or found["left"]:
        print(f"{job.name}: {how.name} after {after:.3f} s: {first.code}, then {second.code}: {dict(found)}")
        print("    " + (first.said + second.said)[-800:].replace("\n", "\n    "), flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="commands by name (default: all)")
    parser.add_argument(
        "--folder", type=Path, help="keeps inputs and undisturbed runs for further calls (default: none)"
    )
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        processes = Processes(folder / "log")
        if not (folder / "graph.onnx").exists():
            make_inputs(folder, processes)
        print("command   signal   hit  whole  leftovers  equal  went on  longest end (s)")
        for job in jobs(folder):
            if options.only and job.name not in options.only:
                continue
            rng, undisturbed = random.Random(f"{job.name} {options.seed}"), folder / job.name
            if not all((undisturbed / name).exists() for name in job.files):
                undisturbed.mkdir(exist_ok=True)
                end = processes.run(job.command(undisturbed))
                assert end.code == 0, (job, end)
            shutil.rmtree(folder / "timed", ignore_errors=True)
            (folder / "timed").mkdir()
            timed = processes.run(job.command(folder / "timed"))
            assert timed.code == 0, (job, timed)
            for how in SIGNALS:
                total: Counter[str] = Counter()
                longest = 0
                # Some are over before their signal comes.
                for _ in range(2 * options.kills):
                    if total["hit"] < -(-options.kills // len(SIGNALS)):
                        found = killed(processes, job, undisturbed, rng.uniform(0.01, 1) * timed.seconds, how)
                        longest = max(longest, found.pop("ms", 0))
                        total += found
                bad += len({total[name] for name in ("hit", "code", "whole", "equal")}) > 1 or total["left"] > 0
                print(f"{job.name:<10}{how.name:<9}{total['hit']:>3}{total['whole']:>7}{total['left']:>11}"
                      f"{total['equal']:>7}{total['on']:>9}{longest / 1000:>17.1f}", flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
