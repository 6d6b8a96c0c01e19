"""Several inputs at once: each video's results are those that it has alone; and the runtime needs no torch for it."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from l2g.cli.running import run as run_video
from l2g.errors import VideoError
from l2g.runtime.video.pipeline import ReadAhead
from l2g.runtime.video.results import JsonLinesSink
from l2g.runtime.video.source import last_part
from tests.no_torch import BLOCK
from tests.runtime.blobs import BlobBackend, scene
from tests.runtime.clips import cut, decode, moving_scenes, noisy, write_clip


class Recorder(BlobBackend):
    """Notes how many streams each step held."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.streams = []

    def step(self, frames, reset):
        self.streams.append(len(frames))
        return super().step(frames, reset)


@pytest.fixture
def backends(monkeypatch):
    opened = []

    def open_backend(model, *, top_k, canvas=None, portrait=False, **_):
        opened.append(Recorder(canvas or ((96, 64) if portrait else (64, 96))))
        return opened[-1]

    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", open_backend)
    return opened


def _run(output, *inputs, options=()):
    return run_video.main(["--model", "m", "--input", *map(str, inputs), "--output", str(output), *options])


def _clips(tmp_path):
    """Three videos of other lengths, sizes and contents."""
    tall = [scene(160, 90, [(2, (20, 30 + i, 70, 90 + i))]) for i in range(8)]
    return [
        write_clip(tmp_path / "a.mp4", moving_scenes(12)),
        write_clip(tmp_path / "b.mp4", moving_scenes(5, 120, 180)[::-1]),
        write_clip(tmp_path / "c.mp4", tall),
    ]


def test_each_video_gives_what_it_gives_alone(tmp_path, backends, capsys):
    clips = _clips(tmp_path)
    assert _run(tmp_path / "all", *clips) == 0
    printed = capsys.readouterr().out
    assert backends[0].streams == [3] * 5 + [2] * 3 + [1] * 4
    assert backends[0].closed
    assert sorted(folder.name for folder in (tmp_path / "all").iterdir()) == ["a", "b", "c"]
    for clip, length in zip(clips, (12, 5, 8), strict=True):
        assert f"{clip}: {length} frames in" in printed
        together, alone = tmp_path / "all" / clip.stem, tmp_path / f"alone-{clip.stem}"
        assert _run(alone, clip, options=("--size", "64x96")) == 0
        assert sorted(file.name for file in together.iterdir()) == ["frames.jsonl", "overlay.mp4", "results.json"]
        for name in ("frames.jsonl", "results.json"):
            assert (together / name).read_text() == (alone / name).read_text(), name
        lines = [json.loads(line) for line in (together / "frames.jsonl").read_text().splitlines()]
        assert len(lines) == length
        assert all(line["tracks"] for line in lines)
        assert len(decode(together / "overlay.mp4")[0]) == length


def test_one_input_writes_straight_into_the_folder(tmp_path, backends):
    assert _run(tmp_path / "out", _clips(tmp_path)[0]) == 0
    assert (tmp_path / "out" / "frames.jsonl").is_file()


def test_folders_of_equal_names_are_numbered(tmp_path):
    (tmp_path / "notes.raw").touch()
    expected = {
        "x/cam.mp4": "cam",
        "y/cam.mkv": "cam-2",
        "cam": "cam-3",
        "rtsp://host:554/live?id=1": "live_id_1",
        "rtsp://10.0.0.1": "10.0.0.1",
        "rtsp://10.0.0.2": "10.0.0.2",
        "rtsp://host/gate.north": "gate.north",
        "http://host/live.ts": "live",
        "http://host/index.m3u8": "index",
        f"https://host/door.mp4?X-Amz-Signature={'a/b.' * 100}": "door",
        "http://host/yard.mp4#t=3": "yard",
        "http://host/play?file=hall.mp4": "play_file_hall",
        str(tmp_path / "notes.raw"): "notes",
        "..": "video",
    }
    folders = run_video.output_folders([last_part(name) for name in expected], "out")
    assert [folder.as_posix() for folder in folders] == [f"out/{name}" for name in expected.values()]


def test_a_camera_s_folder_has_all_of_its_name(tmp_path, backends):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(3))
    names = ["gate.north", "gate.south", "hall/door", "10.0.0.1"]
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("".join(f"- {{name: {name}, url: {clip}}}\n" for name in names))
    assert _run(tmp_path / "out", cameras) == 0
    found = sorted(folder.name for folder in (tmp_path / "out").iterdir())
    assert found == ["10.0.0.1", "gate.north", "gate.south", "hall_door"]


@pytest.mark.parametrize("later", ["- {name: c, url: x}", "["])
def test_a_list_of_cameras_may_change_while_it_runs(tmp_path, backends, monkeypatch, capsys, later):
    names = {"left": 5, "right": 8}
    entries = [
        f"- {{name: {name}, url: {write_clip(tmp_path / f'{count}.mp4', moving_scenes(count))}}}\n"
        for name, count in names.items()
    ]
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("".join(entries))
    monkeypatch.setattr(Recorder, "close", lambda self: cameras.write_text(later))
    assert _run(tmp_path / "out", cameras) == 0
    assert cameras.read_text() == later
    printed = capsys.readouterr().out
    for name, count in names.items():
        assert f"{name}: {count} frames in" in printed


