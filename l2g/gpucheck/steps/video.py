"""H.264 in and out: on the processor, and in the GPU's own decoder and encoder where PyAV reaches them."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel

from l2g.data.synthetic.video import synthetic_video
from l2g.errors import L2GError
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.report import Figure

FRAMES = 60
ENCODERS = {"processor (libx264)": "libx264", "GPU (NVENC)": "h264_nvenc"}


def run(context: Context) -> None:
    height, width = context.options.size
    subject = f"H.264 {height}x{width}"
    pictures = synthetic_video("val", 0, frames=FRAMES, size=(height, width)).frames
    clip = context.folder / "data" / "clip.mp4"
    clip.parent.mkdir(parents=True, exist_ok=True)
    for name, encoder in ENCODERS.items():
        target = clip if encoder == "libx264" else clip.with_name(f"{encoder}.mp4")
        _measure(context, subject, name, "encoding", partial(encode, pictures, encoder, target))
    decoded: dict[str, np.ndarray] = {}
    for name, hardware in (("processor", False), ("GPU (NVDEC)", True)):

        def work(name: str = name, hardware: bool = hardware) -> int:
            count, decoded[name] = decode(clip, hardware)
            return count

        _measure(context, subject, name, "decoding", work)
    if len(decoded) == 2:
        one, other = (image.astype(int) for image in decoded.values())
        found = float(np.abs(one - other).max())
        figure = Figure(
            subject, "GPU (NVDEC)", "largest difference of a pixel", "of 255", found, limit=2.0, passed=found <= 2
        )
        context.notebook.add(figure)


def _measure(context: Context, subject: str, name: str, quantity: str, work: Callable[[], int]) -> None:
    """frames/s of `work`, which returns how many it has done; without a value, and why, where it cannot be done."""
    began = time.perf_counter()
    try:
        rate: float | None = work() / (time.perf_counter() - began)
        note = ""
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError, L2GError) as error:
        rate, note = None, f"not available: {error}"
    context.notebook.add(Figure(subject, name, quantity, "frames/s", rate, note=note))


def encode(pictures: np.ndarray, encoder: str, path: Path) -> int:
    """uint8 [T, H, W, 3] to an MP4 file; how many frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(30))
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return len(pictures)


def decode(path: Path, hardware: bool) -> tuple[int, np.ndarray]:
    """How many frames a clip has, and the luma of the last, uint8 [H, W]."""
    device = HWAccel("cuda", allow_software_fallback=False) if hardware else None
    count, luma = 0, None
    with av.open(str(path), "r", hwaccel=device) as container:
        for frame in container.decode(video=0):
            count += 1
            if count == FRAMES:
                luma = frame.to_ndarray(format="gray")[: frame.height]
    if luma is None:
        raise L2GError(f"{path}: {count} frames decoded, {FRAMES} expected")
    return count, luma
