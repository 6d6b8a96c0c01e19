"""The memory of a process that runs a graph on a CPU: every library and precision, each in a process of its own.

    python benchmarks/cpu.py --work outputs/cpu            # makes the graphs (and times them)
    python benchmarks/cpu_memory.py --work outputs/cpu

Printed is the largest resident memory while frames go through (`VmHWM` of Linux, begun anew once the model is open) and
while it opens, and of what it holds after the last frame the anonymous part, which no file backs. Both libraries open
what an earlier start left in their caches. Asked for: INT8 with BF16 around it runs in 70 % of what ONNX Runtime's FP32
takes.

Exit code: 0 all that was asked for, 1 something was missed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from l2g.errors import L2GError

GRAPHS = {
    "ONNX Runtime FP32": ("onnxruntime", "fp32"),
    "ONNX Runtime INT8": ("onnxruntime", "int8-onnxruntime"),
    "OpenVINO FP32": ("openvino", "fp32"),
    "OpenVINO BF16": ("openvino", "bf16"),
    "OpenVINO INT8+FP32": ("openvino", "int8-openvino"),
    "OpenVINO INT8+BF16": ("openvino", "int8-bf16"),
}
SMALL, LARGE, SHARE = "OpenVINO INT8+BF16", "ONNX Runtime FP32", 0.7
# Without PyTorch, as on a device.
CHILD = """
import json, sys
import numpy as np
from l2g.errors import L2GError
from l2g.runtime.backends.open import open_backend

def megabytes(field):
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) / 1024

library, path, threads, frames = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
device = {"onnxruntime": "cpu", "openvino": "CPU"}[library]
try:
    backend = open_backend(path, library=library, device=device, threads=threads)
except L2GError as error:
    sys.exit(f"error: {error}")
opening = megabytes("VmHWM")
open("/proc/self/clear_refs", "w").write("5")
rng = np.random.default_rng(0)
for number in range(frames):
    shape = (1, backend.contract.height, backend.contract.width, 3)
    backend.step(rng.integers(0, 256, shape, dtype=np.uint8), np.array([number == 0]))
print(json.dumps([opening, megabytes("VmHWM"), megabytes("RssAnon")]))
"""


def measured(library: str, path: Path, threads: int, frames: int) -> list[float]:
    """MB at the peak of opening, at the peak of running, and anonymous at the end; L2GError where it does not run."""
    command = [sys.executable, "-c", CHILD, library, str(path), str(threads), str(frames)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise L2GError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    found: list[float] = json.loads(done.stdout)
    return found


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
        library = GRAPHS[name][0]
        try:
            measured(library, path, args.threads, 1)  # fills the cache
            opening, running[name], anonymous = measured(library, path, args.threads, args.frames)
        except L2GError as reason:  # such as BF16 on a processor without it
            print(f"{name} is not measured: {reason}", file=sys.stderr)
            continue
        print(f"| {name} | {opening:.0f} | {running[name]:.0f} | {anonymous:.0f} |", flush=True)
    small = SMALL if SMALL in running else "OpenVINO INT8+FP32"
    if not {small, LARGE} <= set(running):
        return 2
    share = running[small] / running[LARGE]
    print(f"\n{small} runs in {100 * share:.0f} % of {LARGE}; asked for at most {100 * SHARE:.0f} %")
    return 0 if share <= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
