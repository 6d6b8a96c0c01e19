"""CPU seconds that `l2g data check` takes for a made-up data set of 3,000 videos, beside an older version.

    python benchmarks/data_check.py --base FOLDER

FOLDER holds the older version as `pip install --target FOLDER` lays it there. Both run in processes of their own and
take turns. The data set is drawn once: half of its masks are lists of runs as in YouTube-VIS, half are compressed as in
OVIS.
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
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH, FRAMES, OBJECTS = 360, 640, 20, 3
CHECKOUT = Path(__file__).parents[1]


def write_dataset(folder: Path, videos: int) -> None:
    """`instances.json` and JPEGImages, in which all frames are one picture under many names."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    picture = folder / "picture.jpg"
    cv2.imwrite(str(picture), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    shapes = [_ellipse(rng) for _ in range(200)]
    packed = [{"size": [HEIGHT, WIDTH], "counts": coco.encode(shape)["counts"].decode()} for shape in shapes]
    loose = [{"size": [HEIGHT, WIDTH], "counts": _runs(shape)} for shape in shapes]
    areas = [int(shape.sum()) for shape in shapes]
    records, marks = [], []
    for number in range(1, videos + 1):
        names = [f"{number:05d}/{t:05d}.jpg" for t in range(FRAMES)]
        (folder / "JPEGImages" / f"{number:05d}").mkdir(parents=True)
        for name in names:
            os.link(picture, folder / "JPEGImages" / name)
        records.append({"id": number, "width": WIDTH, "height": HEIGHT, "length": FRAMES, "file_names": names})
        for _ in range(OBJECTS):
            drawn = rng.integers(0, len(shapes), FRAMES).tolist()
            masks = packed if number % 2 else loose
            mark = {"id": len(marks) + 1, "video_id": number, "category_id": 1 + len(marks) % 40, "iscrowd": 0}
            mark["segmentations"] = [masks[i] if i % 8 else None for i in drawn]
            mark["areas"] = [areas[i] if i % 8 else None for i in drawn]
            marks.append(mark)
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 41)]
    data = {"videos": records, "categories": categories, "annotations": marks}
    (folder / "instances.json").write_text(json.dumps(data))


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    axes = tuple(rng.integers(20, 120, 2).tolist())
    cv2.ellipse(mask, (WIDTH // 2, HEIGHT // 2), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return np.asfortranarray(mask)


def _runs(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


def cpu_seconds(path: Path, dataset: Path) -> float:
    """User and system time of `python -m l2g.data.validation` with the package that lies under `path`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "l2g.data.validation", str(dataset)]
    run = subprocess.run(command, cwd=dataset, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {run.returncode}: {run.stderr.decode()[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of the older version (default: this one alone)")
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", type=Path, help="where the data set is, or is drawn (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dataset = (options.dataset or Path(temporary) / "data").absolute()
        if not dataset.is_dir():
            write_dataset(dataset, options.videos)
        versions = {"now": CHECKOUT} | ({"base": options.base.absolute()} if options.base else {})
        seconds: dict[str, list[float]] = {name: [] for name in versions}
        for _ in range(options.rounds):
            for name, path in versions.items():
                seconds[name].append(cpu_seconds(path, dataset))
        megabytes = (dataset / "instances.json").stat().st_size / 1e6
    print(f"{options.videos} videos, {options.videos * OBJECTS * FRAMES} masks and places, {megabytes:.0f} MB of JSON")
    for name, values in seconds.items():
        shown = ", ".join(f"{value:.2f}" for value in values)
        print(f"{name:<6}{statistics.median(values):7.2f} CPU seconds (median of {shown})")
    if options.base:
        print(f"{statistics.median(seconds['now']) / statistics.median(seconds['base']):.2f} of the base")


if __name__ == "__main__":
    main()
