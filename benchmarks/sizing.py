"""What cameras or an archive need, from what was measured on one device.

    python benchmarks/sizing.py --frame-ms 29.4 --cameras 100 --rate 10
    python benchmarks/sizing.py --frame-ms 29.4 --clips 1000000 --seconds 60 --rate 10 --days 7

frame-ms: of a device (a GPU, a CPU core) for a frame. use: how full devices may be; what is over is for peaks, restarts
and the fraction of a second that a live frame may wait. The formula is in docs/guides/sizing.md.
"""

from __future__ import annotations

import argparse
import math
import sys

FLOAT = 4


def devices(frames_per_second: float, frame_ms: float, use: float) -> int:
    """How many keep up."""
    return math.ceil(frames_per_second * frame_ms / 1e3 / use - 1e-9)


def state_bytes(queries: int = 300, width: int = 256, box: int = 4) -> int:
    """Of one stream: its queries and their boxes, float32."""
    return queries * (width + box) * FLOAT


def output_bytes(height: int, width: int, masks: int, size: int) -> int:
    """Masks of a frame, at a quarter of the canvas; size: bytes of a pixel."""
    return masks * (height // 4) * (width // 4) * size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame-ms", type=float, required=True)
    parser.add_argument("--decode-ms", type=float, default=0.0, help="of a CPU core for a frame of the source")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second that the model sees")
    parser.add_argument("--source-rate", type=float, default=30.0, help="frames a second that are decoded")
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--clips", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a clip")
    parser.add_argument("--days", type=float, default=7.0, help="within which the clips are to be done")
    parser.add_argument("--use", type=float, default=0.7)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args(argv)
    seen = options.cameras * options.rate
    decoded = options.cameras * options.source_rate
    if options.clips:
        video = options.clips * options.seconds
        print(f"{video * options.rate:.3g} frames, {video * options.rate * options.frame_ms / 86.4e6:.1f} device-days")
        seen, decoded = (video * rate / (86400 * options.days) for rate in (options.rate, options.source_rate))
    print(f"{seen:.0f} frames/s: {devices(seen, options.frame_ms, options.use)} devices of {options.frame_ms:g} ms")
    if options.decode_ms:
        print(f"{decoded:.0f} decoded/s: {devices(decoded, options.decode_ms, options.use)} CPU cores for decoding")
    each = state_bytes(options.queries)
    held = f", {2 * each * options.cameras / 1e6:.1f} MB in two sets of buffers" if options.cameras else ""
    print(f"state: {each / 1e3:.0f} kB a stream{held};")
    print(f"  {2 * each * seen / 1e6:.0f} MB/s if it left the device between frames, in and out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
