"""A GPU whose memory is the host's: the TensorRT backend runs on it, and ONNX Runtime computes a real graph's numbers.

It keeps what makes a GPU hard: nothing that is put on the stream happens before `synchronize`, a captured graph keeps
the addresses of when it was captured, and using memory that is not allocated, or beyond its end, is an error.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

import numpy as np
import onnxruntime

from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.artifacts.records import Audit, EngineVerification
from l2g.artifacts.sidecar import EngineFacts, Gpu, Sidecar, write_sidecar
from l2g.contract import GraphContract
from l2g.errors import EngineError
from l2g.files import sha256_of_file
from l2g.runtime.backends.tensorrt.backend import Platform
from l2g.runtime.backends.tensorrt.library import Library

GPU = Gpu("Imagined RTX 4090", (8, 9), memory=24 << 30, free_memory=20 << 30)
VERSION = "1.7.1.116"
AUDIT = Audit("fp32", 1.0, {"fp32": 10}, {"fp32": 1}, {"fp32": 1}, (), 0, None, None, "build log")


class FakeDevice:
    stream = 7

    def __init__(self):
        self.memory: dict[int, np.ndarray] = {}  # by address
        self.hosts: dict[int, np.ndarray] = {}
        self.queue: list = []
        self.recording: list | None = None
        self.copies = {"up": 0, "down": 0}
        self.launches = self.captures = 0
        self.capturable = True
        self.closed = False

    def allocate(self, size):
        block = np.zeros(size, np.uint8)
        self.memory[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address):
        assert not self.queue, "freed while work was waiting"
        del self.memory[address]

    def pinned(self, shape, dtype):
        array = np.zeros(shape, dtype)
        self.hosts[array.ctypes.data] = array
        return array

    def release(self, array):
        del self.hosts[array.ctypes.data]

    def block(self, address, size) -> np.ndarray:
        """The bytes at an address; an error where they were not allocated, or were freed."""
        assert address in self.memory, "an address that is not allocated"
        assert self.memory[address].nbytes >= size, "beyond the end of an allocation"
        return self.memory[address]

    def upload(self, address, array):
        self._check_host(array)

        def copy():
            self.copies["up"] += array.nbytes
            ctypes.memmove(self.block(address, array.nbytes).ctypes.data, array.ctypes.data, array.nbytes)

        self.put(copy)

    def download(self, array, address):
        self._check_host(array)

        def copy():
            self.copies["down"] += array.nbytes
            ctypes.memmove(array.ctypes.data, self.block(address, array.nbytes).ctypes.data, array.nbytes)

        self.put(copy)

    def put(self, work):
        (self.queue if self.recording is None else self.recording).append(work)

    def synchronize(self):
        assert self.recording is None, "synchronised while capturing"
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def capture(self, work):
        if not self.capturable:
            raise EngineError("the work cannot be captured")
        self.captures += 1
        self.recording = []
        try:
            work()
            return tuple(self.recording)
        finally:
            self.recording = None

    def launch(self, graph):
        self.launches += 1
        self.queue += graph

    def destroy(self, graph):
        assert isinstance(graph, tuple)

    def close(self):
        assert not self.memory, "memory was left behind"
        assert not self.hosts, "pinned memory was left behind"
        self.closed = True

    def _check_host(self, array):
        assert array.ctypes.data in self.hosts, "a copy from or to memory that is not pinned"


class FakeExecutor:
    """An engine that really computes: the ONNX graph it would have been built from, on ONNX Runtime."""

    captures_itself = False

    def __init__(self, device: FakeDevice, onnx_file, contract: GraphContract, max_streams: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
        self.device, self.contract, self.max_streams = device, contract, max_streams
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.enqueued = 0

    def shape(self, name, shape):
        self.shapes[name] = shape

    def bind(self, name, address):
        self.addresses[name] = address

    def enqueue(self, stream):
        assert stream == self.device.stream
        addresses, streams = dict(self.addresses), self.shapes["frames"][0]
        self.enqueued += 1
        read = {addresses[spec.name] for spec in self.contract.inputs}
        assert not read & {addresses[spec.name] for spec in self.contract.outputs}, "writes what it reads"

        def run():
            feeds = {spec.name: self._view(spec, addresses, streams) for spec in self.contract.inputs}
            for spec, value in zip(self.contract.outputs, self._session.run(None, feeds), strict=True):
                self._view(spec, addresses, streams)[...] = value

        self.device.put(run)

    def close(self):
        self._session = None

    def _view(self, spec, addresses, streams) -> np.ndarray:
        shape = spec.sized(streams)
        size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        return self.device.block(addresses[spec.name], size)[:size].view(spec.dtype).reshape(shape)


class FakePlatform(Platform):
    """The imagined GPU; the engine file holds any bytes, `onnx_file` is what they stand for."""

    def __init__(self, onnx_file, *, gpu: Gpu | None = GPU, version: str = VERSION, max_streams: int = 4):
        self.onnx_file, self.imagined, self.version, self.max_streams = onnx_file, gpu, version, max_streams
        self.devices: list[FakeDevice] = []
        self.executors: list[FakeExecutor] = []

    def library(self, engine):
        return Library(engine.library, None, self.version)

    def gpu(self, index):
        return self.imagined

    def device(self, index):
        self.devices.append(FakeDevice())
        return self.devices[-1]

    def executor(self, path, content, library, sidecar):
        self.executors.append(FakeExecutor(self.devices[-1], self.onnx_file, sidecar.contract, self.max_streams))
        return self.executors[-1]


def fake_engine(path: Path, onnx_file: Path, **facts) -> Path:
    """An engine file with a true sidecar, made from the graph's own contract; `facts` replace those of the sidecar."""
    content = b"engine of " + onnx_file.name.encode() * 100
    path.write_bytes(content)
    contract = read_contract(read_model(onnx_file), onnx_file)
    known = {
        "library": "tensorrt-rtx",
        "library_version": VERSION,
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_bytes": len(content),
        "onnx": onnx_file.name,
        "onnx_sha256": sha256_of_file(onnx_file),
        "gpu": None,
        "compute_capabilities": ("8.0", "8.6", "8.9", "12.0"),
        "audit": AUDIT,
        "verification": EngineVerification("verified"),
    }
    write_sidecar(path, Sidecar(contract, EngineFacts(**{**known, **facts})))
    return path
