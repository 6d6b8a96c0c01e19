"""The command on real clips: equal to one process, whatever is killed; broken videos; pieces; an object store."""

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest

from l2g.batch.records import Settings
from l2g.cli.running import batch
from l2g.files import locked, write_json
from tests.batch.made import FILES, l2g_batch, one_by_one

pytestmark = pytest.mark.alone


parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")


def rays():
    """Ray's servers that were started by us."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                owner = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if "l2g-ray-" in words and owner != "Z":
                found.append(int(entry.name))
    return found


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


def test_killed_and_gone_on_equals_one_process(model, clips, tmp_path):
    """The driver and a worker are killed once each, and one of the clips is none."""
    from benchmarks.batch_kills import Seen, workers_of

    videos, out, before = tmp_path / "videos", tmp_path / "out", set(rays())
    videos.mkdir()
    for clip in clips.iterdir():
        os.link(clip, videos / clip.name)
    (videos / "broken.mp4").write_bytes(b"this is no video")
    words = ("--model", model, "--input", videos, "--output", out, "--workers", 2)
    seen = Seen()

    driver = l2g_batch(*words)
    wait_for(lambda: list(out.glob("*/video.json")) or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    seen.look(out)
    assert 0 < len(list(out.glob("[0-9]*/video.json"))) < 12, "it was killed in the middle"
    assert not (out / "manifest.parquet").exists()
    wait_for(lambda: set(rays()) <= before)

    driver = l2g_batch(*words)
    wait_for(lambda: workers_of(driver.pid) or driver.poll() is not None)
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    _, told = driver.communicate()
    seen.look(out)
    assert driver.returncode == 1, told
    assert "failed: " in told
    assert f"{videos / 'broken.mp4'}: " in told

    one_by_one(model, sorted(clips.iterdir()), tmp_path / "one")
    for clip in clips.iterdir():
        for file in FILES:
            name = f"{clip.stem}/{file}"
            assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    tracks = [json.loads((out / clip.stem / "video.json").read_text())["tracks"] for clip in clips.iterdir()]
    assert sum(tracks) > 12, "there is something to compare"
    assert not seen.again
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "batch.json", "manifest.parquet", "summary.html",
    ]  # fmt: skip
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    rows = {row["name"]: row for row in parquet.read_table(out / "manifest.parquet").to_pylist()}
    assert sorted(rows) == sorted([*(clip.stem for clip in clips.iterdir()), "broken"])
    assert [name for name, row in rows.items() if row["status"] != "done"] == ["broken"]
    assert {row["frames"] for name, row in rows.items() if name != "broken"} == {8}
    assert any(row["before"] for row in rows.values())
    page = (out / "summary.html").read_text()
    assert "13 videos: 12 done, 0 damaged, 1 failed" in page
    assert "broken" in page
    assert "http" not in page


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_whole_videos_and_no_process(how, model, clips, tmp_path):
    before, out, many = set(rays()), tmp_path / "out", tmp_path / "many"
    many.mkdir()
    for number, clip in itertools.product(range(5), clips.iterdir()):  # more than are done before the signal is heard
        os.link(clip, many / f"{number}-{clip.name}")
    driver = l2g_batch("--model", model, "--input", many, "--output", out, "--workers", 1, "--no-overlay")
    wait_for(lambda: list(out.glob("*/video.json")) or driver.poll() is not None)
    driver.send_signal(how)
    told, notes = driver.communicate(timeout=60)
    assert driver.returncode == 130, notes
    assert "not begun or in flight" in told
    assert "goes on from here" in notes
    assert set(rays()) <= before
    manifest = out / "manifest.parquet"  # not there when the first one could not be told
    rows = parquet.read_table(manifest).to_pylist() if manifest.exists() else []
    there = {path.parent for path in out.glob("*/video.json")}
    # What its worker had just finished could not be told any more.
    assert 0 <= len(there) - len({row["name"] for row in rows} & {path.name for path in there}) <= 1
    whole = ["frames.jsonl", "results.json", "video.json"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in there] == [whole] * len(there)
    assert {path for path in out.iterdir() if path.is_dir()} == there


def test_pieces_through_an_object_store(model, clips, s3, tmp_path):
    """Clips of 0.8 s in pieces of 0.3 s; the results are those of a folder."""
    for number, clip in enumerate(sorted(clips.iterdir())[:4]):
        s3.upload_file(str(clip), "clips", f"in/cam {number % 2}/{clip.name}")
    (tmp_path / "empty.mp4").touch()
    s3.upload_file(str(tmp_path / "empty.mp4"), "clips", "in/empty.mp4")
    words = ("--model", model, "--workers", 2, "--no-overlay", "--piece", 0.3, "--overlap", 0.2)
    driver = l2g_batch("--input", "s3://clips/in", "--output", "s3://clips/out", *words)
    told, notes = driver.communicate(timeout=120)
    assert driver.returncode == 1, notes
    assert "4 done, 0 damaged, 1 failed" in told
    assert "failed: s3://clips/in/empty.mp4: the file is empty" in notes
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="clips", Prefix="out/")["Contents"]}
    names = {f"cam_{number % 2}_{clip.stem}": clip for number, clip in enumerate(sorted(clips.iterdir())[:4])}
    files = [".claim", "frames.jsonl", "results.json", "video.json"]
    top = ["batch.json", "manifest.parquet", "summary.html"]
    assert keys == {f"out/{name}" for name in top} | {f"out/{name}/{file}" for name in names for file in files}
    for name in names:
        record = json.loads(s3.get_object(Bucket="clips", Key=f"out/{name}/video.json")["Body"].read())
        assert (record["frames"], record["pieces"]) == (8, 2)
        lines = s3.get_object(Bucket="clips", Key=f"out/{name}/frames.jsonl")["Body"].read().decode().splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "gone"], "gone: no such file or folder"),
        (["--input", "."], "no videos found"),
        (["--input", ".", "--workers", "0"], "0 workers found; expected 1 or more"),
        (["--input", ".", "--gpus", "-1"], "-1 gpus found; expected 0 or more"),
        (["--input", ".", "--piece", "1"], "add --no-overlay"),
        (["--input", "nowhere://a/b"], "cannot be opened"),
        (["--input", "memory://me:secret@a/b"], "memory://me:***@a/b: no videos found"),
    ],
)
def test_wrong_input(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert batch.main(["--model", "l2g_tiny", "--output", "out", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--score-threshold", "1.5"), "score threshold (birth score) 1.5 found, 0 to 1 expected"),
        (("--max-age", "-1"), "max age -1 found"),
        (("--top-k", "0"), "top-k 0 found"),
        (("--start", "-1"), "start -1 s found"),
        (("--stride", "0"), "stride 0 found"),
        (("--fps", "0"), "frame rate 0 found"),
        (("--opacity", "2"), "overlay opacity 2 found"),
        (("--trails", "-1"), "overlay trails of -1 frames found"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(option, message, tmp_path, monkeypatch, capsys):
    """The output's `batch.json` would hold them, and refuse the next run with better ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert batch.main(["--model", "l2g_tiny", "--input", "a.mp4", "--output", "out", *option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_other_options_are_not_mixed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "out").mkdir()
    write_json("out/batch.json", Settings("l2g_tiny").to_json())
    words = ["--model", "l2g_tiny", "--input", "a.mp4", "--output", "out"]
    assert batch.main([*words, "--max-age", "3", "--score-threshold", "0.1"]) == 2
    assert "another score threshold, max age (score threshold 0.5, now 0.1)" in capsys.readouterr().err


def test_an_output_takes_one_run_at_a_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with locked("out"):
        assert batch.main(["--model", "l2g_tiny", "--input", ".", "--output", "out"]) == 2
    assert "another run writes there now" in capsys.readouterr().err
