"""What starting costs: CPU seconds of a command that does one frame, from the process's first instruction to its last.

    python benchmarks/startup.py --command "l2g run --model MODEL.onnx --input CLIP --output DIR --end 0.001" \\
        --baseline "python OLD/runtime/run_video.py --model MODEL.onnx --input CLIP --output DIR --end 0.001"

Both are run in turns, so that whatever else the machine does falls on either. `first` is the CPU time until the model's
first frame begins (the first call of ONNX Runtime's session), `whole` until the process has ended. The medians count.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# A module of this name is imported by every Python as it starts. It waits for ONNX Runtime's session to be made and
# writes down the CPU time of its first run; that costs the process a tenth of a millisecond.
HOOK = """
import os, sys, time

class _Watch:
    def find_spec(self, name, path=None, target=None):
        if name != "onnxruntime.capi.onnxruntime_inference_collection":
            return None
        import importlib.util
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            for method in ("run", "run_with_iobinding"):
                _note_first(module.InferenceSession, method)
        spec.loader.exec_module = exec_module
        return spec

def _note_first(session, method):
    run = getattr(session, method)
    def first(self, *args, **kwargs):
        setattr(session, method, run)
        with open(os.environ["L2G_STARTUP_FILE"], "a") as file:
            file.write(f"{time.process_time()}\\n")
        return run(self, *args, **kwargs)
    setattr(session, method, first)

if "L2G_STARTUP_FILE" in os.environ:
    sys.meta_path.insert(0, _Watch())
"""


@dataclass(frozen=True)
class Start:
    """CPU seconds, user and system, of one run; `first` is None where no ONNX Runtime session ran."""

    first: float | None
    whole: float


def measure(command: list[str], environment: dict[str, str]) -> Start:
    """Run `command` once. RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(HOOK)
        note = Path(folder, "note")
        paths = [folder, *filter(None, [environment.get("PYTHONPATH")])]
        environment = {**environment, "PYTHONPATH": os.pathsep.join(paths), "L2G_STARTUP_FILE": str(note)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr}")
        first = float(note.read_text().split()[0]) if note.exists() else None
    return Start(first, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def split_command(text: str) -> tuple[list[str], dict[str, str]]:
    """Words and environment of "NAME=VALUE ... program argument ..."; `python` is this interpreter."""
    words, environment = shlex.split(text), dict(os.environ)
    while words and "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    if words and words[0] == "python":
        words[0] = sys.executable
    return words, environment


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help='"[NAME=VALUE ...] program argument ..."')
    parser.add_argument("--baseline", help="another, to be compared with, likewise")
    parser.add_argument("--runs", type=int, default=15, help="of each (default 15; one more warms up)")
    options = parser.parse_args(argv)
    commands = [split_command(text) for text in (options.command, options.baseline) if text]
    found: list[list[Start]] = [[] for _ in commands]
    for run in range(options.runs + 1):
        for command, starts in zip(commands, found, strict=True):
            start = measure(*command)
            if run:
                starts.append(start)
    print(f"{'CPU seconds, median of ' + str(options.runs):<28}{'first':>8}{'whole':>8}")
    medians = []
    for name, starts in zip(("command", "baseline"), found, strict=False):
        firsts = [start.first for start in starts if start.first is not None]
        medians.append(
            (statistics.median(firsts) if firsts else None, statistics.median(start.whole for start in starts))
        )
        print(f"{name:<28}" + "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in medians[-1]))
    if len(medians) == 2:
        ratios = [one / other if one and other else None for one, other in zip(*medians, strict=True)]
        print(f"{'ratio':<28}" + "".join(f"{'-' if value is None else f'{value:.2f}':>8}" for value in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
