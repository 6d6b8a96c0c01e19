"""The page, its pictures and numbers: over HTTP, and in a real browser."""

import http.client
import json
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.video.job import process_videos
from l2g.runtime.video.live.board import _GLANCE, Board
from l2g.runtime.video.live.server import MOST_CLIENTS, serve
from l2g.runtime.video.live.watcher import Progress
from l2g.runtime.video.source import Selection, VideoSource
from tests.runtime.blobs import BlobBackend
from tests.runtime.browser import BROWSER, Browser
from tests.runtime.clips import moving_scenes

pytestmark = pytest.mark.alone


class Camera(VideoSource):
    """Endless frames out of memory."""

    height, width, frame_rate, is_live = 320, 480, 20.0, True

    def __init__(self, name):
        super().__init__(name, Selection())
        self._ended = threading.Event()

    def stop(self):
        self._ended.set()

    def _decode(self):
        images, index = [image.repeat(5, 0).repeat(5, 1) for image in moving_scenes(30)], 0
        while not self._ended.wait(0.05):
            yield index, index / 20, lambda image=images[index % 30]: image
            index += 1


@pytest.fixture
def port(tmp_path):
    """Of a page over two cameras at work."""
    said, cameras = [], [Camera("gate"), Camera("yard")]
    with serve("0", None, said.append) as board:
        jobs = [(camera, tmp_path / camera.name) for camera in cameras]
        work = threading.Thread(
            target=process_videos, args=(BlobBackend(), jobs), kwargs={"overlay": False, "watcher": board}
        )
        work.start()
        limit = time.monotonic() + 10
        while (
            not all(stream["done"] for stream in board.snapshot()["streams"] or [{"done": 0}])
            and time.monotonic() < limit
        ):
            time.sleep(0.02)
        board.say("gate: lost (a test); it is opened again")
        yield int(re.search(r"http://127.0.0.1:(\d+)/", said[0])[1])
        for camera in cameras:
            camera.stop()
        work.join(10)
    assert not work.is_alive()


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_state_and_metrics_tell_the_same(port):
    state = json.loads(get(port, "/state").read())
    assert [stream["name"] for stream in state["streams"]] == ["gate", "yard"]
    gate = state["streams"][0]
    assert {track["name"] for track in gate["tracks"]} == {"red", "green"}
    assert gate["came"] == gate["done"] + gate["dropped"]
    assert 0 < gate["age_p50"] <= gate["age_p99"] < 1
    assert state["notes"][-1]["text"].startswith("gate: lost")
    text = get(port, "/metrics").read().decode()
    values = dict(re.findall(r"^(l2g_\S+) (\S+)$", text, re.MULTILINE))
    assert float(values['l2g_frames_done_total{stream="gate"}']) >= gate["done"]
    assert float(values['l2g_tracks{stream="yard"}']) == 2
    assert float(values["l2g_resident_memory_bytes"]) > 1e7
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) l2g_\w+ .+|l2g_\w+(\{[^{}]*\})? [-+.e\d]+", line)


def test_events_come_one_after_the_other(port):
    response = get(port, "/events")
    assert response.headers["Content-Type"] == "text/event-stream"
    told = []
    while len(told) < 3:
        line = response.readline()
        if line.startswith(b"data: "):
            told.append(json.loads(line[6:])["streams"][0]["done"])
    assert told[0] < told[1] < told[2]


def test_pictures_are_the_overlay(port):
    response = get(port, "/picture?stream=yard")
    pictures = []
    while len(pictures) < 3:
        line = response.readline()
        if line.startswith(b"Content-Length"):
            length = int(line.split()[1])
            response.readline()
            pictures.append(cv2.imdecode(np.frombuffer(response.read(length), np.uint8), cv2.IMREAD_COLOR))
    assert {picture.shape for picture in pictures} == {(320, 480, 3)}
    assert not np.array_equal(pictures[0], pictures[2])
    # Of the green block that stays, tinted: it is not the colour that the camera sees.
    assert np.abs(pictures[0][285, 410].astype(int) - (40, 200, 30)).max() > 30


