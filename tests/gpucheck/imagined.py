"""A GPU that is imagined: PyTorch and ONNX Runtime compute on the processor, engines in the memory of `fake_gpu`.

Also as a process, in the place of `l2g.gpucheck.child`: python imagined.py STEP FOLDER DEVICE. A file `crash`, `hang`
or `fail` in the folder that names a step has it end so.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from l2g.gpucheck import child
from l2g.gpucheck.devices import Hardware
from l2g.gpucheck.ways import COMPILED
from tests.runtime.fake_gpu import GPU, FakePlatform


class Imagined(Hardware):
    """It captures as a GPU does: what is recorded runs when it is launched, with what lies in its buffers then."""

    torch_device = torch.device("cpu")

    def synchronize(self):
        pass

    def record(self, work):
        work()
        return work

    def gpu(self):
        return GPU

    def why_not(self):
        return dict.fromkeys(super().why_not(), "") | {COMPILED: "not imagined"}

    def open_graph(self, path, way):
        return Hardware("cpu").open_graph(path, way)

    def open_engine(self, path):
        from l2g.runtime.backends.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(path, platform=FakePlatform(Path(f"{path}.graph")))


if __name__ == "__main__":
    name, folder, _ = sys.argv[1:]
    if (Path(folder) / "crash").exists() and (Path(folder) / "crash").read_text() == name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if (Path(folder) / "hang").exists() and (Path(folder) / "hang").read_text() == name:
        time.sleep(60)
    sys.exit(child.main(sys.argv[1:], Imagined))
