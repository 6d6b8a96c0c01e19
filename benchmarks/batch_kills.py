"""`l2g batch` killed at random, driver, worker or both: is every video there exactly once, and nothing half-written?

    python -m benchmarks.batch_kills --kills 10

Small clips on two workers. At random moments the driver, a worker, or both are killed (SIGKILL; the driver in turn by
SIGTERM and SIGINT too), and the same command goes on, until so many kills have hit. Then: every clip has its files, and
they are those of a run that nothing disturbed, byte for byte; no file was written again once it was there (its inode
and time are what they were when it was first seen); nothing waits in `.staging`; the manifest has a row a clip; no
process is left. Exit code: 0 all so, 1 not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.batch import FILES, export_tiny, one_after_the_other, write_clips

WHO = ("worker", "driver", "both")
HOW = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Seen:
    """When each file first had its name: (inode, time of change), by path. again: those that changed afterwards."""

    files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    again: set[Path] = field(default_factory=set)

    def look(self, output: Path) -> None:
        for path in output.glob("[0-9]*/*"):
            found = path.stat()
            mark = (found.st_ino, found.st_mtime_ns)
            if self.files.setdefault(path, mark) != mark:
                self.again.add(path)


def workers_of(driver: int) -> list[int]:
    """Ray's worker processes below a driver that hold a replica."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            except (OSError, IndexError):
                continue  # it ended while we looked

    def below(process: int) -> bool:
        while process in parents and process != driver:
            process = parents[process]
        return process == driver

    return [process for process, title in titles.items() if title.startswith("ray::_Worker") and below(process)]


def rays() -> int:
    """Ray's own processes of runs of `l2g batch`, whose parent may be gone."""
    words = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words.append((entry / "cmdline").read_bytes())
    return sum(b"l2g-ray-" in each for each in words)


def command(model: Path, clips: Path, output: Path) -> list[str]:
    words = ["--model", model, "--input", clips, "--output", output, "--workers", 2, "--quiet"]
    return [sys.executable, "-m", "l2g", "batch", *map(str, words)]


class Run:
    """One run of the command, and what is seen of its files while it goes on."""

    def __init__(self, words: list[str], output: Path, seen: Seen):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        self._output, self._seen = output, seen
        self._done = done(output)

    def kill(self, who: str, how: signal.Signals, wait: float) -> bool:
        """Seconds after another video has come: not before, for Ray takes seconds to start, and nothing can go wrong
        there. Whether there was still work."""
        while self._process.poll() is None and done(self._output) == self._done:
            self._look()
        self._done = done(self._output)
        time.sleep(wait)
        hit = self._process.poll() is None
        if hit and who != "driver":
            for worker in workers_of(self._process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
        if hit and who != "worker":
            self._process.send_signal(how)
            self.wait()
        return hit

    def wait(self) -> int:
        while self._process.poll() is None:
            self._look()
        self._look()
        return self._process.returncode

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def _look(self) -> None:
        self._seen.look(self._output)
        time.sleep(0.02)


def done(output: Path) -> int:
    return len(list(output.glob("[0-9]*/video.json")))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--model", type=Path, help="a graph (default: l2g_tiny, exported for it)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, seen = random.Random(options.seed), Seen()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = options.model or export_tiny(folder / "m.onnx")
        clips, output = folder / "clips", folder / "out"
        write_clips(clips, options.clips)
        one_after_the_other(model, clips, folder / "one")
        words = command(model, clips, output)
        hits = 0
        run = Run(words, output, seen)
        for number in range(options.kills):
            who, how = WHO[number % 3], HOW[number // 3 % 3]
            run = Run(words, output, seen) if run.ended else run
            hit = run.kill(who, how, rng.uniform(0, 0.5))
            hits += hit
            by = how.name if who != "worker" else "SIGKILL"
            print(f"{who:<7}{by:<9}{'hit' if hit else 'too late':<9}{done(output)} there", flush=True)
        code = (Run(words, output, seen) if run.ended else run).wait()
        time.sleep(2)
        return verdict(folder, code, hits, seen)


def verdict(folder: Path, code: int, hits: int, seen: Seen) -> int:
    import pyarrow.parquet as parquet

    names = sorted(path.stem for path in (folder / "clips").iterdir())
    output = folder / "out"
    equal = sum(
        (output / name / file).is_file()
        and (output / name / file).read_bytes() == (folder / "one" / name / file).read_bytes()
        for name in names
        for file in FILES
    )
    rows = parquet.read_table(output / "manifest.parquet").to_pylist()
    once = sorted(row["name"] for row in rows) == names and all(row["status"] == "done" for row in rows)
    strange = [path for path in output.rglob("*") if ".part" in path.name or ".staging" in path.parts]
    print(
        f"{hits} kills hit; exit code {code}; {equal} of {len(names) * len(FILES)} files equal to the undisturbed run; "
        f"{len(seen.again)} written again; {len(strange)} leftovers; {rays()} processes left; "
        f"manifest {'complete' if once else 'WRONG'}"
    )
    good = code == 0 and equal == len(names) * len(FILES) and not seen.again and not strange and once and not rays()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
