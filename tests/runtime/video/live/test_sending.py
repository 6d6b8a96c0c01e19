"""Results sent on: what arrives is what frames.jsonl says, whoever is away for a while, and nobody is held up."""

import asyncio
import json
import queue
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from l2g.cli.running import run as run_video
from l2g.errors import VideoError
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.video.live import sending
from l2g.runtime.video.live.sending import open_sender
from l2g.runtime.video.live.watcher import Progress, Together, Watcher
from tests.runtime.blobs import BlobBackend
from tests.runtime.clips import moving_scenes, write_clip

pytestmark = pytest.mark.alone


def progress(index, stream=""):
    result = FrameResult(index, index / 10, (), 4, 6, ("one",))
    return Progress(stream, result, None, 0.1, index + 1, 0, 0, 0, None)


def line(index, stream=""):
    return ({"stream": stream} if stream else {}) | {"index": index, "time": index / 10, "tracks": []}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


class Web:
    """A web address that keeps what it is sent; `answers` are the codes of the next requests, then 204.

    It counts who has `asked`, answers while its `gate` is open, and `leads` elsewhere where that is set.
    """

    def __init__(self, port=0, answers=()):
        self.lines, self.headers, self.answers = [], [], list(answers)
        self.asked, self.gate = 0, threading.Event()
        self.gate.set()
        self.leads = None
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.asked += 1
                web.gate.wait(10)
                code = web.answers.pop(0) if web.answers else 204
                if code == 204:
                    web.headers.append(dict(self.headers))
                    web.lines += [json.loads(text) for text in body.decode().splitlines()]
                self.send_response(code)
                if web.leads:
                    self.send_header("Location", web.leads)
                self.end_headers()

            def do_GET(self):
                web.asked += 1
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/results"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def broker(port):
    """A real MQTT broker."""
    from amqtt.broker import Broker

    started, ended, loops = threading.Event(), threading.Event(), queue.Queue()

    async def serve():
        config = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        stop = asyncio.Event()
        loops.put((asyncio.get_running_loop(), stop))
        running = Broker(config)
        await running.start()
        started.set()
        await stop.wait()
        await running.shutdown()

    def work():
        asyncio.run(serve())
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    assert started.wait(10)
    loop, stop = loops.get()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        assert ended.wait(10)


