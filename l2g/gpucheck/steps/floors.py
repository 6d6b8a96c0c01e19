"""What the device does at best: products, convolutions, copies; and what of a frame's time that leaves to be gained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from l2g.artifacts.onnx_file import read_model
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.plan import file_of, label_of
from l2g.gpucheck.report import Figure
from l2g.gpucheck.ways import BY_SLUG

GEMM_SIZE = {"cuda": 8192, "cpu": 1024}
COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}
# The largest convolution of a ResNet-50 model at 480x864: [1, 256, 120, 216], 3x3.
CONVOLUTION = {"cuda": (8, 256, 120, 216), "cpu": (1, 256, 30, 54)}
DTYPES = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}


def run(context: Context) -> None:
    device = context.hardware.torch_device
    rates: dict[str, float] = {}
    for name, dtype in DTYPES.items():
        if device.type == "cpu" and name == "FP16":
            continue  # minutes, and nobody runs it
        rates[name] = gemm_rate(device.type, dtype)
        context.notebook.add(_figure("largest matrix product", name, 1e-12 * rates[name], "TFLOP/s"))
        rate = convolution_rate(device.type, dtype)
        context.notebook.add(_figure("large convolution, 3x3", name, 1e-12 * rate, "TFLOP/s"))
    if device.type == "cuda":
        with rounded_products():
            context.notebook.add(
                _figure("largest matrix product", "TF32", 1e-12 * gemm_rate("cuda", torch.float32), "TFLOP/s")
            )
    copied = copy_rate(device.type)
    context.notebook.add(_figure("copy within the device", "", 1e-9 * copied, "GB/s"))
    if device.type == "cuda":
        for name, rate in crossing_rates().items():
            context.notebook.add(_figure(name, "", 1e-9 * rate, "GB/s"))
    context.notebook.add(_figure("start of a kernel, one after another", "", 1e6 * launch_seconds(device.type), "us"))
    _frames(context, rates, copied)


def _frames(context: Context, rates: dict[str, float], copied: float) -> None:
    """The arithmetic and the traffic of a frame at those rates, of the models whose graphs are there."""
    for model in context.options.models:
        graph = context.folder / file_of(model, BY_SLUG["onnx-runtime-fp32"], "latency", "onnx")
        if not graph.is_file():
            continue
        proto = read_model(graph)
        flops, _ = count_flops(proto, shapes_for_one_stream(proto))
        weights = sum(int(np.prod(weight.dims)) for weight in proto.graph.initializer)
        subject = "{} {}x{}".format(label_of(model), *context.options.size)
        total = sum(flops.values())
        context.notebook.add(Figure(subject, "", "arithmetic of a frame", "GFLOP", 1e-9 * total))
        for name, rate in rates.items():
            size = DTYPES[name].itemsize
            context.notebook.add(
                Figure(subject, f"floor {name}", "arithmetic at the rate of products", "ms", 1e3 * total / rate, 1),
                Figure(subject, f"floor {name}", "weights read once", "ms", 1e3 * weights * size / copied, 1),
            )


def _figure(quantity: str, runs_on: str, value: float, unit: str) -> Figure:
    return Figure("", runs_on, quantity, unit, value)


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product (FP32 without TF32, unless told otherwise)."""
    size = GEMM_SIZE[device]
    one, other = torch.rand(2, size, size, device=device).to(dtype)
    return 2 * size**3 / best(lambda: one @ other, device)


def convolution_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large convolution in the layout that convolutions like best; FP32 without TF32."""
    batch, channels, height, width = CONVOLUTION[device]
    image = torch.rand(batch, channels, height, width, device=device).to(dtype, memory_format=torch.channels_last)
    kernel = torch.rand(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)

    def convolve() -> Tensor:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            return torch.conv2d(image, kernel, padding=1)

    return 2 * 9 * channels**2 * batch * height * width / best(convolve, device)


def copy_rate(device: str) -> float:
    """Bytes a second that a large copy reads and writes together."""
    source = torch.empty(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / best(lambda: target.copy_(source), device)


def crossing_rates() -> dict[str, float]:
    """Bytes a second from pinned host memory to the device, and back."""
    there = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    here = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    return {
        "copy to the device": here.numel() / best(lambda: there.copy_(here, non_blocking=True), "cuda"),
        "copy from the device": here.numel() / best(lambda: here.copy_(there, non_blocking=True), "cuda"),
    }


def launch_seconds(device: str, count: int = 1000) -> float:
    """Seconds of one small kernel among many: what a frame of many kernels costs at least without a CUDA graph."""
    number = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(count):
            number.add_(1)

    return best(many, device) / count


def best(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Seconds of the quickest run."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@contextmanager
def rounded_products() -> Iterator[None]:
    """TF32 in products, while the block lasts."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
