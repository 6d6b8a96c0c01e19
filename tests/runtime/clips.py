"""Small videos made for a test, with chosen times, sizes and damage."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from tests.runtime.blobs import scene

TICK = Fraction(1, 90_000)


def write_clip(
    path,
    images,
    times=None,
    codec="libx264",
    pix_fmt="yuv420p",
    options=None,
    container_options=None,
    tick=TICK,
    rate=10,
    pixel_aspect=None,
):
    """Encode uint8 [H, W, 3] images; `times` in seconds, 10 frames a second unless given."""
    times = np.arange(len(images)) / 10 if times is None else times
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "12", "g": "5"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        stream.codec_context.time_base = tick
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            for packet in stream.encode(frame.reformat(format=pix_fmt)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def moving_scenes(count, height=64, width=96):
    """A red block that moves right, a green one that stays."""
    return [scene(height, width, [(0, (4 + 2 * i, 8, 28 + 2 * i, 32)), (1, (60, 40, 84, 60))]) for i in range(count)]


def noisy(images, seed=0):
    """The same with noise, so that the encoded file is large enough to be cut or damaged in the middle."""
    rng = np.random.default_rng(seed)
    return [
        np.clip(image.astype(int) + rng.integers(-40, 40, image.shape), 0, 255).astype(np.uint8) for image in images
    ]


def rotate_mp4(path, matrix):
    """Write the display matrix (a, b, c, d) of QuickTime's track header over the identity that the muxer wrote."""
    data = bytearray(path.read_bytes())
    fixed = [round(value * 65536) for value in matrix]
    identity = b"".join(value.to_bytes(4, "big") for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    at = data.index(identity, data.index(b"tkhd"))
    for position, value in zip((0, 4, 12, 16), fixed, strict=True):
        data[at + position : at + position + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def cut(path, share):
    """Keep the first `share` of the bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def decode(path):
    """Every frame of a BT.709 video as uint8 [H, W, 3], its times, and what the container says of the stream."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = {
            "codec": stream.codec_context.name,
            "pix_fmt": stream.codec_context.pix_fmt,
            "duration": float(stream.duration * stream.time_base) if stream.duration else None,
        }
        frames = list(container.decode(stream))
        named = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"}
        images = [frame.reformat(format="rgb24", **named).to_ndarray() for frame in frames]
        return images, [frame.time for frame in frames], facts
