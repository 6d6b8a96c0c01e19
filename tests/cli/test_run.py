"""The command: files that agree with each other and with the video, exit codes, one line per error."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.cli.running import run as run_video
from l2g.errors import L2GError
from l2g.files import locked
from l2g.runtime.assembler import FrameResult
from l2g.runtime.video.overlay import track_color
from tests.runtime.blobs import CLASS_NAMES, COLORS, BlobBackend, scene
from tests.runtime.clips import cut, decode, moving_scenes, noisy, rotate_mp4, write_clip

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def backends(monkeypatch):
    """Stand in for the inference library; the list holds the backends that were opened."""
    opened = []

    def open_backend(model, *, top_k, canvas=None, portrait=False, **_):
        size = canvas or ((96, 64) if portrait else (64, 96))
        opened.append(BlobBackend(size, association="embedding" if model == "image" else "propagate", top_k=top_k))
        return opened[-1]

    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", open_backend)
    return opened


def _run(tmp_path, source, *options, model="video"):
    output = tmp_path / "out"
    code = run_video.main(["--model", model, "--input", str(source), "--output", str(output), *options])
    return code, output


def _lines(output):
    return [json.loads(line) for line in (output / "frames.jsonl").read_text().splitlines()]


def _results(output):
    return json.loads((output / "results.json").read_text())


def test_the_files_agree_with_each_other_and_with_the_video(tmp_path, backends, capsys):
    images = moving_scenes(12, 120, 180)
    code, output = _run(tmp_path, write_clip(tmp_path / "a.mp4", images), "--size", "128x192")
    assert code == 0
    assert sorted(file.name for file in output.iterdir()) == ["frames.jsonl", "overlay.mp4", "results.json"]
    assert "12 frames in" in capsys.readouterr().out
    lines, results = _lines(output), _results(output)
    drawn, times, facts = decode(output / "overlay.mp4")
    assert (facts["codec"], facts["pix_fmt"], len(drawn)) == ("h264", "yuv420p", 12)
    np.testing.assert_allclose(times, np.arange(12) / 10, atol=1e-4)
    assert [line["index"] for line in lines] == list(range(12))
    assert {(r["category_id"], r["track_id"]) for r in results} == {(1, 1), (2, 2)}
    for position, (line, image, picture) in enumerate(zip(lines, images, drawn, strict=True)):
        assert [track["name"] for track in line["tracks"]] in (["red", "green"], ["green", "red"])
        for track in line["tracks"]:
            assert CLASS_NAMES[track["label"]] == track["name"]
            mask = coco_mask.decode(track["segmentation"]).astype(bool)
            truth = (image == COLORS[track["label"]]).all(axis=2)
            assert (mask & truth).sum() / (mask | truth).sum() > 0.85
            entry = next(r for r in results if r["track_id"] == track["id"])
            assert entry["segmentations"][position] == track["segmentation"]
            # What the overlay shows as tinted is this mask: compare inside, below the label and off the outline.
            x1, y1, x2, y2 = track["box"]
            inside = (slice((y1 + y2) // 2 + 2, y2 - 4), slice(x1 + 6, x2 - 6))
            expected = image[inside].astype(float) * 0.55 + np.array(track_color(track["id"])) * 0.45
            assert np.abs(picture[inside] - expected).mean() < 15
    assert backends[0].closed


def test_an_image_model_becomes_a_tracker(tmp_path, backends):
    """Its slots come in another order every frame; tracks hold all the same."""
    code, output = _run(tmp_path, write_clip(tmp_path / "a.mp4", moving_scenes(15)), model="image")
    assert code == 0
    results = _results(output)
    assert [(r["track_id"], r["category_id"]) for r in results] == [(1, 1), (2, 2)]
    assert all(None not in r["segmentations"] for r in results)


def test_score_threshold(tmp_path, backends):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(4))
    code, output = _run(tmp_path, clip, "--score-threshold", "0.999")
    assert code == 0
    assert all(line["tracks"] == [] for line in _lines(output))
    assert _results(output) == []
    code, output = _run(tmp_path, clip, "--score-threshold", "0.6", "--top-k", "1")
    assert all(len(line["tracks"]) == 1 and line["tracks"][0]["score"] >= 0.6 for line in _lines(output))


def test_stride_start_end_and_no_overlay(tmp_path, backends):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(20))
    code, output = _run(tmp_path, clip, "--start", "0.4", "--end", "1.5", "--stride", "3", "--no-overlay")
    assert code == 0
    assert [line["index"] for line in _lines(output)] == [4, 7, 10, 13]
    assert [len(r["segmentations"]) for r in _results(output)] == [4, 4]
    assert not (output / "overlay.mp4").exists()


def test_overlay_of_a_selection_starts_at_zero_and_keeps_pace(tmp_path, backends):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(20))
    _, output = _run(tmp_path, clip, "--start", "0.4", "--stride", "3")
    _, times, _ = decode(output / "overlay.mp4")
    np.testing.assert_allclose(times, [0, 0.3, 0.6, 0.9, 1.2, 1.5], atol=1e-4)


def test_overlay_options_reach_the_picture(tmp_path, backends):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(12))

    def last(*options):
        assert _run(tmp_path, clip, *options)[0] == 0
        drawn, _, _ = decode(tmp_path / "out" / "overlay.mp4")
        assert len(drawn) == 12
        return drawn[-1].astype(int)

    source = decode(clip)[0][-1].astype(int)
    plain = last("--no-labels", "--opacity", "0")
    changed = {
        "labels": last("--opacity", "0"),
        "tint": last("--no-labels"),
        "trails": last("--no-labels", "--opacity", "0", "--trails", "10"),
        "hud": last("--no-labels", "--opacity", "0", "--hud"),
    }
    for name, picture in changed.items():
        assert (np.abs(picture - plain).max(axis=2) > 60).sum() > 15, name
    assert np.abs(plain - source).mean() < min(np.abs(picture - source).mean() for picture in changed.values())


def test_size_sets_the_canvas(tmp_path, backends):
    _run(tmp_path, write_clip(tmp_path / "a.mp4", moving_scenes(2)), "--size", "128x160")
    assert (backends[0].contract.height, backends[0].contract.width) == (128, 160)


def test_rotated_video_is_upright_everywhere(tmp_path, backends):
    clip = rotate_mp4(write_clip(tmp_path / "a.mp4", moving_scenes(3)), (0, 1, -1, 0))
    code, output = _run(tmp_path, clip)
    assert code == 0
    assert (backends[0].contract.height, backends[0].contract.width) == (96, 64)
    drawn, _, _ = decode(output / "overlay.mp4")
    assert drawn[0].shape == (96, 64, 3)
    red = next(track for track in _lines(output)[0]["tracks"] if track["name"] == "red")
    assert red["segmentation"]["size"] == [96, 64]
    # The block (4, 8, 28, 32) of a 64 x 96 picture after a quarter turn clockwise.
    assert np.abs(np.subtract(red["box"], (32, 4, 56, 28))).max() <= 2


def test_odd_size_single_frame_and_variable_rate(tmp_path, backends):
    odd = write_clip(
        tmp_path / "odd.mkv",
        [scene(65, 97, [(0, (10, 10, 60, 50))])] * 3,
        [0, 0.5, 0.6],
        codec="ffv1",
        pix_fmt="bgr0",
        options={},
    )
    code, output = _run(tmp_path, odd)
    assert code == 0
    drawn, times, _ = decode(output / "overlay.mp4")
    assert drawn[0].shape == (66, 98, 3)
    np.testing.assert_allclose(times, [0, 0.5, 0.6], atol=1.1e-3)
    assert _lines(output)[0]["tracks"][0]["segmentation"]["size"] == [65, 97]
    code, output = _run(tmp_path, write_clip(tmp_path / "one.mp4", moving_scenes(1)))
    assert code == 0
    assert len(_lines(output)) == len(decode(output / "overlay.mp4")[0]) == 1


def test_a_file_that_breaks_in_the_middle_keeps_what_was_done_and_says_so(tmp_path, backends, capsys):
    clip = write_clip(tmp_path / "a.mp4", noisy(moving_scenes(30)), container_options={"movflags": "faststart"})
    code, output = _run(tmp_path, cut(clip, 0.6))
    assert code == 1
    error = capsys.readouterr().err
    assert "the file is damaged" in error
    assert "what could be decoded" in error
    count = len(_lines(output))
    assert 12 <= count <= 24
    assert len(decode(output / "overlay.mp4")[0]) == count
    assert {len(r["segmentations"]) for r in _results(output)} == {count}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "missing.mp4"], "missing.mp4: no such file"),
        (["--score-threshold", "2"], "score threshold (birth score) 2 found, 0 to 1 expected"),
        (["--max-age", "-1"], "max age -1 found, 0 frames or more expected"),
        (["--top-k", "0"], "top-k 0 found"),
        (["--stride", "0"], "stride 0 found"),
        (["--opacity", "1.5"], "overlay opacity 1.5 found, 0 (contours alone) to 1 expected"),
        (["--trails", "-1"], "overlay trails of -1 frames found"),
        (["--start", "-1"], "start -1 s found, 0 or more expected"),
        (["--start", "nan"], "start nan s found, 0 or more expected"),
        (["--start", "5", "--end", "2"], "end 2 s found, more than the start at 5 s expected"),
        (["--start", "100"], "no frame from 100 s on found; its last one is at 0."),
        (["--output", "a.mp4"], "cannot be made"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, backends, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", moving_scenes(2))
    assert run_video.main(["--model", "m", "--input", "a.mp4", "--output", "out", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failing_model_keeps_what_was_done(tmp_path, backends, capsys, monkeypatch):
    step = BlobBackend.step

    def failing(self, frames, reset):
        if self.steps == 5:
            raise L2GError("the device is gone")
        return step(self, frames, reset)

    monkeypatch.setattr(BlobBackend, "step", failing)
    code, output = _run(tmp_path, write_clip(tmp_path / "a.mp4", moving_scenes(12)))
    assert code == 2
    assert "the device is gone" in capsys.readouterr().err
    assert len(_lines(output)) == len(decode(output / "overlay.mp4")[0]) == 5
    assert not [file for file in output.iterdir() if file.name.startswith(".")]


def test_interrupt_keeps_what_was_done(tmp_path, backends, capsys, monkeypatch):
    step = BlobBackend.step

    def interrupted(self, frames, reset):
        if self.steps == 6:
            raise KeyboardInterrupt
        return step(self, frames, reset)

    monkeypatch.setattr(BlobBackend, "step", interrupted)
    code, output = _run(tmp_path, write_clip(tmp_path / "a.mp4", moving_scenes(12)))
    assert code == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(_lines(output)) == len(decode(output / "overlay.mp4")[0]) == 6
    assert {len(r["segmentations"]) for r in _results(output)} == {6}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_in_good_order(tmp_path, backends, monkeypatch, number):
    step, calls = BlobBackend.step, itertools.count(1)

    def signalled(self, *arguments):
        if next(calls) == 20:
            os.kill(os.getpid(), number)
        time.sleep(0.02)
        return step(self, *arguments)

    monkeypatch.setattr(BlobBackend, "step", signalled)
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(200))
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output = _run(tmp_path, clip)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert 5 < len(_lines(output)) < 200
    assert len(decode(output / "overlay.mp4")[0]) == len(_lines(output))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_full_disk_is_one_error_and_no_hang(tmp_path, backends, capsys, monkeypatch):
    from l2g.errors import VideoError
    from l2g.runtime.video.results import JsonLinesSink

    def full(self, result: FrameResult):
        raise VideoError("frames.jsonl: writing failed (No space left on device); is the disk full?")

    monkeypatch.setattr(JsonLinesSink, "write", full)
    code, _ = _run(tmp_path, write_clip(tmp_path / "a.mp4", moving_scenes(30)))
    assert code == 2
    assert "is the disk full?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["runtime/run_video.py"], ["-m", "l2g", "run"]])
def test_both_ways_to_call_it(tmp_path, command):
    """As a script the folder of the script leads sys.path: no module there may hide a library."""
    arguments = ["--model", "m.safetensors", "--input", str(tmp_path / "no.mp4"), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *command, *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'no.mp4'}: no such file or folder; check the path\n"


def test_a_folder_that_another_run_writes_is_refused(tmp_path, backends, capsys):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(4))
    with locked(tmp_path / "out"):
        code, _ = _run(tmp_path, clip)
        assert code == 2
        assert "another run writes there now" in capsys.readouterr().err
        assert [file.name for file in (tmp_path / "out").iterdir()] == [".l2g.lock"]
    code, _ = _run(tmp_path, clip)
    assert code == 0
    assert ".l2g.lock" not in {file.name for file in (tmp_path / "out").iterdir()}
