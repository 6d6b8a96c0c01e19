"""Synthetic sets on disk and by name."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from l2g.cli.learning.data_draw import main
from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import synthetic_dataset, write_synthetic
from l2g.data.synthetic.video import synthetic_video
from l2g.data.youtube_vis import ground_truth, load_youtube_vis
from l2g.errors import DataError


def test_written_and_read_back(tmp_path, capsys):
    out = tmp_path / "set"
    arguments = ["--split", "occluded", "--seed", "7", "--videos", "2", "--frames", "9", "--format", "png"]
    assert main([*arguments, "--output", str(out)]) == 0
    dataset = load_dataset(out)
    assert len(dataset) == 2
    assert dataset.problems == () or not any(p.fatal for p in dataset.problems)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]  # no temporary directory stays behind
    for index, video in enumerate(dataset.videos):
        drawn = synthetic_video("occluded", index, seed=7, frames=9)
        clip = video.read(range(9))
        np.testing.assert_array_equal(clip.frames, drawn.frames)
        np.testing.assert_array_equal(clip.labels, drawn.labels)
        np.testing.assert_array_equal(clip.masks, drawn.masks())
        assert [o.iscrowd for o in video.objects] == [False] * len(drawn.labels)
    for mark in ground_truth(dataset)["annotations"]:
        grades = [("no", "slight", "severe").index(g.split("_")[0]) for g in mark["occlusion"] if g]
        assert len(grades) == sum(s is not None for s in mark["segmentations"])
    capsys.readouterr()
    assert main([*arguments, "--output", str(out)]) == 2  # never over somebody's data
    assert "not empty" in capsys.readouterr().err


def test_jpeg_frames_are_close(tmp_path):
    dataset = load_youtube_vis(write_synthetic(tmp_path / "a", "val", videos=1, frames=3))
    drawn = synthetic_video("val", 0, frames=3)
    assert np.abs(dataset.videos[0].frame(2).astype(int) - drawn.frames[2]).mean() < 3


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("cv2.imwrite", lambda *_: False)
    with pytest.raises(DataError, match="cannot be written"):
        write_synthetic(tmp_path / "a", "val", videos=1, frames=1)
    assert list(tmp_path.iterdir()) == []


def test_named_sets_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    first = load_dataset("synthetic:val", videos=2)
    (annotation,) = (tmp_path / "cache").rglob("instances.json")
    stamp = os.stat(annotation).st_mtime_ns
    again = load_dataset("synthetic:val", videos=2)
    assert os.stat(annotation).st_mtime_ns == stamp
    assert first.name == again.name == "synthetic:val"
    assert ground_truth(first) == ground_truth(again)
    assert first.videos[0].length == 36
    assert json.loads(annotation.read_text())["categories"] == [{"id": c.id, "name": c.name} for c in first.categories]


def test_an_unwritable_cache_says_how_to_mend_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="L2G_CACHE"):
        load_dataset("synthetic:val", videos=1)


def test_training_set_needs_no_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    dataset = load_dataset("synthetic:train", seed=4)
    assert len(dataset) == 2**31 - 1
    drawn = synthetic_video("train", 10**9, seed=4, frames=[3, 5])
    clip = dataset.videos[10**9].read([3, 5])
    np.testing.assert_array_equal(clip.frames, drawn.frames)
    np.testing.assert_array_equal(clip.masks, drawn.masks())
    assert clip.times.tolist() == [3, 5]
    assert not any(tmp_path.iterdir())
    with pytest.raises(IndexError):
        synthetic_dataset("val").videos[64]


@pytest.mark.parametrize("name", ["synthetic:test", "synthetic:", "no_such_directory", "ovis:no_such_directory"])
def test_unknown_names(name):
    with pytest.raises(DataError):
        load_dataset(name)


def test_no_torch_is_needed(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import l2g.data.clips\n"
        "from l2g.data.registry import load_dataset\n"
        "print(load_dataset('synthetic:demo').videos[0].read([0]).frames.shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "L2G_CACHE": str(tmp_path)}
    )
    assert run.stdout.strip() == "(1, 96, 160, 3)", run.stderr


@pytest.mark.parametrize("what", ["annotation", "frame", "lost", "added", "sum"])
def test_an_edited_cache_is_drawn_anew(tmp_path, monkeypatch, what):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    first = ground_truth(load_dataset("synthetic:val", videos=1))
    (annotation,) = tmp_path.rglob("instances.json")
    folder = annotation.parent
    frames = sorted(folder.rglob("*.jpg"))
    content = {path: path.read_bytes() for path in [annotation, *frames]}
    if what == "annotation":
        annotation.write_text(annotation.read_text().replace('"category_id": ', '"category_id": 1', 1))
    elif what == "frame":
        frames[3].write_bytes(frames[4].read_bytes())
    elif what == "lost":
        frames[3].unlink()
    elif what == "added":
        (folder / "JPEGImages" / "more.jpg").write_bytes(b"")
    else:
        (folder / "sum.sha256").write_text("0" * 64)
    with pytest.warns(UserWarning, match="was changed since it was drawn; it is drawn anew"):
        again = load_dataset("synthetic:val", videos=1)
    assert ground_truth(again) == first
    assert {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".sha256"
    } == content
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left beside it
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_dataset("synthetic:val", videos=1)


def test_a_cache_of_before_the_sums_is_drawn_anew_in_silence(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    load_dataset("synthetic:val", videos=1)
    (total,) = tmp_path.rglob("sum.sha256")
    total.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_dataset("synthetic:val", videos=1)
    assert total.is_file()
