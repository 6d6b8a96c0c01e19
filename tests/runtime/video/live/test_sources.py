"""Live sources: limits of time, coming back, and an end at any moment."""

import os
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from itertools import islice, pairwise

import pytest

from l2g.errors import VideoError
from l2g.runtime.video.live.address import LiveOptions, ffmpeg_options, live_address, without_password
from l2g.runtime.video.live.source import LiveSource
from l2g.runtime.video.source import Selection, input_name, open_source, open_sources
from tests.runtime.cameras import Camera, Files
from tests.runtime.clips import cut, moving_scenes, noisy, write_clip

pytestmark = pytest.mark.alone

QUICK = LiveOptions(open_timeout=4, read_timeout=0.7, reconnect=8, longest_pause=0.5)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rtsp://camera/1", "stream"),
        ("srt://0.0.0.0:9000?mode=listener", "stream"),
        ("UDP://239.0.0.1:1234", "stream"),
        ("-", "pipe"),
        ("film.mp4", None),
        ("nonsense://x", None),
    ],
)
def test_what_is_live(text, kind):
    address = live_address(text)
    assert (address and address.kind) == kind


def test_a_file_is_a_file_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", moving_scenes(3)).rename(tmp_path / "0")
    with open_source("0") as source:
        assert len(list(source)) == 3
        assert not source.is_live


@pytest.mark.parametrize("text", ["63", "/dev/video63", "/dev/v4l/by-id/usb-none"])
def test_a_camera_that_is_not_there_is_said_in_a_camera_s_words(text):
    with pytest.raises(VideoError) as error:
        open_source(text)
    assert "camera" in str(error.value)
    assert "file" not in str(error.value)


def test_passwords_are_not_told():
    with pytest.raises(VideoError) as error:
        open_source("http://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(error.value)
    assert "does the source send?" in str(error.value)
    # One that is not live.
    with pytest.raises(VideoError, match=r"^ftp://me:\*\*\*@127.0.0.1:9/x.mp4: cannot be opened") as error:
        open_source("ftp://me:secret@127.0.0.1:9/x.mp4")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("rtsp://me:secret@host/a@b", "rtsp://me:***@host/a@b"),
        ("rtsp://admin:se@cr:et@10.0.0.5/s", "rtsp://admin:***@10.0.0.5/s"),
        ("rtsp://me@office:secret@host", "rtsp://me@office:***@host"),
        ("not rtsp://:secret@host and http://me:secret@host?a@b", "not rtsp://:***@host and http://me:***@host?a@b"),
        ("srt://host:9000?passphrase=secret&mode=caller", "srt://host:9000?passphrase=***&mode=caller"),
        ("http://host/cgi?PWD=secret", "http://host/cgi?PWD=***"),
        ("http://host/cgi?user=a&pass=secret&id=1", "http://host/cgi?user=a&pass=***&id=1"),
        ("rtsp://host/user=a_password=sec/ret&pwd=secret", "rtsp://host/user=a_password=***&pwd=***"),
        ("'http://host/cgi?pwd=secret': lost", "'http://host/cgi?pwd=***': lost"),
        # Nothing secret in these.
        ("rtsp://host:554/a@b", "rtsp://host:554/a@b"),
        ("rtsp://me@host:554/a", "rtsp://me@host:554/a"),
        ("rtsp://[::1]:554/a?b@c", "rtsp://[::1]:554/a?b@c"),
        ("http://host/map?compass=north", "http://host/map?compass=north"),
        ("pwd=1/a.mp4", "pwd=1/a.mp4"),
        ("/data/pwd=1/my_pass=2/a.mp4: no such file", "/data/pwd=1/my_pass=2/a.mp4: no such file"),
    ],
)
def test_what_is_secret_of_an_address_is_left_out(text, without):
    assert without_password(text) == without


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("rtspsrc location=rtsp://me:secret@cam/s ! decodebin", "rtspsrc location=rtsp://me:***@cam/s"),
        ("rtspsrc location=rtsp://me:se!cret@cam/s\n! decodebin", "rtspsrc location=rtsp://me:***@cam/s"),
        ('rtspsrc location=rtsp://cam/s user-pw="my secret" ! x', "rtspsrc location=rtsp://cam/s user-pw=***"),
        ("rtspsrc user-pw='my secret' name=a ! x", "rtspsrc user-pw=*** name=a"),
        ("rtspsrc user-pw = secret name=a ! x", "rtspsrc user-pw = *** name=a"),
        ("rtspsrc user-pw=my\\ se/cr&et name=a ! x", "rtspsrc user-pw=*** name=a"),
        (r'rtspsrc user-pw="a\"b c" proxy-pw="d\\" name=a ! x', "rtspsrc user-pw=*** proxy-pw=*** name=a"),
        ('rtspsrc user-pw="my ! secret" ! x', "rtspsrc user-pw=***"),
        ('rtspsrc user-pw="not closed ! x', "rtspsrc user-pw=***"),
    ],
)
def test_a_pipeline_s_name_holds_no_password(pipeline, name):
    address = live_address(pipeline)
    assert (address.name, address.url) == (name, pipeline)
    assert input_name(pipeline) == name


