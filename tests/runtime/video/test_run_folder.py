"""A run's folder: one writer, earlier results kept by a run that fails, and going on after whatever ended it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from av.stream import Disposition

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from l2g.cli.running.run import main
from l2g.errors import L2GError, VideoError
from l2g.files import LOCK, locked
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.video.job import FlowOptions, process_video
from l2g.runtime.video.lane import OutputOptions
from l2g.runtime.video.live.cameras import Camera
from l2g.runtime.video.run_folder import KEY_FRAMES, UNFINISHED, RunFolder, packets
from l2g.runtime.video.source import open_source
from tests.cli.places import CHECKOUT
from tests.exported import edited, set_contract, small_graph
from tests.runtime.blobs import BlobBackend, scene
from tests.runtime.clips import decode, moving_scenes, write_clip
from tests.runtime.made import write_tracks

FRAMES = KEY_FRAMES + 60
NAMES = ["frames.jsonl", "overlay.mp4", "results.json"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """To and fro, so that the small model has something to show in every part of it."""
    scenes = moving_scenes(26)
    images = [scenes[abs((index + 25) % 50 - 25)] for index in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", images)


class Case(NamedTuple):
    """A model, and the frames that begin a scene."""

    graph: Path
    cuts: tuple[int, ...] = (50,)


CARRIED = ("propagate", (50,))


# A model that carries its state, and one whose slots are linked by the runtime; a scene that begins right after a
# memory was saved.
@pytest.fixture(scope="module", params=[CARRIED, ("propagate", (50, KEY_FRAMES)), ("embedding", (50,))])
def graph(request, tmp_path_factory):
    association, cuts = request.param
    text = json.dumps(OnnxRuntimeBackend(small_graph()).contract.to_dict() | {"association": association})
    return Case(edited(small_graph(), set_contract(text), tmp_path_factory.mktemp("graph") / "m.onnx"), cuts)


@pytest.fixture(scope="module")
def undisturbed(graph, clip, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    assert run(graph, clip, output) == 0
    return output


def words(model, clip, output, *more):
    graph, cuts = model if isinstance(model, Case) else Case(model)
    times = ",".join(str(cut / 10) for cut in cuts)
    words = ["--model", graph, "--input", clip, "--output", output, "--score-threshold", "0.001", "--cuts", times]
    return [*words, "--trails", "40", "--quiet", *more]


def run(graph, clip, output, *more):
    return main([*map(str, words(graph, clip, output, *more))])


def expect_equal(output, undisturbed):
    assert sorted(path.name for path in output.iterdir()) == NAMES
    for name in ("frames.jsonl", "results.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
    (ours, times, _), (theirs, expected, _) = (decode(folder / "overlay.mp4") for folder in (output, undisturbed))
    assert len(ours) == FRAMES
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(times, expected)


def test_the_model_shows_tracks(graph, undisturbed):
    """Else the others compare nothing."""
    lines = [json.loads(line) for line in (undisturbed / "frames.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines if "reset" in line] == list(graph.cuts)
    assert all(sum(len(line["tracks"]) for line in lines[at : at + 10]) > 20 for at in range(0, FRAMES, 10))


@pytest.mark.parametrize("after", [50, KEY_FRAMES + 20])
def test_a_killed_run_goes_on_as_if_nothing_had_been(graph, clip, undisturbed, tmp_path, after):
    output = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "l2g", "run", *map(str, words(graph, clip, output))]
    process = subprocess.Popen(command, env=environment)
    lines = output / UNFINISHED / "frames.jsonl"
    deadline = time.monotonic() + 60
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= after) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [name for name in NAMES if (output / name).exists()] == []
    # What it leaves is whole up to its last frames.
    left = [json.loads(line) for line in lines.read_bytes().split(b"\n")[:-1]]
    assert len(left) >= after
    assert after - 10 < packets(lines.with_name("overlay.mp4")) <= len(decode(lines.with_name("overlay.mp4"))[0])
    assert run(graph, clip, output, "--resume") == 0
    expect_equal(output, undisturbed)


@pytest.mark.parametrize("graph", [CARRIED], indirect=True)
def test_ctrl_c_keeps_the_files_and_goes_on(graph, clip, undisturbed, tmp_path, monkeypatch, capsys):
    step, steps = OnnxRuntimeBackend.step, []

    def interrupted(self, frames, reset):
        steps.append(1)
        if len(steps) in (KEY_FRAMES + 9, KEY_FRAMES + 40):
            raise KeyboardInterrupt
        return step(self, frames, reset)

    monkeypatch.setattr(OnnxRuntimeBackend, "step", interrupted)
    output = tmp_path / "out"
    assert run(graph, clip, output) == 130
    assert len((output / "frames.jsonl").read_text().splitlines()) == KEY_FRAMES + 8
    assert len(decode(output / "overlay.mp4")[0]) == KEY_FRAMES + 8
    assert run(graph, clip, output, "--resume") == 130
    assert run(graph, clip, output, "--resume") == 0
    told = capsys.readouterr()
    assert "nothing to resume" not in told.err
    assert f"note: went on after {KEY_FRAMES} frames" in told.err
    last = re.findall(r"(\d+) frames, (\d+) of them new, in ([\d.]+) s \(([\d.]+) frames/s\)", told.out)[-1]
    assert last[:2] == (str(FRAMES), str(FRAMES - KEY_FRAMES))
    assert int(last[1]) / float(last[3]) == pytest.approx(float(last[2]), abs=0.06)
    expect_equal(output, undisturbed)


@pytest.mark.parametrize("graph", [CARRIED], indirect=True)
def test_without_the_option_it_begins_anew(graph, clip, undisturbed, tmp_path, monkeypatch):
    output = tmp_path / "out"
    (output / UNFINISHED).mkdir(parents=True)
    (output / UNFINISHED / "frames.jsonl").write_text("of another run\n")
    (output / UNFINISHED / "memory-000000120.npz").write_bytes(b"rubbish")
    assert run(graph, clip, output) == 0
    expect_equal(output, undisturbed)


@pytest.mark.parametrize("graph", [CARRIED], indirect=True)
def test_rubbish_is_nothing_to_go_on_from(graph, clip, undisturbed, tmp_path):
    output = tmp_path / "out"
    (output / UNFINISHED).mkdir(parents=True)
    (output / UNFINISHED / "memory-000000120.npz").write_bytes(b"rubbish")
    assert run(graph, clip, output, "--resume") == 0
    expect_equal(output, undisturbed)


@pytest.mark.parametrize("damage", ["a bit", "an array", "a claim", "cut"])
def test_a_memory_that_is_not_as_it_was_written_is_none(tmp_path, damage):
    """One bit of a state leads elsewhere in silence; an array of another shape ended in a traceback."""
    memory = {"queries": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}
    folder = RunFolder(tmp_path, {"overlay": False})
    folder.save(7, memory, 0, 0)
    for name in ("frames.jsonl", "results.spool"):
        (tmp_path / UNFINISHED / name).touch()
    folder.unended = True
    folder.close(7)
    path = tmp_path / UNFINISHED / "memory-000000007.npz"
    content = path.read_bytes()
    folder = RunFolder(tmp_path, {"overlay": False}, resume=True)
    assert folder.saved.frames == 7
    assert np.array_equal(folder.saved.memory["queries"], memory["queries"])
    folder.unended = True
    folder.close(7)
    if damage == "a bit":
        place = content.index(memory["queries"].tobytes())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:-40])
    else:
        with np.load(io.BytesIO(content[:-32])) as found:
            arrays = dict(found) | {"queries": np.zeros(2)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path.write_bytes(buffer.getvalue() + content[-32:] * (damage == "a claim"))
    folder = RunFolder(tmp_path, {"overlay": False}, resume=True)
    assert folder.saved is None
    folder.close(0)


def test_nothing_to_resume_is_said(clip, tmp_path, capsys):
    output = tmp_path / "out"
    for replaced in ("", ", in place of the results there"):
        assert run(small_graph(), clip, output, "--end", "0.5", "--resume") == 0
        assert f"note: nothing to resume in {output}: from the beginning{replaced}\n" in capsys.readouterr().err
    assert run(small_graph(), clip, output, "--end", "0.5") == 0
    assert "nothing to resume" not in capsys.readouterr().err


def fail_at(monkeypatch, number):
    step, steps = OnnxRuntimeBackend.step, []

    def failing(self, frames, reset):
        steps.append(1)
        if len(steps) == number:
            raise L2GError("the model broke")
        return step(self, frames, reset)

    monkeypatch.setattr(OnnxRuntimeBackend, "step", failing)


@pytest.mark.parametrize("at", [1, KEY_FRAMES + 20])
def test_a_failed_run_leaves_the_results_of_the_run_before(clip, tmp_path, monkeypatch, at, capsys):
    output, graph = tmp_path / "out", small_graph()
    assert run(graph, clip, output) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert sorted(before) == NAMES
    fail_at(monkeypatch, at)
    assert run(graph, clip, output) == 2
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    assert (output / UNFINISHED).exists() == (at > 1)
    if at > 1:
        assert f"{at - 1} frames were done and are in {output / UNFINISHED}; --resume" in capsys.readouterr().err
        assert run(graph, clip, output, "--resume") == 0
        assert {path.name for path in output.iterdir()} == set(NAMES)
        assert (output / "frames.jsonl").read_bytes() == before["frames.jsonl"]


def test_a_run_of_other_settings_is_not_gone_on_with(clip, tmp_path, monkeypatch, capsys):
    fail_at(monkeypatch, KEY_FRAMES + 1)
    output = tmp_path / "out"
    assert run(small_graph(), clip, output) == 2
    assert run(small_graph(), clip, output, "--resume", "--top-k", "7") == 2
    assert "of a run with another top-k (50 there, 7 here)" in capsys.readouterr().err
    assert run(small_graph(), clip, output, "--resume") == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"camera": Camera("a", "a", rotation=180)}, "track or view"),
        ({"camera": Camera("a", "a", region=(0.0, 0.0, 0.5, 1.0))}, "frame size"),
        ({"camera": Camera("a", "a", rate=100.0)}, "track or view"),
        ({"track": 0}, "track or view"),
        ({"device": "cuda"}, "library, device or precision"),
        ({"precision": "bf16"}, "library, device or precision"),
        ({"library": "tensorrt-rtx"}, "library, device or precision"),
        ({"encoder": "auto"}, "encoder"),
        ({"kind": type("OtherBackend", (BlobBackend,), {})}, "library, device or precision"),
    ],
)
def test_what_is_looked_at_and_what_runs_the_model_stay_the_same(change, named, tmp_path):
    """Each changes the results, and neither the contract nor the source's size or rate."""
    images = [scene(64, 96, [(0, (index % 50, 10, index % 50 + 30, 40))]) for index in range(KEY_FRAMES + 5)]
    times, flags = np.arange(len(images)) / 10, (Disposition(0), Disposition.default)
    path = write_tracks(tmp_path / "a.mkv", [(images, times, "libx264", flag) for flag in flags])

    def go(
        resume, track=1, camera=None, kind=BlobBackend, device="cpu", precision=None, library="tensorrt", encoder=None
    ):
        backend, steps = kind(), []
        backend.library, backend.device, backend.precision = library, device, precision
        step = backend.step

        def interrupted(frames, reset):
            steps.append(1)
            if not resume and len(steps) == KEY_FRAMES + 2:
                raise KeyboardInterrupt
            return step(frames, reset)

        backend.step = interrupted
        with open_source(path, track=track) as source:
            view = camera.view(source) if camera else source
            output, flow = OutputOptions(resume=resume, encoder=encoder), FlowOptions(overlap=False)
            return process_video(backend, view, tmp_path / "out", overlay=False, output=output, flow=flow)

    assert go(False).interrupted
    with pytest.raises(VideoError, match=f"of a run with another ({named}) "):
        go(True, **change)
    assert go(True).done_before == KEY_FRAMES


