"""A camera on this machine that shows blobs, and files over HTTP."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from benchmarks import camera
from tests.runtime.blobs import scene


class Camera(camera.Camera):
    """See `benchmarks.camera.Camera`."""

    def __init__(self, rate=20, size=(64, 96)):
        super().__init__(list(walk(*size)), rate)


class Files:
    """The files of a folder over HTTP, without ranges; a context manager. port: 0 is a free one."""

    def __init__(self, folder, port=0):
        self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def walk(height, width, frames=40):
    """A red block to the right and back, a green one that stays."""
    for i in range(frames):
        x = 4 + min(i, frames - i)
        yield scene(height, width, [(0, (x, 8, x + 24, 32)), (1, (60, 40, 84, 60))])
