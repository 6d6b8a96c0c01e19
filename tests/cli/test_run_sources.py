"""The command and its inputs: several pictures are one video, tracks, what is said of a source, single pictures."""

import os

import cv2
import numpy as np
import pytest
from av.stream import Disposition

from l2g.cli.running import run as run_video
from tests.runtime.blobs import BlobBackend, scene
from tests.runtime.clips import moving_scenes, write_clip
from tests.runtime.made import write_tracks


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command without an inference library; gives the exit code and what went to stderr."""

    def open_backend(model, *, top_k, canvas=None, portrait=False, **_):
        return BlobBackend((96, 64) if portrait else (64, 96), top_k=top_k)

    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", open_backend)

    def call(*inputs, options=()):
        output = tmp_path / "out"
        code = run_video.main(["--model", "m", "--input", *map(str, inputs), "--output", str(output), *options])
        return code, output, capsys.readouterr().err

    return call


def _frames(folder):
    return len((folder / "frames.jsonl").read_text().splitlines())


def test_picture_files_are_one_video_beside_others(run, tmp_path):
    pictures = []
    (tmp_path / "walk").mkdir()
    for index, image in enumerate(moving_scenes(4)):
        pictures.append(tmp_path / "walk" / f"{index}.png")
        cv2.imwrite(str(pictures[-1]), image[..., ::-1])
    code, output, _ = run(*pictures)
    assert (code, _frames(output)) == (0, 4)
    film = write_clip(tmp_path / "film.mp4", moving_scenes(7))
    code, output, _ = run(film, *pictures)
    assert code == 0
    assert (_frames(output / "film"), _frames(output / "walk")) == (7, 4)


def test_pictures_have_no_tracks_however_they_are_given(run, tmp_path):
    pictures = [tmp_path / f"{index}.png" for index in range(2)]
    for picture in pictures:
        cv2.imwrite(str(picture), scene(64, 96, []))
    for inputs in (pictures, pictures[:1], [tmp_path]):
        code, output, said = run(*inputs, options=["--track", "0"])
        assert code == 2
        assert said.endswith("pictures have no tracks; leave --track out\n")
        assert not output.exists()


def test_lines_of_a_file_rotate_where_they_have_a_place_of_their_own(run, tmp_path):
    film = write_clip(tmp_path / "film.mp4", moving_scenes(7))
    code, output, said = run(film, options=["--jsonl", str(tmp_path / "l.jsonl"), "--rotate", "0.35s"])
    assert (code, said) == (0, "")
    assert [len((tmp_path / f"l-000{i}.jsonl").read_text().splitlines()) for i in range(2)] == [4, 3]
    assert sorted(file.name for file in output.iterdir()) == ["overlay.mp4", "results.json"]


def test_a_track_is_chosen_and_said(run, tmp_path):
    still = [scene(200, 320, [])], [0.0], "mjpeg", Disposition(0)
    film = moving_scenes(6), np.arange(6) / 10, "libx264", Disposition(0)
    path = write_tracks(tmp_path / "a.mkv", [still, film])
    code, output, said = run(path)
    assert (code, _frames(output)) == (0, 6)
    assert "note: " in said
    assert "track 1 is used" in said
    code, output, said = run(path, options=["--track", "0"])
    assert (code, _frames(output)) == (0, 1)
    assert "note" not in said
    code, _, said = run(path, options=["--track", "5"])
    assert code == 2
    assert said.count("\n") == 1
    assert "video track 5 asked for" in said


@pytest.mark.parametrize("options", [["--fps", "nan"], ["--fps", "1e300"], ["--start", "nan"], ["--end", "nan"]])
def test_numbers_that_are_none_are_one_line(run, tmp_path, options):
    cv2.imwrite(str(tmp_path / "a.png"), scene(64, 96, []))
    code, output, said = run(tmp_path / "a.png", options=options)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not output.exists()


def test_an_upright_picture_by_the_shape_that_it_shows(run, tmp_path):
    """96 stored columns of half their width are upright."""
    code, output, _ = run(write_clip(tmp_path / "a.mp4", moving_scenes(2), pixel_aspect=0.5))
    assert (code, _frames(output)) == (0, 2)
    cv2.imwrite(str(tmp_path / "b.png"), scene(64, 96, []))
    code, output, _ = run(tmp_path / "b.png")
    assert code == 0
    assert "overlay.png" in os.listdir(output)


@pytest.mark.parametrize(
    ("options", "of"),
    [
        (["--fps", "10"], "pictures"),
        (["--read-timeout", "3"], "live sources and pipes"),
        (["--transport", "udp"], "live sources and pipes"),
        (["--reconnect", "0"], "live sources and pipes"),
        (["--wait", "3"], "live sources and of --policy latest"),
        (["--overlap-threshold", "0.5"], "another --task than instances"),
        (["--task", "panoptic", "--top-k", "5"], "another --task than panoptic"),
        (["--task", "semantic", "--max-age", "5"], "another --task than semantic"),
    ],
)
def test_what_a_video_has_no_use_for_is_refused(run, tmp_path, options, of):
    film = write_clip(tmp_path / "film.mp4", moving_scenes(2))
    code, output, said = run(film, options=options)
    assert code == 2
    assert f"{options[-2]} given, which has no effect here; it is of {of}" in said
    assert not output.exists()


def test_options_of_pictures_and_of_the_newest_frame_are_taken(run, tmp_path):
    film = write_clip(tmp_path / "film.mp4", moving_scenes(2))
    cv2.imwrite(str(tmp_path / "a.png"), scene(64, 96, []))
    assert run(film, tmp_path / "a.png", options=["--fps", "10"])[0] == 0
    assert run(film, options=["--policy", "latest", "--wait", "3"])[0] == 0


def test_hardware_that_is_named_for_a_picture_is_said_to_be_none(run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene(64, 96, []))
    code, _, said = run(tmp_path / "a.png", options=["--decoder", "nvdec", "--encoder", "nvenc"])
    assert code == 0
    assert "decoder nvdec is for video files: decoded by the processor" in said
    assert "encoder nvenc is for videos: encoded by the processor" in said
    code, _, said = run(tmp_path / "a.png", options=["--decoder", "auto", "--encoder", "auto"])
    assert (code, said) == (0, "")
