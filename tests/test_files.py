"""One way to write, sum and read a file: what is seen from outside at every moment at which it can go wrong."""

import errno
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from l2g import files
from l2g.errors import DataError, ExportError, L2GError
from l2g.files import (
    PendingFile,
    cache_root,
    expect_writable,
    folder_atomically,
    read_json,
    refuse_overwriting,
    sha256_of_file,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)


def refused(call, *arguments, error=L2GError) -> str:
    with pytest.raises(error) as raised:
        call(*arguments)
    return str(raised.value)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, ValueError("x"), OSError(errno.ENOSPC, "No space left"), SystemExit]
)
def test_whatever_fails_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with write_atomically(path, ExportError) as temporary:
            temporary.write_text("half")
            raise error

    expected = ExportError if isinstance(error, OSError) else type(error) if isinstance(error, Exception) else error
    with pytest.raises(expected):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_system_that_refuses_at_the_end_gives_one_error(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    message = refused(write_text, tmp_path / "a.txt", "new", ExportError, error=ExportError)
    assert message.startswith(f"{tmp_path / 'a.txt'}: cannot be written (No space left on device); make room")
    assert os.listdir(tmp_path) == []


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_bytes(tmp_path / "a", b"x")
    assert order == ["fsync", "replace"]


def test_no_name_can_be_guessed_and_no_link_is_followed(tmp_path, monkeypatch):
    names = {PendingFile(tmp_path / "a.txt").temporary.name for _ in range(20)}
    assert len(names) == 20
    # Even where somebody did guess: a link that waits at the temporary name is an error, not a way to its target.
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files, "name_beside", lambda path: tmp_path / "guessed")
    (tmp_path / "guessed").symlink_to(victim)
    assert "cannot be written (File exists)" in refused(write_text, tmp_path / "b.txt", "evil")
    assert victim.read_text() == "precious"
    assert (tmp_path / "guessed").is_symlink()  # it is not ours to remove


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "a", "new")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "a").read_text()) == ("precious", "new")
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o644), (0o027, 0o640)])
def test_the_mode_is_what_the_umask_leaves_of_0644(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_errors_name_path_reason_and_what_to_do(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "folder", "(Is a directory); give the path of a file"),
        (tmp_path / "none" / "a", "(No such file or directory); make its folder first"),
        (tmp_path / "file" / "a", "(Not a directory); a part of the path is a file"),
        (tmp_path / ("n" * 300), "(File name too long); give a shorter name"),
        (tmp_path / "nu\0ll", "null"),
    ):
        message = refused(write_text, path, "x")
        assert message.startswith(f"{path}: cannot be written (")
        assert reason in message
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_target_that_is_a_folder_is_refused_before_any_work(tmp_path):
    begun = []

    def write():
        with write_atomically(tmp_path):
            begun.append(True)

    assert "Is a directory" in refused(write)
    assert begun == []


