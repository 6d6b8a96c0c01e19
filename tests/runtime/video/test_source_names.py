"""What an input may be called and be: odd names, pipes, devices, addresses."""

import os
import threading

import pytest

from l2g.errors import VideoError
from l2g.runtime.video.source import group_inputs, input_name, open_source
from l2g.runtime.video.sources.base import shown
from tests.runtime.clips import moving_scenes, write_clip


@pytest.mark.parametrize(
    "name",
    [
        "2026-11-28T10:15:00.mp4",
        "concat:a.mp4",
        "pipe:0",
        "http:clip.mp4",
        "a?b=c&d.mp4",
        "50%d of it.mp4",
        "frame%03d.mkv",
        "-.mp4",
        "ein Film, ümläut.mp4",
        b"\xff\xfe.mp4".decode("utf-8", "surrogateescape"),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_names_are_files_first(tmp_path, monkeypatch, name, relative):
    write_clip(tmp_path / "plain.mp4", moving_scenes(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with open_source(name if relative else tmp_path / name) as source:
        assert len(list(source)) == 3
        assert source.files[0].samefile(tmp_path / name)
    source.name.encode()  # can be printed
    input_name(name).encode()


def test_a_name_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    write_clip(tmp_path / "http:" / "a.mp4", moving_scenes(3))
    with open_source("http://a.mp4") as source:
        assert len(list(source)) == 3


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_a_named_pipe_is_read(tmp_path, suffix):
    data = write_clip(tmp_path / f"a.{suffix}", moving_scenes(12)).read_bytes()
    pipe = tmp_path / f"camera.{suffix}"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writer.start()
    with open_source(pipe) as source:
        frames = list(source)
        assert [frame.index for frame in frames] == list(range(12))
        assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(12)], abs=2e-3)
    assert source.damage is None
    writer.join(5)
    assert not writer.is_alive()


def test_a_pipe_that_gives_nothing_or_nonsense_is_one_clear_error(tmp_path):
    for data in (b"", b"no video " * 1000):
        pipe = tmp_path / f"{len(data)}.ts"
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True).start()
        with pytest.raises(VideoError, match=r"cannot be opened as a video|no video stream"):
            open_source(pipe)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/null"])
def test_devices_are_refused(device):
    with pytest.raises(VideoError, match="neither a file, a folder nor a pipe"):
        open_source(device)


@pytest.mark.parametrize("name", ["missing.mp4", "a\0b.mp4", "m" * 5000, "\udcff.mp4", "pipe:0", "concat:a|b"])
def test_what_is_not_there_is_one_clear_error(name):
    with pytest.raises(VideoError, match="check the path") as caught:
        open_source(name)
    str(caught.value).encode()


def test_grouping_looks_at_names_of_any_length():
    inputs = ["m" * 5000 + ".png", "a\0.png", "http://127.0.0.1/a.png"]
    assert group_inputs(inputs) == inputs


def test_an_address_that_nobody_answers():
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        open_source("http://127.0.0.1:9/a.mp4")
    for address in ("nonsense://a", "http://127.0.0.1:9/a.mp4?signature=" + "0" * 5000):
        with pytest.raises(VideoError, match="cannot be opened as a video"):
            open_source(address)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(VideoError, match="Permission denied"):
        open_source(tmp_path)


def test_what_trips_a_library_is_an_error_of_its_source_alone(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(3))

    def trip(*_):
        raise ValueError("31 is not a valid Type")

    with open_source(clip) as source:
        monkeypatch.setattr(source, "_picture", trip)
        with pytest.raises(VideoError, match=r"cannot be read \(31 is not a valid Type"):
            list(source)
    monkeypatch.setattr("l2g.runtime.video.sources.container.orientation_of", trip)
    with pytest.raises(VideoError, match=r"cannot be opened \(31 is not a valid Type"):
        open_source(clip)


@pytest.mark.parametrize(
    ("name", "text"), [("a\udce9b", "a\ufffdb"), ("\ud800", "\ufffd"), ("ä 1", "ä 1")], ids=["byte", "lone", "plain"]
)
def test_a_name_that_is_no_text_can_be_printed(name, text):
    assert shown(name) == text
