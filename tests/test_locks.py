"""A folder has one writer; a writer that was killed is in nobody's way."""

import os
import signal
import subprocess
import sys
import time

import pytest

from l2g.demo import CLIP
from l2g.errors import VideoError
from l2g.files import LOCK, PendingFile, locked

HOLD = """
import sys, time
from l2g.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_told_who_holds_it(tmp_path, holder):
    with (
        pytest.raises(VideoError, match=rf"another run writes there now \(process {holder.pid}\)"),
        locked(tmp_path, VideoError),
    ):
        pass


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).read_text() == f"{holder.pid}\n"
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
        with pytest.raises(VideoError, match="another run"), locked(tmp_path, VideoError):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_its_place_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(victim)
    with pytest.raises(VideoError, match="cannot be written"), locked(tmp_path / "out", VideoError):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("place", ["file/x", "file", "a\0b"])
def test_a_folder_that_cannot_be_is_one_error(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match=r"cannot be made"), locked(f"{tmp_path}/{place}", VideoError):
        pass


KILLED = """
import sys, time
from l2g.files import PendingFile
pending = PendingFile(sys.argv[1])
print("made", flush=True)
time.sleep(60)
"""


def test_leftovers_of_the_killed_are_cleared_and_of_the_living_are_not(tmp_path):
    target = tmp_path / "m.onnx"
    command = [sys.executable, "-c", KILLED, str(target)]
    dead, alive = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        for process in (dead, alive):
            process.stdout.readline()
        dead.kill()
        dead.wait()
        others = [tmp_path / ".other.onnx.0123456789abcdef.part", tmp_path / ".m.onnx.mine.part"]
        for path in others:
            path.write_text("")
        assert len(list(tmp_path.glob(".m.onnx.*.part"))) == 3
        time.sleep(1.1)
        PendingFile(target).discard()
        # What is left is the living one's, and what is not of this target's writers at all.
        left = set(tmp_path.iterdir())
        assert left > set(others)
        assert len(left) == 3
        alive.kill()
        alive.wait()
        PendingFile(target).discard()
        assert set(tmp_path.iterdir()) == set(others)
    finally:
        for process in (dead, alive):
            process.kill()
            process.wait()


@pytest.mark.parametrize("command", ["run", "train", "quantize"])
def test_commands_refuse_a_folder_that_another_writes(command, tmp_path, capsys):
    """Before they write anything, and before they load what takes long."""
    pytest.importorskip("torch")
    from l2g.cli.main import main
    from tests.exported import small_graph

    out = tmp_path / "out"
    words = {
        "run": ["--model", small_graph(), "--input", CLIP, "--output", out],
        "train": ["--config", "synthetic_tiny", "--output", out],
        "quantize": ["--ckpt", small_graph(), "--dataset", "synthetic:val", "--output", tmp_path / "q.onnx"],
    }
    folder = tmp_path / "q.onnx.work" if command == "quantize" else out
    with locked(folder):
        assert main([command, *map(str, words[command])]) == 2
        assert f"{folder}: another run writes there now (process {os.getpid()})" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [LOCK]
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_what_was_made_and_stays_empty_is_removed(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new/a"):
        with pytest.raises(VideoError, match="later"), locked(tmp_path / name):
            raise VideoError("later")
    with locked(tmp_path / "filled" / "a"):
        (tmp_path / "filled" / "b").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "filled", "there"]
