"""How old a result is when the model has half of the camera's rate.

    python benchmarks/live.py [--seconds 20] [--rate 20] [--model l2g_tiny]

Side by side, on a camera of this machine (NUT over HTTP) whose pictures carry their number: `l2g run` under
`--policy latest` and under `all`; a loop over OpenCV's VideoCapture that calls the model; and a loop over FFmpeg's
frames that calls the bare graph or checkpoint. The model's step is stretched to two frames of the camera. The age is
from the moment at which a picture is sent to the moment at which its result is there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing

import av
import cv2
import numpy as np

from benchmarks.camera import Camera, number_of
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import L2GError
from l2g.runtime.arrays import BoolArray, ByteArray
from l2g.runtime.assembler import FrameAssembler, letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.video.job import FlowOptions, process_video
from l2g.runtime.video.live.watcher import Progress, Watcher
from l2g.runtime.video.source import Selection, open_source

Ages = list[float]


class Stretched:
    """A backend whose steps take so many seconds, if they do not take longer."""

    def __init__(self, backend: Backend, seconds: float):
        self.contract, self._backend, self._seconds = backend.contract, backend, seconds
        self.read_state, self.write_state, self.close = backend.read_state, backend.write_state, backend.close

    def step(self, frames: ByteArray, reset: BoolArray) -> FrameOutputs:
        end = time.monotonic() + self._seconds
        outputs = self._backend.step(frames, reset)
        time.sleep(max(0.0, end - time.monotonic()))
        return outputs


class _Ages(Watcher):
    def __init__(self, camera: Camera):
        self._camera, self.ages = camera, Ages()

    def result(self, progress: Progress) -> None:
        # Every picture that is sent is decoded, from the first on: its index is its number.
        self.ages.append(time.monotonic() - self._camera.sent[progress.result.index])


def through_l2g(policy: str) -> Callable[[Camera, Backend, float], Ages]:
    def run(camera: Camera, backend: Backend, seconds: float) -> Ages:
        watcher = _Ages(camera)
        with open_source(camera.url, Selection(end=seconds)) as source, tempfile.TemporaryDirectory() as folder:
            process_video(backend, source, folder, overlay=False, flow=FlowOptions(policy), watcher=watcher)
        return watcher.ages

    return run


def through_opencv(camera: Camera, backend: Backend, seconds: float) -> Ages:
    capture = cv2.VideoCapture(camera.url)
    try:
        return _loop(camera, backend, seconds, lambda: _rgb(capture.read()[1]))
    finally:
        capture.release()


def through_ffmpeg(camera: Camera, backend: Backend, seconds: float) -> Ages:
    with av.open(camera.url) as container:
        frames = container.decode(video=0)
        return _loop(camera, backend, seconds, lambda: next(frames).to_ndarray(format="rgb24"))


def _rgb(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _loop(camera: Camera, backend: Backend, seconds: float, read: Callable[[], np.ndarray]) -> Ages:
    """Read, step, assemble, one after the other."""
    ages, assembler, end = Ages(), None, time.monotonic() + seconds
    while time.monotonic() < end:
        picture = read()
        number, first = number_of(picture), assembler is None
        if assembler is None:
            box = letterbox_of(backend.contract, *picture.shape[:2])
            assembler = FrameAssembler(box, backend.contract)
        outputs = backend.step(assembler.letterbox.to_canvas(picture)[None], np.array([first]))
        assembler.assemble(outputs.stream(0), number, 0.0)
        ages.append(time.monotonic() - camera.sent[number])
    return ages


SIDES = {
    "l2g run, latest": through_l2g("latest"),
    "l2g run, all": through_l2g("all"),
    "OpenCV VideoCapture": through_opencv,
    "FFmpeg, bare model": through_ffmpeg,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each side (default 20)")
    parser.add_argument("--rate", type=float, default=20.0, help="of the camera (default 20)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="NAME", help="(default: all)")
    args = parser.parse_args(argv)
    images = list(synthetic_video("long", 3, frames=100).frames)
    frame = 1000 / args.rate
    print(f"camera {args.rate:g}/s, a frame is {frame:g} ms; model {args.rate / 2:g}/s; {args.seconds:g} s each")
    print(f"{'':22}{'results':>9}{'median ms':>11}{'p99 ms':>9}{'last ms':>9}{'p99 in frames':>15}")
    try:
        with closing(open_backend(args.model, top_k=None)) as opened:
            for name in args.sides:
                with Camera(images, args.rate, "nut") as camera:
                    ages = 1000 * np.array(SIDES[name](camera, Stretched(opened, 2 / args.rate), args.seconds))
                # The first second is that of opening: what came meanwhile waits.
                late = ages[min(len(ages) - 1, round(args.rate / 2)) :]
                p99 = np.percentile(late, 99)
                print(
                    f"{name:22}{len(ages):>9}{np.median(late):>11.0f}{p99:>9.0f}{late[-1]:>9.0f}"
                    f"{p99 * args.rate / 1000:>15.1f}",
                    flush=True,
                )
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
