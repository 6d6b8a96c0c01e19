"""The command on live sources: an end within two seconds in every state, lines while it runs, policies, words."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.camera import RtspProcess
from tests.runtime.cameras import Camera
from tests.runtime.clips import decode, moving_scenes, write_clip

pytestmark = pytest.mark.alone

CHECKOUT = Path(__file__).parents[2]
SOON = 2.0


@contextmanager
def running(output, *inputs, options=(), seconds=0.0):
    command = [sys.executable, "-m", "tests.cli.live_command", "--model", str(seconds), "--input", *map(str, inputs)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--output", str(output), *options],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(what, seconds=20):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


def ended(process, number):
    """Its exit code, output and errors after that signal; in time."""
    process.send_signal(number)
    began = time.monotonic()
    out, error = process.communicate(timeout=20)
    assert time.monotonic() - began < SOON
    assert "Traceback" not in error
    return process.returncode, out, error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["running", "stalled", "reconnecting"])
def test_a_signal_ends_every_state_with_whole_files(tmp_path, state, number):
    with Camera(rate=20) as camera, running(tmp_path, camera.url, options=["--reconnect", "-1"]) as process:
        wait_for(lambda: len(lines(tmp_path / "frames.jsonl")) > 5)
        if state == "stalled":
            camera.stall()
        elif state == "reconnecting":
            camera.kill()
        time.sleep(0.8)
        code, out, error = ended(process, number)
    assert code == 130
    assert "interrupted: the files hold what was done" in error
    done = lines(tmp_path / "frames.jsonl")
    assert f"{len(done)} frames in" in out
    assert len(decode(tmp_path / "overlay.mp4")[0]) == len(done)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_opening(tmp_path, number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with running(tmp_path / "out", url, url, options=["--open-timeout", "60"]) as process:
            assert process.stderr.readline() == "opening\n"
            time.sleep(0.3)
            code, _, error = ended(process, number)
    assert code == 130
    assert error == "interrupted before the first frame\n"
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_the_wait_for_sources_of_every_kind(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        port = server.getsockname()[1]
        kinds = (
            "-",
            tmp_path / "pipe",
            f"rtsp://127.0.0.1:{port}/x",
            f"udp://127.0.0.1:{port}",
            "rtsp://127.0.0.1:1/x",
        )
        options = ["--open-timeout", "60", "--read-timeout", "60"]
        processes = [stack.enter_context(running(tmp_path / "out", kind, options=options)) for kind in kinds]
        for process in processes:
            assert process.stderr.readline() == "opening\n"
        # The last one's port refuses; the signal comes while it waits to try again, however slow the machine.
        tried_again = "is tried again, 10 times at most (--reconnect): cannot be opened"
        assert tried_again in processes[-1].stderr.readline()
        for process, number in zip(processes, itertools.cycle((signal.SIGTERM, signal.SIGINT))):
            code, _, error = ended(process, number)
            assert code == 130
            assert error.endswith("interrupted before the first frame\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_files_are_finished_leaves_whole_files(tmp_path, monkeypatch, number):
    monkeypatch.setenv("SLOW_WRITER", "1")
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(30))
    with running(tmp_path / "out", clip) as process:
        assert process.stderr.readline() == "writing\n"
        code, out, error = ended(process, number)
    assert code == 130
    assert error == "interrupted: the files hold what was done\n"
    assert "30 frames in" in out
    assert len(lines(tmp_path / "out" / "frames.jsonl")) == 30
    assert len(decode(tmp_path / "out" / "overlay.mp4")[0]) == 30
    assert {len(entry["segmentations"]) for entry in json.loads((tmp_path / "out" / "results.json").read_text())} == {
        30
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"frames.jsonl", "overlay.mp4", "results.json"}


@pytest.mark.skipif(not RtspProcess.runs_here(), reason="no GStreamer RTSP server here")
def test_a_real_rtsp_server_is_read_found_again_and_left_within_two_seconds(tmp_path):
    with RtspProcess(20, 1) as camera:
        options = ["--no-overlay", "--read-timeout", "1", "--cuts", "off"]
        with running(tmp_path, camera.url, options=options) as process:
            wait_for(lambda: len(lines(tmp_path / "frames.jsonl")) > 5)
            camera.tell("kill")
            time.sleep(0.3)
            camera.tell("start")
            wait_for(lambda: any("reset" in line for line in lines(tmp_path / "frames.jsonl")))
            camera.tell("stall")
            time.sleep(0.3)
            code, _, error = ended(process, signal.SIGTERM)
    assert code == 130
    assert "lost (" in error
    assert "found again after" in error
    assert [line["reset"] for line in lines(tmp_path / "frames.jsonl") if "reset" in line] == ["reconnected"]


def test_a_silent_source_is_one_line_and_exit_code_2(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with running(tmp_path / "out", url, options=["--open-timeout", "0.5", "--reconnect", "0"]) as process:
            _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert error.startswith(f"opening\nerror: {url}: ")
    assert error.count("\n") == 2
    assert not (tmp_path / "out").exists()


def test_a_camera_that_is_dead_at_the_start_comes_later_or_is_given_up(tmp_path):
    with Camera(rate=20) as one, Camera(rate=10) as late:
        late.kill()
        options = ["--no-overlay", "--reconnect", "5", "--end", "4"]
        inputs = one.url, late.url, "http://127.0.0.1:1/never.ts"
        with running(tmp_path, *inputs, options=options) as process:
            wait_for(lambda: len(lines(tmp_path / "live" / "frames.jsonl")) > 5)
            assert not (tmp_path / "live-2" / "frames.jsonl").exists()
            late.start()
            out, error = process.communicate(timeout=30)
    assert process.returncode == 1
    found = lines(tmp_path / "live-2" / "frames.jsonl")
    assert found
    assert not any("reset" in line for line in found)
    assert len(lines(tmp_path / "live" / "frames.jsonl")) > 30
    assert f"{late.url}: is tried again, 5 times at most (--reconnect): cannot be opened" in error
    assert f"note: {late.url}: found after" in error
    assert "never.ts: given up after" in error or "never.ts: was not there until the end" in error
    assert "never.ts: 0 frames in" in out


def test_latest_keeps_up_and_all_does_not(tmp_path):
    with Camera(rate=20) as camera:
        for policy in ("latest", "all"):
            options = ["--policy", policy, "--end", "2.5", "--no-overlay"]
            with running(tmp_path / policy, camera.url, options=options, seconds=0.12) as process:
                out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            done = lines(tmp_path / policy / "frames.jsonl")
            indices = [line["index"] for line in done]
            if policy == "latest":
                assert len(done) < 30
                assert indices == sorted(indices)
                assert max(indices) > len(done) + 10
                assert "dropped" in out
            else:
                assert indices == list(range(len(done)))
                assert len(done) > 40
                assert "dropped" not in out


def test_a_dead_camera_does_not_hold_the_others(tmp_path):
    with Camera(rate=20) as one, Camera(rate=10) as other:
        options = ["--no-overlay", "--reconnect", "-1", "--end", "7"]
        with running(tmp_path, one.url, other.url, options=options) as process:
            folders = [tmp_path / "live", tmp_path / "live-2"]
            wait_for(lambda: all(len(lines(folder / "frames.jsonl")) > 5 for folder in folders))
            other.kill()
            before = len(lines(folders[0] / "frames.jsonl"))
            time.sleep(2)
            assert len(lines(folders[0] / "frames.jsonl")) - before > 25
            other.start()
            wait_for(lambda: any(line.get("reset") == "reconnected" for line in lines(folders[1] / "frames.jsonl")))
            _, error = process.communicate(timeout=30)
    assert process.returncode == 0
    told = [line for line in error.splitlines() if other.url in line]
    assert "lost (" in told[0]
    assert any("found again after" in line for line in told)
    found = lines(folders[1] / "frames.jsonl")
    again = next(at for at, line in enumerate(found) if line.get("reset") == "reconnected")
    ids = [{track["id"] for line in part for track in line["tracks"]} for part in (found[:again], found[again:])]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]


def test_lines_on_stdout_name_their_stream_and_nothing_else_is_there(tmp_path):
    clips = [write_clip(tmp_path / f"{name}.mp4", moving_scenes(4)) for name in "ab"]
    with running(tmp_path / "out", *clips, options=["--jsonl", "-", "--no-overlay", "--no-results"]) as process:
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert sorted((line["stream"], line["index"]) for line in told) == [(s, i) for s in "ab" for i in range(4)]
    assert "4 frames in" in error
    assert not (tmp_path / "out" / "a").exists()


def test_lines_of_several_inputs_in_a_place_of_their_own_do_not_meet(tmp_path):
    clips = [write_clip(tmp_path / f"{name}.mp4", moving_scenes(count)) for name, count in (("a", 2), ("b", 3))]
    options = ["--jsonl", str(tmp_path / "all.jsonl"), "--no-overlay", "--no-results"]
    with running(tmp_path / "out", *clips, options=options) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert [len(lines(tmp_path / f"all-{name}.jsonl")) for name in "ab"] == [2, 3]


def test_lines_over_an_input_are_refused(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(2))
    before = clip.read_bytes()
    with running(tmp_path / "out", clip, options=["--jsonl", str(clip)]) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "is the file that would be written" in error
    assert clip.read_bytes() == before


def test_files_of_a_live_source_rotate(tmp_path):
    options = ["--rotate", "1s", "1GB", "--end", "3.5"]
    with Camera(rate=20) as camera, running(tmp_path, camera.url, options=options) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    count = len(names) // 2
    assert count in (2, 3, 4)  # the stream may have been opened for a second before the first frame is taken
    assert names == [f"frames-000{i}.jsonl" for i in range(count)] + [f"overlay-000{i}.mp4" for i in range(count)]
    parts = [lines(tmp_path / f"frames-000{i}.jsonl") for i in range(count)]
    assert all(0.8 < part[-1]["time"] - part[0]["time"] < 1 for part in parts[:-1])
    indices = [line["index"] for part in parts for line in part]
    assert indices == sorted(set(indices))
    for i in range(count):
        assert len(decode(tmp_path / f"overlay-000{i}.mp4")[0]) == len(lines(tmp_path / f"frames-000{i}.jsonl"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wait", "-5"], "a wait of -0.005 s found, 0 to less than 60 expected"),
        (["--open-timeout", "0"], "open timeout of 0 s found"),
        (["--rotate", "soon"], "a time such as 30s"),
        (["--rotate", "5XB"], "a size such as 500MB"),
        (["--cuts", "now"], "auto, off or seconds"),
        (["--serve", "x"], "PORT or HOST:PORT expected"),
        (["--serve", "0.0.0.0:0"], "give a --token too"),
        (["--token", "x"], "give --serve PORT too"),
        (["--rotate", "1s"], "no input is live"),
        (["--rotate", "1s", "--jsonl", "-"], "give --jsonl FILE"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, options, message):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(2))
    with running(tmp_path / "out", clip, options=options) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