@pytest.mark.parametrize("name", ["pipe", "socket", "link to a pipe", "link to a device", "/dev/null", "/dev/stdout"])
def test_what_is_no_file_keeps_its_name(tmp_path, name):
    """A user who is root would lose the machine's device, whoever reads a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to("pipe")
    (tmp_path / "link to a device").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        before = os.lstat(tmp_path / name).st_ino
        # Not `write_text`: without the guard a test of it would take the device of the machine that it runs on.
        assert "a device, a pipe or a socket, no file" in refused(expect_writable, tmp_path / name)
        assert os.lstat(tmp_path / name).st_ino == before


def test_the_longest_names_are_written(tmp_path):
    for name in ("n" * 255, "é" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_an_error_of_another_file_is_not_blamed_on_this_one(tmp_path):
    def write():
        with write_atomically(tmp_path / "a"):
            (tmp_path / "other").read_text()

    with pytest.raises(FileNotFoundError):
        write()
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    code = (
        "import os, sys; from l2g.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as part:\n    part.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")]).returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_json_comes_back_as_it_went(tmp_path):
    data = {"b": [1, 2.5, None, "é"], "a": {}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json", dict) == data
    assert list(json.loads((tmp_path / "a.json").read_bytes())) == ["b", "a"]
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "marked.json", list) == [1]


def test_what_cannot_be_json_is_not_half_written(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b"[1]", "found a list at the top, expected an object"),
        (b"7", "found int at the top, expected an object"),
    ],
    ids=["cut", "empty", "not text", "deep and cut", "deep", "a list", "a number"],
)
def test_what_is_no_json_object_is_named(tmp_path, content, expected):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    message = refused(read_json, path, dict, error=DataError)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "annotation file 'x'" in refused(read_json, path, dict, "annotation file 'x'", error=DataError)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        assert refused(read_json, path, dict, error=DataError).startswith(f"{path}: cannot be read (")
        assert refused(sha256_of_file, path, ExportError, error=ExportError).startswith(f"{path}: cannot be read (")


def test_the_sum_is_that_of_the_content(tmp_path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").touch()
    assert sha256_of_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class TestCache:
    def test_the_first_that_is_set_counts(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.delenv("L2G_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cache_root() == Path("/home/somebody/.cache/l2g")
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert cache_root() == Path("/xdg/l2g")
        monkeypatch.setenv("L2G_CACHE", str(tmp_path))
        assert cache_root() == tmp_path

    @pytest.fixture
    def homeless(self, tmp_path, monkeypatch):
        def no_home(text):
            return text

        for name in ("L2G_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os.path, "expanduser", no_home)  # no entry in the user database
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return tmp_path / f"l2g-{os.getuid()}"

    def test_without_a_home_it_is_a_folder_of_the_user_alone(self, homeless):
        assert cache_root() == homeless
        assert stat.S_IMODE(homeless.stat().st_mode) == 0o700
        assert cache_root() == homeless

    def test_an_empty_home_is_none(self, homeless, monkeypatch):
        monkeypatch.setenv("HOME", "")
        assert cache_root() == homeless

    def test_a_folder_that_others_can_write_is_refused(self, homeless):
        homeless.mkdir()
        homeless.chmod(0o777)
        assert "set L2G_CACHE" in refused(cache_root)
        homeless.rmdir()
        homeless.symlink_to(homeless.parent)
        assert "set L2G_CACHE" in refused(cache_root)


def test_what_is_read_is_not_written_over_in_whatever_way_it_is_named(tmp_path):
    source = tmp_path / "a.onnx"
    source.write_text("precious")
    (tmp_path / "link.onnx").symlink_to(source)
    os.link(source, tmp_path / "hard.onnx")
    for name in ("a.onnx", "link.onnx", "hard.onnx", f"../{tmp_path.name}/a.onnx"):
        message = refused(refuse_overwriting, [None, tmp_path / "new", tmp_path / name], [None, source], ExportError)
        assert message == f"{source}: is the file that would be written as {tmp_path / name}; give another output"
    # Neither what is not there yet, nor folders, nor another file of the same content.
    (tmp_path / "b.onnx").write_text("precious")
    refuse_overwriting([tmp_path / "new", tmp_path, "a\0b", tmp_path / "b.onnx"], [tmp_path / "new", tmp_path, source])


class TestFolders:
    def test_a_folder_appears_whole_or_not_at_all(self, tmp_path):
        with folder_atomically(tmp_path / "a" / "data") as fresh:
            (fresh / "x").write_text("1")
            assert not (tmp_path / "a" / "data").exists()
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["data"]
        assert (tmp_path / "a" / "data" / "x").read_text() == "1"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_whatever_ends_it_leaves_nothing(self, tmp_path, error):
        def fail():
            with folder_atomically(tmp_path / "data") as fresh:
                (fresh / "deep").mkdir()
                raise error

        with pytest.raises(error):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_folder_is_replaced_and_a_full_one_refused(self, tmp_path):
        (tmp_path / "data").mkdir()
        with folder_atomically(tmp_path / "data") as fresh:
            (fresh / "x").write_text("1")
        full = folder_atomically(tmp_path / "data", DataError)
        with pytest.raises(DataError, match=r"data: cannot be written \(.*not empty\)"), full as fresh:
            (fresh / "y").write_text("2")
        assert [path.name for path in tmp_path.rglob("*")] == ["data", "x"]

    def test_an_error_of_another_file_is_its_own(self, tmp_path):
        with pytest.raises(FileNotFoundError), folder_atomically(tmp_path / "data"):
            Path("/nothing/here").read_bytes()

    def test_what_a_killed_writer_left_is_removed_and_what_lives_stays(self, tmp_path):
        """Its own name only, and not while its writer holds it."""
        target = tmp_path / "data"
        code = (
            "import sys, time; from l2g.files import folder_atomically\n"
            "with folder_atomically(sys.argv[1]) as fresh:\n"
            "    (fresh / 'x').mkdir(); (fresh / 'x' / 'y').write_text('1'); print('', flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            left = next(tmp_path.iterdir())
            others = [tmp_path / ".other.0123456789abcdef.part", tmp_path / ".data.part"]
            for other in others:
                other.mkdir()
            for path in (left, *others):
                os.utime(path, (1, 1))
            with folder_atomically(target):
                assert left.is_dir()
            process.kill()
        os.utime(left, (1, 1))
        target.rmdir()
        with folder_atomically(target):
            assert not left.exists()
        assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_what_is_pending_goes_when_a_process_ends_at_once(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from l2g.files import discard_pending, folder_atomically, write_atomically\n"
        "folder = Path(sys.argv[1])\n"
        "with folder_atomically(folder / 'data') as fresh, write_atomically(folder / 'x') as file:\n"
        "    (fresh / 'y').write_text('1'); assert len(list(folder.iterdir())) == 2; discard_pending(); os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_text_is_written_as_its_bytes(tmp_path):
    """As Python hands on an argument that is not UTF-8: a report names the file all the same."""
    write_text(tmp_path / "report.md", f"model {os.fsdecode(b'caf' + bytes([0xE9]))}.onnx, 5 µm")
    assert (tmp_path / "report.md").read_text("utf-8") == "model caf\\udce9.onnx, 5 µm"