def test_clients_that_went_away_while_nothing_came_make_room():
    with serve("0", None, (said := []).append) as board:
        port = int(re.search(r":(\d+)/", said[0])[1])
        board.expect(["gate"])
        clients = []
        for _ in range(MOST_CLIENTS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/picture?stream=gate")
            clients.append((connection, connection.getresponse()))
        # Who monitors the run is answered all the same.
        assert [get(port, path).status for path in ("/picture?stream=gate", "/metrics", "/state")] == [503, 200, 200]
        assert board.wants_pictures
        for connection, response in clients:
            response.close()
            connection.close()
        limit = time.monotonic() + 10
        while board.wants_pictures:
            assert time.monotonic() < limit, "pictures are still drawn for nobody"
            time.sleep(0.02)
        assert get(port, "/picture?stream=gate").status == 200


def progress(index, picture, stream="gate"):
    result = FrameResult(index, index / 10, (), 4, 6, ("one",))
    return Progress(stream, result, picture, 0.1, index + 1, 0, 0, 0, None)


def test_a_result_without_a_picture_wakes_nobody():
    board = Board(print)
    one, two = (np.full((4, 6, 3), value, np.uint8) for value in (1, 2))
    board.result(progress(0, one))
    assert board.picture_after("gate", 0, 0) == (1, one)
    board.result(progress(1, None))
    began = time.monotonic()
    assert board.picture_after("gate", 0, 0.2) is None
    assert time.monotonic() - began >= 0.2
    threading.Timer(0.1, board.result, [progress(2, two)]).start()
    assert board.picture_after("gate", 1, 5) == (2, two)
    assert time.monotonic() - began < 5


def test_pictures_one_by_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("l2g.runtime.video.live.board.time", SimpleNamespace(monotonic=lambda: now[0]))
    with serve("0", "word", (said := []).append) as board:
        address = "/picture?stream=&token=word&after={}"
        port = int(re.search(r":(\d+)/", said[0])[1])
        board.expect([""])
        assert not board.wants_pictures
        assert get(port, address.format(0)).status == 204
        assert board.wants_pictures  # when the next one is asked for it should be there
        for number in (1, 2):
            picture = np.full((16, 32, 3), (200, 100, 50 * number), np.uint8)
            board.result(progress(number, picture, ""))
            response = get(port, address.format(number - 1))
            assert (response.status, response.headers["Picture-Number"]) == (200, str(number))
            assert response.headers["Content-Type"] == "image/jpeg"
            shown = cv2.imdecode(np.frombuffer(response.read(), np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(shown[..., ::-1].astype(int) - picture).max() < 6
            assert get(port, address.format(number)).status == 204
        # Of an earlier run, or of none.
        assert [get(port, address.format(after)).status for after in ("70", "x", "")] == [200, 200, 200]
        assert get(port, "/picture?stream=&after=0").status == 401
        for seconds, wanted in ((0.9 * _GLANCE, True), (0.2 * _GLANCE, False)):
            now[0] += seconds
            assert board.wants_pictures == wanted


def test_what_is_not_there_and_who_may_not(port):
    assert get(port, "/picture?stream=nobody").status == 404
    assert get(port, "/../etc/passwd").status == 404
    assert get(port, "/", Host="elsewhere.example").status == 403
    response = get(port, "/", Host=f"localhost:{port}")
    assert response.status == 200
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_a_token_is_asked_for():
    said = []
    with serve("127.0.0.1:0", "secret", said.append):
        port = int(re.search(r":(\d+)/", said[0])[1])
        assert "secret" not in said[0]
        assert [get(port, path).status for path in ("/", "/?token=wrong", "/?token=secret")] == [401, 401, 200]
        assert get(port, "/metrics", Authorization="Bearer secret").status == 200


def test_places_that_do_not_fit():
    for where, message in (("0.0.0.0:0", "give a --token"), ("x", "PORT or HOST:PORT"), ("1:99999", "expected")):
        with pytest.raises(VideoError, match=message), serve(where, None, print):
            pass
    with serve("0", None, (said := []).append):
        taken = re.search(r":(\d+)/", said[0])[1]
        with pytest.raises(VideoError, match="cannot listen there"), serve(taken, None, print):
            pass


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_eight_streams_in_two_tabs(tmp_path):
    """It opens six connections to one machine."""
    images, ended = moving_scenes(30), threading.Event()

    def work(board):
        index = 0
        while not ended.wait(0.05):
            for stream in streams:
                board.result(progress(index, images[index % 30] if board.wants_pictures else None, stream))
            index += 1

    streams = [f"camera {number}" for number in range(8)]
    with serve("127.0.0.1:0", "a&b", (said := []).append) as board, Browser(tmp_path / "user") as browser:
        board.expect([*streams, "never came"])
        thread = threading.Thread(target=work, args=[board])
        thread.start()
        try:
            for _ in range(2):
                browser.open(re.search(r"http://127.0.0.1:\d+/", said[0])[0] + "?token=a%26b")
                browser.wait_for("document.images.length == 9")
                browser.wait_for("[...document.images].filter(image => image.naturalWidth == 96).length == 8")
                addresses = "[...document.images].map(image => image.src)"
                before = browser.evaluate(addresses)
                changed = f"{addresses}.filter((address, i) => address != {json.dumps(before)}[i]).length"
                browser.wait_for(f"{changed} == 8")
                assert browser.evaluate("document.getElementById('state').textContent") == "live"
                browser.new_tab()
        finally:
            ended.set()
            thread.join()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_it(port, tmp_path):
    """`L2G_PICTURES=docs/pictures` keeps the picture for the guide."""
    with Browser(tmp_path / "user") as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait_for("document.querySelectorAll('section li').length == 4")
        browser.wait_for("[...document.images].every(image => image.naturalWidth == 480)")
        assert browser.evaluate("document.getElementById('state').textContent") == "live"
        titles = "[...document.querySelectorAll('h2')].map(title => title.textContent)"
        assert browser.evaluate(titles) == ["gate", "yard"]
        assert "gate: lost (a test)" in browser.evaluate("document.getElementById('notes').textContent")
        assert re.fullmatch(r"(red|green) #[12] 0\.\d\d", browser.evaluate("document.querySelector('li').textContent"))
        done = "+[...document.querySelectorAll('dd')][3].textContent"
        before = browser.evaluate(done)
        browser.wait_for(f"{done} > {before}")
        time.sleep(1)
        png = browser.screenshot()
        browser.resize(390, 844)  # a phone
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        edges = "[...document.querySelectorAll('section')].map(card => card.getBoundingClientRect().right)"
        assert all(300 < right <= 390 for right in browser.evaluate(edges))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2] == (560, 960)
    ground = np.abs(image.astype(int) - (120, 120, 120)).max(2) < 20
    assert [ground[:, :480].sum() > 30_000, ground[:, 480:].sum() > 30_000] == [True, True]
    if folder := os.environ.get("L2G_PICTURES"):
        Path(folder, "live.png").write_bytes(png)