def test_options_reach_ffmpeg():
    made = ffmpeg_options(live_address("rtsp://c/1"), LiveOptions(transport="udp", options={"timeout": "5"}))
    assert made["rtsp_transport"] == "udp"
    assert made["timeout"] == "5"
    for wrong in ({"transport": "pigeon"}, {"open_timeout": 0}, {"read_timeout": float("nan")}, {"reconnect": -2}):
        with pytest.raises(VideoError, match="found"):
            LiveOptions(**wrong)


def test_a_silent_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(VideoError, match="does the source send"):
            open_source(f"http://127.0.0.1:{server.getsockname()[1]}/x", live=LiveOptions(open_timeout=0.6))
        assert 0.5 < time.monotonic() - began < 3


def test_several_open_at_the_same_time():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(VideoError):
            open_sources([url] * 4, live=LiveOptions(open_timeout=1, reconnect=0))
        assert time.monotonic() - began < 2.5


def test_frames_come_with_times_of_their_own():
    with Camera(rate=20) as camera, open_source(camera.url, Selection(end=1.0), live=QUICK) as source:
        assert source.is_live
        assert (source.height, source.width) == (64, 96)
        frames = list(source)
    assert 15 <= len(frames) <= 24
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(one.time < other.time for one, other in pairwise(frames))
    assert source.damage is None


@pytest.mark.parametrize("lose", ["kill", "stall"])
def test_a_source_that_is_lost_is_found_again(lose):
    said = []
    with Camera(rate=20) as camera, open_source(camera.url, Selection(end=6.0), live=QUICK) as source:
        source.say = said.append
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 10:
                getattr(camera, lose)()
                threading.Timer(1.2, camera.start).start()
    assert {frame.connection for frame in frames} == {0, 1}
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    gap = max(b - a for a, b in pairwise(times))
    assert gap > 0.9  # the clock went on meanwhile
    assert "lost (" in said[0]
    assert "found again after" in said[-1]
    assert source.damage is None


def test_a_source_that_stays_away_is_given_up_with_one_word():
    options = LiveOptions(open_timeout=1, read_timeout=0.5, reconnect=2, longest_pause=0.2)
    with Camera(rate=20) as camera, open_source(camera.url, live=options) as source:
        count = 0
        for _ in source:
            count += 1
            if count == 5:
                camera.kill()
    assert count >= 5
    assert "given up after 2 attempts" in source.damage


