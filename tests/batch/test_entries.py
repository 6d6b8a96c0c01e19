"""What an input names, and what the folders of results are called."""

from pathlib import Path

import pytest

from l2g.batch.entries import entries, name_of
from l2g.errors import DataError


@pytest.fixture
def folder(tmp_path):
    files = ["a.mp4", "b.MOV", "notes.md", "cam 1/a.mp4", "cam 1/deep/c.mkv", ".hidden.mp4", ".git/d.mp4"]
    files += ["shots/1.jpg", "shots/2.jpg", "out/x/overlay.mp4"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(given, output="elsewhere"):
    return {entry.name: entry.source for entry in entries(str(given), str(output))}


def test_a_folder_gives_its_videos_at_any_depth_and_not_its_own_output(folder):
    expected = {"a": "a.mp4", "b": "b.MOV", "cam_1_a": "cam 1/a.mp4", "cam_1_deep_c": "cam 1/deep/c.mkv"}
    expected |= {"shots": "shots"}
    assert found(folder, folder / "out") == {name: str(folder / path) for name, path in expected.items()}
    assert "out_x_overlay" in found(folder)


def test_a_relative_path_gives_absolute_sources(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert found(".", "out") == found(folder, folder / "out")
    assert found("cam 1/a.mp4") == {"a": str(folder / "cam 1/a.mp4")}


def test_a_folder_of_pictures_is_a_video(folder):
    assert found(folder / "shots") == {"shots": str(folder / "shots")}


def test_a_pattern_takes_what_it_matches(folder):
    assert found(f"{folder}/cam*/*.mp4") == {"cam_1_a": str(folder / "cam 1/a.mp4")}
    assert set(found(f"{folder}/**/*.mp4")) == {"a", "cam_1_a", "out_x_overlay"}


def test_a_list_names_paths_urls_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "# two cameras\na.mp4\n\nother/a.mp4\tother camera\ns3://bucket/k/v.mp4\n"
    Path("list.txt").write_text(text, encoding="utf-8-sig")  # as editors on Windows write it
    assert found("list.txt") == {
        "a": str(tmp_path / "a.mp4"),
        "other_camera": str(tmp_path / "other/a.mp4"),
        "v": "s3://bucket/k/v.mp4",
    }


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        found(tmp_path / "gone")


@pytest.mark.parametrize(
    ("path", "name"), [("a.b/c.mp4", "a.b_c"), ("..mp4", "video"), ("x.results", "x.results"), ("ä ö.mp4", "ä_ö")]
)
def test_names(path, name):
    assert name_of(path) == name
