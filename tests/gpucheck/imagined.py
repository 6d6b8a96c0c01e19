"""A GPU that is imagined: PyTorch and ONNX Runtime compute on the processor, engines in the memory of `fake_gpu`.

Also as a process, in the place of `l2g.gpucheck.child`: python -m tests.gpucheck.imagined STEP FOLDER DEVICE.
"""

from __future__ import annotations

import sys
from pathlib import Path

from l2g.gpucheck import child
from l2g.gpucheck.devices import Hardware


class Imagined(Hardware):
    """It captures as a GPU does: what is recorded runs when it is launched, with what lies in its buffers then."""

    @property
    def torch_device(self):
        import torch

        return torch.device("cpu")

    def synchronize(self):
        pass

    def record(self, work):
        work()
        return work

    def gpu(self):
        from tests.runtime.fake_gpu import GPU

        return GPU

    def why_not(self):
        return dict.fromkeys(super().why_not(), "")

    def open_graph(self, path, way):
        return Hardware("cpu").open_graph(path, way)

    def open_compiled(self, *given):
        return Hardware("cpu").open_compiled(*given)

    def open_engine(self, path):
        from l2g.runtime.backends.tensorrt.backend import TensorRTBackend
        from tests.runtime.fake_gpu import FakePlatform

        # Beside a made-up engine lies its graph; an engine that a step has built has the name of its own.
        beside, own = Path(f"{path}.graph"), Path(str(path).replace("tensorrt-rtx", "tensorrt")).with_suffix(".onnx")
        return TensorRTBackend(path, platform=FakePlatform(beside if beside.is_file() else own))


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1:], Imagined))