@pytest.mark.parametrize("state", ["reading", "reconnecting", "opening"])
def test_stop_ends_it_in_any_state(state):
    with Camera(rate=20) as camera:
        options = LiveOptions(open_timeout=30, read_timeout=1, reconnect=None, longest_pause=30)
        if state == "opening":
            with socket.create_server(("127.0.0.1", 0)) as server:
                address = live_address(f"http://127.0.0.1:{server.getsockname()[1]}/x")
                source = LiveSource(address, Selection(), options)
                threading.Timer(0.3, source.stop).start()
                began = time.monotonic()
                with pytest.raises(VideoError):
                    source.ready()
                assert time.monotonic() - began < 1
            return
        source = open_source(camera.url, live=options)
        for count, _ in enumerate(source):
            if count == 3 and state == "reconnecting":
                camera.kill()
                threading.Timer(0.8, source.stop).start()
            elif count == 3:
                source.stop()
                began = time.monotonic()
        source.close()
        if state == "reading":
            assert time.monotonic() - began < 1.5


def test_stdin_is_read_to_its_end(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.ts", moving_scenes(12))
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        threading.Thread(target=lambda: (os.write(writing, clip.read_bytes()), os.close(writing))).start()
        with open_source("-", live=QUICK) as source:
            assert len(list(source)) == 12
            assert not source.is_live
            assert source.damage is None


def test_a_file_that_was_not_there_at_first_ends_where_it_ends(tmp_path):
    """It was played again and again, since what is tried again counts as live."""
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(6), container_options={"movflags": "faststart"})
    with Files(tmp_path) as files:
        url = files.url + clip.name
    with ExitStack() as stack:
        _, source = (stack.enter_context(source) for source in open_sources([clip, url], live=QUICK))
        assert not source.is_open
        stack.enter_context(Files(tmp_path, int(url.split(":")[2].split("/")[0])))
        source.await_open()
        assert len(list(islice(source, 20))) == 6
        assert source.damage is None


@pytest.mark.parametrize("selection", [Selection(), Selection(1.0, 2.0), Selection(stride=3), Selection(0.5, None, 2)])
def test_as_many_frames_are_expected_as_the_selection_gives(tmp_path, selection):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(30), container_options={"movflags": "faststart"})
    with Files(tmp_path) as files, open_source(files.url + clip.name, selection, live=QUICK) as source:
        assert source.expected_frames == pytest.approx(len(list(source)), abs=1)


@pytest.mark.parametrize("through", ["stdin", "a pipe", "http"])
@pytest.mark.parametrize("kind", ["mp4", "avi"])
@pytest.mark.parametrize("whole", [True, False])
def test_damage_is_told_whichever_way_a_file_comes(tmp_path, monkeypatch, through, kind, whole):
    """As of the file itself: a clip that is cut short says so, one that is whole says nothing."""
    how = {"movflags": "faststart"} if kind == "mp4" else {}
    clip = write_clip(tmp_path / f"a.{kind}", noisy(moving_scenes(30)), container_options=how)
    clip = clip if whole else cut(clip, 0.6)
    with open_source(clip) as source:
        expected = len(list(source))
        assert bool(source.damage) != whole
    with ExitStack() as stack:
        if through == "http":
            given = stack.enter_context(Files(tmp_path)).url + clip.name
        elif through == "stdin":
            process = stack.enter_context(subprocess.Popen(["cat", clip], stdout=subprocess.PIPE))
            stack.callback(process.kill)
            monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": process.stdout}))
            given = "-"
        else:
            given = str(tmp_path / "pipe")
            os.mkfifo(given)
            process = stack.enter_context(subprocess.Popen(["cp", clip, given]))
            stack.callback(process.kill)
        source = stack.enter_context(open_source(given, live=QUICK))
        assert len(list(source)) == expected
        assert bool(source.damage) != whole
        assert whole or "the file is damaged" in source.damage


def test_a_pipe_that_says_nothing_is_given_up(monkeypatch):
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb"):
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        with pytest.raises(VideoError, match="the program before the pipe"):
            open_source("-", live=LiveOptions(open_timeout=2, read_timeout=0.4))