@contextmanager
def listener(port):
    """(topic, line) of everything that the broker is given."""
    from paho.mqtt import client as mqtt

    heard, ready = queue.Queue(), threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _u, message: heard.put((message.topic, json.loads(message.payload)))
    client.on_connect = lambda *_: client.subscribe("l2g/#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(10)
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_web_address_gets_every_line_in_order(monkeypatch):
    monkeypatch.setenv(sending.TOKEN_VARIABLE, "secret")
    web, said = Web(), []
    sender = open_sender(web.url, said.append)
    for index in range(250):
        sender.result(progress(index, "gate"))
    sender.close()
    web.close()
    assert web.lines == [line(index, "gate") for index in range(250)]
    assert not said
    assert web.headers[0]["Authorization"] == "Bearer secret"
    assert web.headers[0]["Content-Type"] == "application/x-ndjson"


def test_an_address_that_is_away_gets_them_later(monkeypatch):
    monkeypatch.setattr(sending, "MOST_LINES", 20)
    port, said = free_port(), []
    sender = open_sender(f"http://user:secret@127.0.0.1:{port}/x", said.append)
    for index in range(30):
        sender.result(progress(index))
    until(lambda: said)
    web = Web(port, answers=[503])
    until(lambda: len(said) == 2)
    sender.result(progress(30))
    sender.close()
    web.close()
    # The oldest of those that waited are gone, nothing twice, and it was said.
    assert web.lines == [line(index) for index in range(10, 31)]
    assert "cannot be reached" in said[0]
    assert "secret" not in said[0]
    assert web.headers[0]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert said[1].endswith("reached again; 10 results were too old to be sent")


def test_what_a_slow_address_misses_is_counted_and_said(monkeypatch):
    monkeypatch.setattr(sending, "MOST_LINES", 20)
    web, said = Web(), []
    sender = open_sender(web.url, said.append)

    def hold(first):
        """While one line is on its way 30 more come, of which 20 are kept."""
        web.gate.clear()
        before, arrived = web.asked, len(web.lines)
        sender.result(progress(first))
        until(lambda: web.asked > before)
        for index in range(first + 1, first + 31):
            sender.result(progress(index))
        web.gate.set()
        until(lambda: len(web.lines) == arrived + 21)

    hold(0)
    assert web.lines == [line(index) for index in (0, *range(11, 31))]
    assert said == [f"{web.url}: slow; 10 results were too old to be sent"]
    # Soon again it is not said again, but it is not forgotten either.
    hold(100)
    assert len(said) == 1
    sender.close()
    web.close()
    assert web.lines[21:] == [line(index) for index in (100, *range(111, 131))]
    assert said[1:] == [f"{web.url}: 10 results were not sent"]


def test_an_address_that_refuses_does_not_hold_up_the_rest():
    web, said = Web(answers=[400]), []
    sender = open_sender(web.url, said.append)
    sender.result(progress(0))
    until(lambda: said)
    sender.result(progress(1))
    sender.close()
    web.close()
    assert web.lines == [line(1)]
    assert "1 results were refused (400" in said[0]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_an_address_that_leads_elsewhere_refuses_and_says_where(code):
    other, said = Web(), []
    web = Web(answers=[code])
    web.leads = other.url.replace("//", "//me:secret@")
    sender = open_sender(web.url.replace("//", "//user:pass@"), said.append)
    sender.result(progress(0))
    until(lambda: said)
    sender.close()
    web.close()
    other.close()
    assert len(said) == 1
    assert re.search(rf": 1 results were refused \({code} [\w ]+; give the address http:", said[0])
    assert said[0].endswith(f"{other.url.replace('//', '//me:***@')})")
    assert not other.asked
    assert "pass" not in said[0]


def test_a_redirect_within_an_address_is_said_whole():
    web, said = Web(answers=[302]), []
    web.leads = "/login"
    sender = open_sender(web.url, said.append)
    sender.result(progress(0))
    until(lambda: said)
    sender.close()
    web.close()
    assert said[0].endswith(f"give the address {web.url.removesuffix('results')}login)")


def test_the_end_does_not_wait_for_an_address_that_is_silent():
    with socket.socket() as silent:  # it takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        said = []
        sender = open_sender(f"http://127.0.0.1:{silent.getsockname()[1]}/", said.append)
        sender.result(progress(0))
        began = time.monotonic()
        sender.close()
        assert time.monotonic() - began < 1.6
    assert said[-1].endswith("1 results were not sent")


def test_a_broker_gets_every_line_under_the_streams_topic():
    port = free_port()
    with broker(port), listener(port) as heard:
        sender = open_sender(f"mqtt://127.0.0.1:{port}/l2g/hall", [].append)
        for index in range(120):
            sender.result(progress(index, "a/b"))
        sender.result(progress(7))
        got = [heard.get(timeout=10) for _ in range(121)]
        sender.close()
    assert got[:120] == [("l2g/hall/a_b", line(index, "a/b")) for index in range(120)]
    assert got[120] == ("l2g/hall", line(7))


def test_a_broker_that_comes_late_gets_what_waited():
    port, said = free_port(), []
    sender = open_sender(f"mqtt://127.0.0.1:{port}/l2g", said.append)
    sender.result(progress(0))
    until(lambda: said)
    assert "cannot be reached" in said[0]
    with broker(port), listener(port) as heard:
        sender.result(progress(1))
        assert {heard.get(timeout=15)[1]["index"] for _ in range(2)} == {0, 1}
        sender.close()


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "mqtt://host", "http://", "mqtt://host:port/topic", "http://[::1", "x"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(VideoError, match="expected"):
        open_sender(url, print)


def test_several_look_on_together():
    class Counts(Watcher):
        def __init__(self, wants):
            self.wants_pictures, self.seen = wants, []

        def result(self, progress):
            self.seen.append(progress)

        def say(self, text):
            self.seen.append(text)

    one, two = Counts(False), Counts(True)
    both = Together([one, two])
    both.result("result")
    both.say("text")
    assert one.seen == two.seen == ["result", "text"]
    assert both.wants_pictures
    assert not Together([one]).wants_pictures


def test_the_command_sends_what_it_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "l2g.runtime.backends.open.open_backend", lambda *_, top_k, **__: BlobBackend((64, 96), top_k=top_k)
    )
    web = Web()
    clip = write_clip(tmp_path / "a.mp4", np.stack(moving_scenes(6, 64, 96)))
    options = ["--model", "m", "--input", str(clip), "--output", str(tmp_path / "out"), "--send", web.url]
    assert run_video.main(options) == 0
    web.close()
    written = [json.loads(text) for text in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    assert web.lines == written
    assert len(written) == 6
    assert written[0]["tracks"]