def test_a_damaged_video_ends_alone(tmp_path, backends, capsys):
    clip = write_clip(tmp_path / "b.mp4", noisy(moving_scenes(30)), container_options={"movflags": "faststart"})
    whole = write_clip(tmp_path / "a.mp4", moving_scenes(12))
    assert _run(tmp_path / "out", whole, cut(clip, 0.2)) == 1
    assert f"warning: {clip}: the file is damaged" in capsys.readouterr().err
    lengths = [len((tmp_path / "out" / name / "frames.jsonl").read_text().splitlines()) for name in "ab"]
    assert lengths[0] == 12
    assert 0 < lengths[1] < 12


def test_a_source_that_gives_nothing_ends_alone(tmp_path, backends, capsys):
    """One second is too late for a clip of half a second, but not for the other."""
    short, long = write_clip(tmp_path / "s.mp4", moving_scenes(5)), write_clip(tmp_path / "l.mp4", moving_scenes(15))
    assert _run(tmp_path / "out", short, long, options=("--start", "1")) == 1
    assert "no frame from 1 s on found" in capsys.readouterr().err
    assert len((tmp_path / "out" / "l" / "frames.jsonl").read_text().splitlines()) == 5
    assert _run(tmp_path / "out", short, short, options=("--start", "1")) == 2


def test_a_missing_input_costs_nothing(tmp_path, backends, capsys):
    assert _run(tmp_path / "out", _clips(tmp_path)[0], tmp_path / "no.mp4") == 2
    assert "no.mp4: no such file or folder" in capsys.readouterr().err
    assert backends == []
    assert not (tmp_path / "out").exists()


def test_the_canvas_stands_upright_only_where_all_do(tmp_path, backends):
    wide, tall = _clips(tmp_path)[0], _clips(tmp_path)[2]
    for inputs, canvas in (((wide, tall), (64, 96)), ((tall, tall), (96, 64))):
        assert _run(tmp_path / "out", *inputs) == 0
        assert (backends[-1].contract.height, backends[-1].contract.width) == canvas


def test_interrupt_keeps_what_was_done_of_each(tmp_path, backends, monkeypatch, capsys):
    step = Recorder.step

    def interrupted(self, frames, reset):
        if self.steps == 6:
            raise KeyboardInterrupt
        return step(self, frames, reset)

    monkeypatch.setattr(Recorder, "step", interrupted)
    assert _run(tmp_path / "out", *_clips(tmp_path)) == 130
    for name, length in (("a", 6), ("b", 5), ("c", 6)):
        assert len((tmp_path / "out" / name / "frames.jsonl").read_text().splitlines()) == length
        assert len(decode(tmp_path / "out" / name / "overlay.mp4")[0]) == length


def test_a_full_disk_ends_all_and_does_not_hang(tmp_path, backends, monkeypatch, capsys):
    def full(self, result):
        raise VideoError("frames.jsonl: writing failed (No space left on device); is the disk full?")

    monkeypatch.setattr(JsonLinesSink, "write", full)
    assert _run(tmp_path / "out", *_clips(tmp_path)) == 2
    assert "is the disk full?" in capsys.readouterr().err


def test_reading_ahead_keeps_order_errors_and_bounds():
    given = []

    def items():
        for number in range(20):
            given.append(number)
            yield number
        raise VideoError("the end")

    reader = ReadAhead(items(), depth=2)
    assert next(reader) == 0
    time.sleep(0.3)
    assert len(given) <= 4  # one taken, two waiting, one in hand
    taken = []
    with pytest.raises(VideoError, match="the end"):
        taken.extend(reader)
    assert taken == list(range(1, 20))
    assert list(reader) == []


def test_a_reader_that_is_closed_closes_its_source_and_ends_its_thread():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reader = ReadAhead(endless())
    assert next(reader) == 1
    reader.close()
    assert closed.is_set()
    assert list(reader) == []


def test_without_torch_the_command_runs_a_graph(tmp_path):
    """Two videos at once on an exported graph, in a process where torch cannot be imported."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from l2g.export.exporter import ExportOptions, export
    from tests.modeling.small import small_model

    model, graph = small_model(), tmp_path / "confident.onnx"
    with torch.no_grad():
        model.heads.class_embed.bias += 3  # of random weights, which are sure of nothing
    export(model, graph, ExportOptions())
    clips = [write_clip(tmp_path / "a.mp4", noisy(moving_scenes(6))), write_clip(tmp_path / "b.mp4", moving_scenes(3))]
    arguments = ["--model", str(graph), "--input", *map(str, clips), "--output", str(tmp_path / "out")]
    code = BLOCK + (
        "from l2g.cli.running.run import main\n"
        f"code = main({[*arguments, '--score-threshold', '0.1']!r})\n"
        "assert not any(name.split('.')[0] == 'torch' for name in sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, length in (("a", 6), ("b", 3)):
        lines = [json.loads(line) for line in (tmp_path / "out" / name / "frames.jsonl").read_text().splitlines()]
        assert len(lines) == length
        assert np.mean([len(line["tracks"]) for line in lines]) > 1
        assert (tmp_path / "out" / name / "overlay.mp4").stat().st_size > 1000
