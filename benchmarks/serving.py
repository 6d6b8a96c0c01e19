"""What Triton adds to a frame, and whether many sequences at once are what each is alone.

    python benchmarks/serving.py --model model.onnx

Needs the server of the nvidia-pytriton wheel in this environment (`make serving-environment`), started here on
loopback. Two parts:

sequences: `--sequences` of `--frames` frames each, driven by `--clients` at the same time, of several sizes, each
begun at a random moment, ended at a random length and begun again until its frames are used up. Every result is
compared with that of a `Tracker` in this process to the bit: ids, slots, scores, boxes, masks. Then the server's own
count of the states that it holds has to be 0. Exit code 1 where not.

latency: frame by frame in turns, in this process and through the server over gRPC, HTTP and as JPEG over gRPC; the
milliseconds of a frame, and what the way through the server adds to the very frame before (p50 and p99).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

import l2g
from l2g.errors import L2GError
from l2g.runtime.video.source import open_source
from l2g.serving.client import TritonTracker
from l2g.serving.options import ServingOptions
from l2g.serving.repository import write_repository
from tests.serving.real_server import Server, missing, running
from tests.serving.same import content

CLIP = Path(__file__).parents[1] / "examples/demo/clip.mp4"
# Sides of the streams' pictures, all of the clip's aspect ratio.
SIDES = (640, 320, 480, 160)


def pictures(count: int) -> list[np.ndarray]:
    """So many frames of the clip, forwards and backwards in turns."""
    with open_source(CLIP) as source:
        clip = [frame.image for frame in source]
    there_and_back = clip + clip[::-1]
    return [there_and_back[i % len(there_and_back)] for i in range(count)]


def video(images: list[np.ndarray], number: int) -> list[np.ndarray]:
    """The frames of a sequence: of its own size, start and direction."""
    side = SIDES[number % len(SIDES)]
    moved = images[number * 7 :] + images[: number * 7]
    turned = moved[::-1] if number % 2 else moved
    return [cv2.resize(image, (side, side * image.shape[0] // image.shape[1])) for image in turned]


def parts(frames: int, chance: random.Random) -> list[range]:
    """Where a sequence of so many frames ends and begins again: one to four parts."""
    ends = sorted(chance.sample(range(1, frames), chance.randint(0, 3)))
    return [range(first, end) for first, end in zip([0, *ends], [*ends, frames], strict=True)]


def sequences(server: Server, model: str, graph: str, options: argparse.Namespace) -> tuple[int, int, int, float]:
    """(frames, frames that differ, states left, frames a second)."""
    images = pictures(options.frames)
    chance = random.Random(options.seed)
    plan = {number: parts(options.frames, chance) for number in range(options.sequences)}
    waits = {number: [chance.randint(0, 20) for _ in plan[number]] for number in plan}
    got: dict[tuple[int, int], list] = {}
    errors: list[Exception] = []

    def drive(numbers: list[int]) -> None:
        """One client, its streams in turns; a part that has to wait begins some turns later."""
        try:
            frames = {number: video(images, number) for number in numbers}
            with TritonTracker(server.grpc if numbers[0] % 2 else server.http, model, timeout=120) as client:
                left = {number: [(wait, part) for wait, part in zip(waits[number], plan[number], strict=True)]
                        for number in numbers}  # fmt: skip
                at = dict.fromkeys(numbers, 0)
                while any(left.values()):
                    for number in [number for number in numbers if left[number]]:
                        wait, part = left[number][0]
                        if wait:
                            left[number][0] = (wait - 1, part)
                            continue
                        index = part[at[number]]
                        result = client.update(frames[number][index], at[number] / 10, number)
                        got.setdefault((number, part.start), []).append(content(result))
                        at[number] += 1
                        if at[number] == len(part):
                            client.leave(number)
                            left[number].pop(0)
                            at[number] = 0
        except Exception as error:
            errors.append(error)

    groups = [list(range(first, options.sequences, options.clients)) for first in range(options.clients)]
    threads = [threading.Thread(target=drive, args=(group,)) for group in groups if group]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    server.streams_become(model, 0)
    states = server.streams(model)
    total = wrong = 0
    with l2g.Tracker(graph, device="cpu") as tracker:
        for number, ranges in plan.items():
            frames = video(images, number)
            for part in ranges:
                key = (number, part.start)
                for i, index in enumerate(part):
                    wrong += content(tracker.update(frames[index], i / 10, key)) != got[key][i]
                    total += 1
                tracker.leave(key)
    return total, wrong, states, total / seconds


def latency(server: Server, model: str, graph: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Milliseconds of each frame by the way it took."""
    images = pictures(options.frames)
    coded = [cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes() for image in images]
    with (
        l2g.Tracker(graph, device="cpu") as here,
        TritonTracker(server.grpc, model) as grpc,
        TritonTracker(server.http, model) as http,
        TritonTracker(server.grpc, model) as jpeg,
    ):
        ways = {
            "in this process": lambda i: here.update(images[i], i / 10),
            "gRPC": lambda i: grpc.update(images[i], i / 10),
            "HTTP": lambda i: http.update(images[i], i / 10),
            "JPEG over gRPC": lambda i: jpeg.update(coded[i], i / 10),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(len(images)):
            for way, update in ways.items():
                began = time.perf_counter()
                update(i)
                found[way].append(1e3 * (time.perf_counter() - began))
    # The first frames pay for what is made once.
    return {way: np.array(times[5:]) for way, times in found.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an .onnx")
    parser.add_argument("--part", choices=("all", "sequences", "latency"), default="all")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--frames", type=int, default=200, help="of each sequence")
    parser.add_argument("--strategy", choices=("direct", "oldest"), default="direct")
    parser.add_argument("--batch", type=int, help="frames that go together (default: the sequences)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if why := missing():
        print(f"error: {why}", file=sys.stderr)
        return 2
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        slots = max(options.sequences, 3)  # the latency's clients have one each
        serving = ServingOptions(streams=slots, batch=options.batch or slots,
                                 strategy=options.strategy, device="cpu")  # fmt: skip
        try:
            (served,) = write_repository([options.model], work / "models", serving)
        except L2GError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(served.why)
        with running(work / "models", work) as server:
            if options.part != "latency":
                total, wrong, states, rate = sequences(server, served.name, options.model, options)
                failed = bool(wrong or states)
                print(f"{options.sequences} sequences, {options.clients} clients: {total} frames, {rate:.1f} a second; "
                      f"{wrong} frames differ, {states} states left")  # fmt: skip
            if options.part != "sequences":
                times = latency(server, served.name, options.model, options)
                base = times["in this process"]
                print(f"{'way':<18}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'added p99':>11}")
                for way, values in times.items():
                    added = np.percentile(values - base, (50, 99))
                    p50, p99 = np.percentile(values, (50, 99))
                    print(f"{way:<18}{p50:>9.2f}{p99:>9.2f}{added[0]:>11.2f}{added[1]:>11.2f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
