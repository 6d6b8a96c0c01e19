"""Cameras on this machine, for tests, measurements and soaks: MPEG-TS over HTTP or RTSP, at a pace of their own, that
can be killed, stalled and started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICK = Fraction(1, 90_000)
# A picture's number stands below its middle in so many squares, black and white.
_BITS, _SHARE = 16, 12


class Camera:
    """Sends `images` over and over to whoever connects, `rate` a second, each client from the first image on.

    container: "mpegts", of which a frame is whole when the next one begins, or "nut", of which it is at once.
    A context manager. stall: nothing is sent any more, connections stay. kill: connections end, new ones are refused.
    start: as before, at the same address.
    """

    def __init__(self, images: Sequence[np.ndarray], rate: float, container: str = "mpegts"):
        self.rate, self._format = rate, container
        # When each picture of the last client was sent, on the monotonic clock.
        self.sent: list[float] = []
        self._images = images
        self._stalled, self._ended = threading.Event(), threading.Event()
        self._clients, self._port = [], 0
        self._server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}/live.ts"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        self._stalled.clear()
        self._ended = threading.Event()
        if self._server is None:
            self._server = socket.create_server(("127.0.0.1", self._port))
            self._port = self._server.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._server, self._ended), daemon=True).start()

    def stall(self):
        self._stalled.set()

    def kill(self):
        self._ended.set()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        self._clients.clear()

    def _accept(self, server, ended):
        while not ended.is_set():
            try:
                client = server.accept()[0]
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._send, args=(client, ended), daemon=True).start()

    def _send(self, client, ended):
        with contextlib.suppress(OSError, av.error.FFmpegError, ValueError):
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
            with av.open(_Sink(client), "w", format=self._format, options={"flush_packets": "1"}) as container:
                options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5", "crf": "18"}
                rate = Fraction(self.rate).limit_denominator(1000)
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width, stream.pix_fmt = *self._images[0].shape[:2], "yuv420p"
                stream.codec_context.time_base = TICK
                stream.codec_context.thread_count = 1
                began, count = time.monotonic(), 0
                self.sent = []
                while not ended.is_set():
                    if self._stalled.is_set():
                        time.sleep(0.02)
                        continue
                    image = numbered(self._images[count % len(self._images)], count)
                    self.sent.append(time.monotonic())
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                    frame.pts, frame.time_base = round((time.monotonic() - began) / TICK), TICK
                    container.mux(stream.encode(frame.reformat(format="yuv420p")))
                    count += 1
                    time.sleep(max(0.0, began + count / self.rate - time.monotonic()))


class _Sink:
    def __init__(self, client):
        self._client = client

    def write(self, data):
        self._client.sendall(data)
        return len(data)


def numbered(image: np.ndarray, number: int) -> np.ndarray:
    """A copy of uint8 [H, W, 3] with a number in it that a camera's picture still tells."""
    image = image.copy()
    height, width = image.shape[:2]
    side = width // _BITS
    for bit in range(_BITS):
        image[height - height // _SHARE :, bit * side : (bit + 1) * side] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """What `numbered` wrote there."""
    height, width = image.shape[:2]
    side = width // _BITS
    row = image[height - height // _SHARE // 2, : _BITS * side].mean(axis=1).reshape(_BITS, side)
    return sum(1 << bit for bit in range(_BITS) if np.median(row[bit]) > 127)


class CameraProcess:
    """A `Camera` of drawn video in a process of its own, so that its memory is not that of whoever looks."""

    def __init__(self, rate: float, seed: int):
        command = [sys.executable, "-m", "benchmarks.camera", str(rate), str(seed)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def tell(self, what: str) -> None:
        """ "kill", "stall" or "start"."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> CameraProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()


class RtspProcess:
    """The same of a real RTSP server (`benchmarks/rtsp_server.py`), which runs by the system's Python: killed outright,
    stalled by the system, so that connections are taken and nothing is ever answered.
    """

    def __init__(self, rate: float, seed: int):
        from l2g.data.synthetic.video import synthetic_video

        frames = [np.ascontiguousarray(frame) for frame in synthetic_video("long", seed, frames=60).frames]
        self._file = tempfile.NamedTemporaryFile(suffix=".rgb")  # noqa: SIM115 - `__exit__` does
        for frame in frames:
            self._file.write(frame.tobytes())
        self._file.flush()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        height, width = frames[0].shape[:2]
        self._command = [*_RTSP_SERVER, *map(str, (port, round(rate), width, height)), self._file.name]
        self.url = f"rtsp://127.0.0.1:{port}/live"
        self._start()

    @staticmethod
    def runs_here() -> bool:
        """Whether what it needs is installed."""
        needed = "import gi; gi.require_version('GstRtspServer', '1.0')"
        try:
            return subprocess.run([_RTSP_SERVER[0], "-c", needed], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def tell(self, what: str) -> None:
        """ "kill", "stall" or "start"."""
        if what == "stall":
            self._process.send_signal(signal.SIGSTOP)
        elif what == "kill":
            self._process.kill()
            self._process.wait()
        elif self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
        else:
            self._start()

    def __enter__(self) -> RtspProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.tell("kill")
        self._file.close()

    def _start(self) -> None:
        environment = {"PATH": os.environ.get("PATH", "")}  # without this environment's PYTHONPATH
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise OSError(f"{' '.join(self._command)} does not listen")


_RTSP_SERVER = ["/usr/bin/python3", str(Path(__file__).with_name("rtsp_server.py"))]


def main(rate: str, seed: str) -> None:
    from l2g.data.synthetic.video import synthetic_video

    with Camera(list(synthetic_video("long", int(seed), frames=60).frames), float(rate)) as camera:
        print(camera.url, flush=True)
        for line in sys.stdin:
            getattr(camera, line.strip())()


if __name__ == "__main__":
    main(*sys.argv[1:])