def test_a_run_of_an_earlier_version_is_not_said_to_be_of_other_settings(tmp_path):
    """It did not keep all that is kept now; where that is nothing, the run goes on."""
    run = RunFolder(tmp_path, {"top-k": 7})
    (run.work / "frames.jsonl").touch()
    (run.work / "results.spool").touch()
    run.save(KEY_FRAMES, {}, 0, 0)
    run.unended = True
    run.close(KEY_FRAMES)
    with pytest.raises(VideoError, match="that an earlier version began, which did not keep its device; start again"):
        RunFolder(tmp_path, {"top-k": 7, "device": "cpu"}, resume=True)
    run = RunFolder(tmp_path, {"top-k": 7, "device": None}, resume=True)
    assert run.saved.frames == KEY_FRAMES
    run.close(0)


def test_the_second_into_one_folder_writes_nothing(clip, tmp_path, capsys):
    output = tmp_path / "out"
    with locked(output):
        assert run(small_graph(), clip, output) == 2
        assert [path.name for path in output.iterdir()] == [LOCK]
    assert f"another run writes there now (process {os.getpid()})" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*NAMES, UNFINISHED, f"{UNFINISHED}/frames.jsonl", f"{UNFINISHED}/overlay.mp4"])
def test_links_are_not_followed(clip, tmp_path, name):
    output, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("precious")
    (output / name).parent.mkdir(parents=True)
    (output / name).symlink_to(victim)
    assert run(small_graph(), clip, output, "--end", "0.2") == (2 if name == UNFINISHED else 0)
    assert victim.read_text() == "precious"
    if name in NAMES:
        assert not (output / name).is_symlink()


