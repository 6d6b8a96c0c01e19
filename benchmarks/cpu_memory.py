"""The memory of a process that runs a graph on a CPU: every library and precision, each in a process of its own.

    python benchmarks/cpu.py --work outputs/cpu             # makes the graphs (and times them)
    python -m benchmarks.cpu_memory --work outputs/cpu

Printed is the largest resident memory while frames go through (`VmHWM` of Linux, begun anew once the model is open) and
while it opens, and of what it holds after the last frame the anonymous part, which no file backs. Both libraries open
what an earlier start left in their caches. Asked for: INT8 with BF16 around it runs in 70 % of what ONNX Runtime's FP32
takes.

Exit code: 0 all that was asked for, 1 something was missed, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.cpu import GRAPHS, how
from l2g.errors import L2GError
from l2g.evaluation.bench.start import start_of

SMALL, LARGE, SHARE = "OpenVINO INT8+BF16", "ONNX Runtime FP32", 0.7


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where cpu.py kept its graphs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=4, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    paths = {name: args.work / f"{graph}.onnx" for name, (_, graph) in GRAPHS.items()}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        print(f"error: {missing[0]}: no such file; make it with: cpu.py --work {args.work}", file=sys.stderr)
        return 2
    print("| | opening MB | running MB | anonymous MB |\n|---|---|---|---|")
    running = {}
    for name, path in paths.items():
        options = how(GRAPHS[name][0], args.threads)
        try:
            start_of(str(path), options, kept=True, frames=1)  # fills the cache
            start = start_of(str(path), options, kept=True, frames=args.frames)
        except L2GError as reason:  # such as BF16 on a processor without it
            print(f"{name} is not measured: {reason}", file=sys.stderr)
            continue
        running[name] = start.running
        cells = (found / 2**20 for found in (start.opening, start.running, start.anonymous))
        print(f"| {name} | {' | '.join(f'{found:.0f}' for found in cells)} |", flush=True)
    small = SMALL if SMALL in running else "OpenVINO INT8+FP32"
    if not {small, LARGE} <= set(running):
        return 2
    share = running[small] / running[LARGE]
    print(f"\n{small} runs in {100 * share:.0f} % of {LARGE}; asked for at most {100 * SHARE:.0f} %")
    return 0 if share <= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
