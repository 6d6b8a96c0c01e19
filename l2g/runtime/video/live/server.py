"""A page to look at while a run goes on: the overlay of every stream, its tracks and numbers; and /metrics.

Plain HTTP of the standard library: pictures as motion JPEG or one by one, the rest as JSON or server-sent events. It
listens on this machine alone unless it is told a host, and then asks for a token.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

import cv2

from l2g.errors import VideoError
from l2g.runtime.arrays import ByteArray
from l2g.runtime.video.live.board import Board

# At once; more are refused, each of them has a thread. What monitors a run is answered however many look.
MOST_CLIENTS, _ALWAYS = 32, ("/metrics", "/state")
# Of the pictures: a quality at which text is read, and so many a second at most.
_QUALITY, _MOST_RATE = 80, 25
_EVENT_SECONDS = 0.5
# Of a client that does not read, or says nothing.
_PATIENCE = 10.0


@contextmanager
def serve(where: str, token: str | None, out: Callable[[str], None]) -> Iterator[Board]:
    """A board, and a server of its page at `where`, PORT or HOST:PORT, while this lasts.

    out: is told the address, and what happens. VideoError where it cannot listen there, or beyond this machine without
    a token.
    """
    host, port = _place(where)
    if not _is_loopback(host) and not token:
        raise VideoError(f"--serve {where}: {host} can be reached from other machines; give a --token too")
    board = Board(out)
    try:
        server = _Server((host, port), board, token)
    except OSError as error:
        raise VideoError(
            f"--serve {where}: cannot listen there ({error.strerror or error}); give another port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="l2g-serve", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    out(f"the page is at http://{shown}:{server.server_address[1]}/" + ("?token=..." if token else ""))
    try:
        yield board
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, where: tuple[str, int], board: Board, token: str | None):
        if ":" in where[0]:
            self.address_family = socket.AF_INET6
        self.board, self.token = board, token
        self.ending = threading.Event()
        self.room = threading.BoundedSemaphore(MOST_CLIENTS)
        self.page = files("l2g.runtime.video.live").joinpath("page.html").read_bytes()
        super().__init__(where, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of the run."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE
    server_version, sys_version = "l2g", ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if not self._may(query.get("token", "")):
            return
        if parts.path in _ALWAYS:
            self._answer(parts.path, query)
            return
        if not self.server.room.acquire(blocking=False):
            self.send_error(503, "too many clients")
            return
        try:
            self._answer(parts.path, query)
        finally:
            self.server.room.release()

    def _may(self, given: str) -> bool:
        """Whether this client may look: it has the token, or none is asked for and it means this machine by name."""
        token = self.server.token
        if token:
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if any(hmac.compare_digest(text.encode(), token.encode()) for text in (given, bearer)):
                return True
            self.send_error(401, "a token is needed: /?token=TOKEN, or Authorization: Bearer TOKEN")
            return False
        # A page of another site could have its own name lead here.
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if name and _is_loopback(name):
            return True
        self.send_error(403, "call this machine localhost")
        return False

    def _answer(self, path: str, query: Mapping[str, str]) -> None:
        board, stream = self.server.board, query.get("stream", "")
        if path == "/":
            self._send("text/html; charset=utf-8", self.server.page)
        elif path == "/metrics":
            self._send("text/plain; version=0.0.4; charset=utf-8", board.metrics().encode())
        elif path == "/state":
            self._send("application/json", json.dumps(board.snapshot()).encode())
        elif path == "/events":
            self._events()
        elif path == "/picture" and stream in board.names():
            if (after := query.get("after")) is None:
                self._pictures(stream)
            else:
                self._picture(stream, after)
        else:
            self.send_error(404)

    def _send(self, kind: str, body: bytes, number: int | None = None) -> None:
        self._head(kind, len(body), number)
        self.wfile.write(body)

    def _head(self, kind: str, length: int | None = None, number: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; img-src 'self' blob:")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if number is not None:
            self.send_header("Picture-Number", str(number))
        self.end_headers()

    def _events(self) -> None:
        self._head("text/event-stream")
        while True:
            self.wfile.write(f"data: {json.dumps(self.server.board.snapshot())}\n\n".encode())
            if self.server.ending.wait(_EVENT_SECONDS):
                return

    def _picture(self, stream: str, after: str) -> None:
        """One picture and its number; 204 where there is none with another number than `after`, which may be that of an
        earlier run."""
        found = self.server.board.glance(stream)
        if found is None or str(found[0]) == after:
            self.send_response(204)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
        else:
            self._send("image/jpeg", _coded(found[1]), found[0])

    def _pictures(self, stream: str) -> None:
        board, number = self.server.board, 0
        self._head("multipart/x-mixed-replace; boundary=frame")
        board.watching(True)
        try:
            while not self.server.ending.is_set() and not self._is_gone():
                began = time.monotonic()
                found = board.picture_after(stream, number, _EVENT_SECONDS)
                if found is None:
                    continue
                number, picture = found
                data = _coded(picture)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                self.server.ending.wait(max(0.0, 1 / _MOST_RATE - (time.monotonic() - began)))
        finally:
            board.watching(False)

    def _is_gone(self) -> bool:
        """Whether the client has closed its end, which nobody notices who has nothing to write. OSError where it broke
        off."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(_PATIENCE)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told: the terminal is for the run, and addresses hold the token."""


def _coded(picture: ByteArray) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _place(where: str) -> tuple[str, int]:
    """ "8080" -> ("127.0.0.1", 8080); "[::]:80" -> ("::", 80)."""
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise VideoError(f"--serve {where} found, PORT or HOST:PORT expected, for example 8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
