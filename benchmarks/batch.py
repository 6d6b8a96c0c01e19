"""What `l2g batch` costs and gives: equal bytes, the rate of two workers, overhead, the driver's memory, a seam's AP.

    python benchmarks/batch.py equal --clips 200
    python benchmarks/batch.py rate
    python benchmarks/batch.py overhead
    python benchmarks/batch.py driver --clips 20000
    python benchmarks/batch.py node
    python benchmarks/batch.py seam --split long --videos 3

equal: small clips on two workers and one after the other in this process, byte for byte. rate: videos a second of two
workers and of one, one thread each, in turn, steady state (without the start of Ray and of the model). overhead:
seconds a video of one worker and of a loop over `process_video` in this process, in turn, both with all cores.
driver: empty files and a worker that does nothing, so that only the scheduling is left, with this process's memory on
the way. node: a cluster of two nodes on this machine, one of which is killed. seam: AP of drawn videos whole and in
pieces. Exit code: 0, or 1 where bytes differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from l2g.api import export_onnx
from l2g.batch.records import DONE, Outcome, Result, Settings, Task, VideoRecord
from l2g.batch.run import run_batch
from l2g.runtime.backends.open import open_backend
from l2g.runtime.memory import resident_bytes
from l2g.runtime.video.job import process_video
from l2g.runtime.video.source import open_source
from l2g.runtime.video.writer import VideoWriter

FILES = ("frames.jsonl", "results.json", "overlay.mp4")


def write_clips(folder: Path, count: int, frames: int = 8, size: tuple[int, int] = (96, 96)) -> None:
    """Drawn clips `0000.mp4`, ...: two blocks that move over noise, no two clips alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        ground = rng.integers(60, 120, (*size, 3), np.uint8)
        blocks = [(rng.integers(0, 255, 3), rng.integers(0, size[0] // 2, 2), rng.integers(-3, 4, 2)) for _ in range(2)]
        with VideoWriter(folder / f"{number:04d}.mp4", *size, 10) as writer:
            for t in range(frames):
                image = ground.copy()
                for color, place, step in blocks:
                    y, x = np.maximum(place + step * t, 0)
                    image[y : y + size[0] // 3, x : x + size[1] // 3] = color
                writer.write(image, t / 10)


def export_tiny(path: Path, size: tuple[int, int] = (96, 96)) -> Path:
    export_onnx("l2g_tiny", path, height=size[0], width=size[1])
    return path


def one_after_the_other(model: Path, clips: Path, output: Path, threads: int | None = 1) -> float:
    """Seconds, without those that opening the model takes."""
    with closing(open_backend(model, top_k=None, threads=threads)) as backend:
        files = sorted(clips.iterdir())
        started = time.perf_counter()
        for file in files:
            with open_source(file) as source:
                process_video(backend, source, output / file.stem)
        return time.perf_counter() - started


class Steady:
    """When each outcome came; `per_video` leaves out what the start of the workers takes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, total: int, outcome: Outcome) -> None:
        self.times.append(time.perf_counter())

    def per_video(self, workers: int) -> float:
        times = self.times[2 * workers - 1 :]
        return (times[-1] - times[0]) / (len(times) - 1)


def batch(model: Path, clips: Path, output: Path, workers: int, threads: int | None = 1) -> float:
    """Seconds a video, steady state."""
    steady = Steady()
    settings = Settings(str(model))
    progress = run_batch(settings, str(clips), str(output), workers=workers, threads=threads, say=_say, on_video=steady)
    assert progress.counts[DONE] == progress.total, progress
    return steady.per_video(workers)


def equal(options: argparse.Namespace, folder: Path) -> int:
    model = options.model or export_tiny(folder / "m.onnx")
    write_clips(folder / "clips", options.clips)
    one_after_the_other(model, folder / "clips", folder / "one")
    batch(model, folder / "clips", folder / "two", 2)
    names = sorted(path.stem for path in (folder / "clips").iterdir())
    same = [
        (folder / "one" / name / file).read_bytes() == (folder / "two" / name / file).read_bytes()
        for name in names
        for file in FILES
    ]
    tracks = sum(json.loads((folder / "two" / name / "video.json").read_text())["tracks"] for name in names)
    print(f"{len(names)} clips, {tracks} tracks: {sum(same)} of {len(same)} files equal byte for byte")
    return 0 if all(same) else 1


def rate(options: argparse.Namespace, folder: Path) -> int:
    model = options.model or export_tiny(folder / "m.onnx", (96, 160))
    write_clips(folder / "clips", options.clips or 24, 60, (96, 160))
    seconds = {1: [], 2: []}
    for number in range(options.repeats):
        for workers, found in seconds.items():
            found.append(batch(model, folder / "clips", folder / f"out-{workers}-{number}", workers))
    for workers, found in seconds.items():
        print(f"{workers} workers: {1 / statistics.median(found):.2f} videos/s ({_list(found)} s a video)")
    print(f"2 workers are {statistics.median(seconds[1]) / statistics.median(seconds[2]):.2f} times as fast as 1")
    return 0


def overhead(options: argparse.Namespace, folder: Path) -> int:
    model = options.model or export_tiny(folder / "m.onnx", (96, 160))
    count = options.clips or 24
    write_clips(folder / "clips", count, 60, (96, 160))
    loops, batches = [], []
    for number in range(options.repeats):
        loops.append(one_after_the_other(model, folder / "clips", folder / f"one-{number}", None) / count)
        batches.append(batch(model, folder / "clips", folder / f"two-{number}", 1, None))
    loop, batched = statistics.median(loops), statistics.median(batches)
    print(f"a loop in one process: {loop:.4f} s a video ({_list(loops)})")
    print(f"l2g batch, one worker: {batched:.4f} s a video ({_list(batches)}): {100 * (batched / loop - 1):+.1f} %")
    return 0


class Nothing:
    """A worker that settles a video without looking at it."""

    def __init__(self, settings: Settings, output: str, threads: int | None):
        pass

    def ready(self) -> str:
        return ""

    def do(self, task: Task) -> Result:
        return Outcome(VideoRecord(task.entry.name, task.entry.source, DONE, 8, 1, 0.0))


def driver(options: argparse.Namespace, folder: Path) -> int:
    clips, count = folder / "clips", options.clips or 20000
    clips.mkdir()
    for number in range(count):
        (clips / f"{number:06d}.mp4").touch()
    steady = Steady()
    marks = [mark for mark in (200, 2000, 20000, 200000) if mark <= count]

    def on_video(total: int, outcome: Outcome) -> None:
        steady(total, outcome)
        if len(steady.times) in marks:
            print(f"{len(steady.times):>7} videos: driver {(resident_bytes() or 0) / 2**20:.1f} MiB", flush=True)

    run_batch(
        Settings("nothing"), str(clips), str(folder / "out"), workers=2, say=_say, on_video=on_video, replica=Nothing
    )
    print(f"{1e3 * steady.per_video(2):.2f} ms a video, all of it scheduling, manifest and listing")
    return 0


class Napping(Nothing):
    """One that takes a fifth of a second for it, and says where."""

    def do(self, task: Task) -> Result:
        import ray

        time.sleep(0.2)
        node = ray.get_runtime_context().get_node_id()
        return Outcome(VideoRecord(task.entry.name, task.entry.source, DONE, attempts=task.attempt, worker=node))


def node(options: argparse.Namespace, folder: Path) -> int:
    from ray.cluster_utils import Cluster

    count = options.clips or 60
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
    lost = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    clips, found = folder / "clips", []
    clips.mkdir()
    for number in range(count):
        (clips / f"{number:06d}.mp4").touch()

    def on_video(total: int, outcome: Outcome) -> None:
        found.append(outcome.record)
        if len(found) == count // 3:
            cluster.remove_node(lost, allow_graceful=False)

    out = str(folder / "out")
    run_batch(Settings("nothing"), str(clips), out, address=cluster.address, workers=2, say=_say, on_video=on_video,
              replica=Napping)  # fmt: skip
    cluster.shutdown()
    places = [sum(each.worker == name for each in found) for name in dict.fromkeys(each.worker for each in found)]
    again = sum(each.attempts > 1 for each in found)
    once = len({each.name for each in found}) == len(found) == count and all(each.status == DONE for each in found)
    print(f"{count} videos on two nodes ({places}), one of them lost after {count // 3}: {again} begun again, "
          f"{'each settled once' if once else 'WRONG'}")  # fmt: skip
    return 0 if once else 1


def seam(options: argparse.Namespace, folder: Path) -> int:
    from l2g.data.synthetic.dataset import write_synthetic
    from l2g.metrics.vis_ap import evaluate_vis

    drawn = folder / "drawn"
    write_synthetic(drawn, options.split, videos=options.videos, picture_format="png")
    truth = json.loads((drawn / "instances.json").read_text())
    model = str(options.model or export_tiny(folder / "m.onnx", (96, 160)))
    whole = Settings(model, overlay=False, score_threshold=0.05)
    cut = [replace(whole, piece=options.piece, overlap=overlap) for overlap in options.overlaps]
    for settings in (whole, *cut):
        output = folder / f"out-{settings.piece:g}-{settings.overlap:g}"
        progress = run_batch(settings, str(drawn / "JPEGImages"), str(output), workers=2, say=_say)
        assert progress.counts[DONE] == progress.total, progress.named
        found = []
        for video in truth["videos"]:
            name = Path(video["file_names"][0]).parent.name
            found += [
                entry | {"video_id": video["id"]} for entry in json.loads((output / name / "results.json").read_text())
            ]
        (folder / "results.json").write_text(json.dumps(found))
        stats = evaluate_vis(drawn / "instances.json", folder / "results.json").stats
        what = f"pieces of {settings.piece:g} s, overlap {settings.overlap:g} s" if settings.piece else "whole"
        print(f"{options.split}, {len(truth['videos'])} videos, {what}: AP {100 * stats['AP']:.2f}", flush=True)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


MODES: dict[str, Callable[[argparse.Namespace, Path], int]] = {
    "equal": equal, "rate": rate, "overhead": overhead, "driver": driver, "node": node, "seam": seam,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=tuple(MODES))
    parser.add_argument("--clips", type=int, help="videos (default: as the docs have it)")
    parser.add_argument("--model", type=Path, help="a graph (default: l2g_tiny, exported for it)")
    parser.add_argument("--repeats", type=int, default=3, help="of rate and overhead")
    parser.add_argument("--split", choices=("val", "long", "occluded"), default="long")
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--piece", type=float, default=2.0)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.0, 0.2, 0.5, 1.0])
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return MODES[options.mode](options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
