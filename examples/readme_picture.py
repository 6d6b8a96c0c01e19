"""The moving picture of the README: the shipped checkpoint on the shipped clip, as an animated WebP.

python examples/readme_picture.py --output docs/assets/overlay.webp
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from l2g.errors import L2GError
from l2g.runtime.assembler import FrameAssembler, letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.session import VideoSession
from l2g.runtime.video.overlay import OverlayPainter, OverlayStyle
from l2g.runtime.video.source import VideoSource, open_source

CLIP = Path(__file__).parent / "demo" / "clip.mp4"
# No rate in the line: how fast this machine is would make every picture another one.
STYLE = OverlayStyle(trails=20, hud=True)
LARGEST = 1_500_000  # bytes; a README should open at once


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny", help="a checkpoint, an .onnx, or the name of a shipped model")
    parser.add_argument("--output", type=Path, default=Path("docs/assets/overlay.webp"))
    parser.add_argument("--quality", type=int, default=75, help="of the WebP, 0 to 100 (default 75)")
    options = parser.parse_args(argv)
    try:
        with open_source(CLIP) as source, closing(open_backend(options.model, top_k=None)) as backend:
            write_webp(options.output, drawn_frames(backend, source), source.frame_rate, options.quality)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = options.output.stat().st_size
    print(f"{options.output}: {size / 1e6:.2f} MB")
    if size > LARGEST:
        print(f"error: at most {LARGEST / 1e6:g} MB expected; lower --quality", file=sys.stderr)
        return 1
    return 0


def drawn_frames(backend: Backend, source: VideoSource) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] RGB, one for each frame of the source."""
    letterbox = letterbox_of(backend.contract, source.height, source.width)
    assembler = FrameAssembler(letterbox, backend.contract)
    painter = OverlayPainter(backend.contract.class_names, STYLE)
    session = VideoSession(backend)
    session.join("clip")
    for frame in source:
        canvas = letterbox.to_canvas(frame.image, backend.contract.pad_value)
        outputs = session.step({"clip": canvas})["clip"]
        yield painter.draw(frame.image, assembler.assemble(outputs, frame.index, frame.time))


def write_webp(path: Path, frames: Iterable[np.ndarray], frame_rate: float, quality: int) -> None:
    """An endless loop of uint8 [H, W, 3] RGB frames. The file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with av.open(str(partial), "w", format="webp", options={"loop": "0"}) as container:
            # Every frame whole: "libwebp_anim" saves a tenth by leaving blocks of earlier frames in the picture.
            stream = container.add_stream("libwebp", rate=Fraction(frame_rate).limit_denominator(1001))
            stream.pix_fmt, stream.options = "yuv420p", {"quality": str(quality)}
            for number, image in enumerate(frames):
                if not number:
                    stream.height, stream.width = image.shape[:2]
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                picture.pts = number
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