def test_a_link_to_a_folder_is_not_written_through(clip, tmp_path):
    output, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    (victim / "frames.jsonl").write_text("precious")
    output.mkdir()
    (output / UNFINISHED).symlink_to(victim)
    assert run(small_graph(), clip, output, "--end", "0.2") == 2
    assert (victim / "frames.jsonl").read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_one_error(clip, tmp_path, name, make, capsys):
    output = tmp_path / "out"
    output.mkdir()
    make(output / name)
    assert run(small_graph(), clip, output, "--end", "0.2") == 2
    assert f"{output / name}: cannot be written" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == [name]


def test_an_unfinished_file_is_no_input(clip, tmp_path, capsys):
    work = tmp_path / "out" / UNFINISHED
    work.mkdir(parents=True)
    (work / "overlay.mp4").write_bytes(clip.read_bytes())
    assert run(small_graph(), work / "overlay.mp4", tmp_path / "out") == 2
    assert "is the file that would be written" in capsys.readouterr().err
    assert (work / "overlay.mp4").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize("kilobytes", [4, 60])
def test_a_full_disk_is_one_error_and_no_half_file(tmp_path, kilobytes):
    """A limit on the size of files stands for the disk: writing fails in the same places."""
    clip = write_clip(tmp_path / "clip.mp4", moving_scenes(200, height=120, width=160))
    output = tmp_path / "out"
    command = f"trap '' XFSZ; ulimit -f {kilobytes}; exec {sys.executable} -m l2g run " + " ".join(
        map(str, words(small_graph(), clip, output))
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    if (output / "frames.jsonl").exists():
        assert all(json.loads(line) for line in (output / "frames.jsonl").read_text().splitlines())
    if (output / "overlay.mp4").exists():
        assert len(decode(output / "overlay.mp4")[0]) > 0
    if (output / "results.json").exists():
        json.loads((output / "results.json").read_text())
    assert not list(output.glob(".*.part"))


def test_what_does_not_come_again_is_not_gone_on_with(clip, tmp_path, capsys):
    for option in (("--jsonl", "-"), ("--policy", "latest")):
        assert run(small_graph(), clip, tmp_path / "out", "--resume", *option) == 2
        assert f"{clip}: cannot be resumed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_clip_of_the_same_name_is_not_gone_on_with(clip, tmp_path, monkeypatch, capsys):
    fail_at(monkeypatch, KEY_FRAMES + 1)
    ours, output = tmp_path / clip.name, tmp_path / "out"
    ours.write_bytes(clip.read_bytes())
    assert run(small_graph(), ours, output) == 2
    write_clip(ours, moving_scenes(FRAMES + 1))
    assert run(small_graph(), ours, output, "--resume") == 2
    assert "of a run with another length of the source" in capsys.readouterr().err


def test_video_errors_name_the_folder(tmp_path):
    with pytest.raises(VideoError, match="cannot be made"), locked(tmp_path / "clip" / "\0", VideoError):
        pass
