"""Every command that writes, where it cannot: a full disk, a folder of somebody else, no home."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from l2g.data.synthetic.dataset import write_synthetic
from tests.exported import small_checkpoint, small_graph
from tests.mutations.child import Forks, Place
from tests.runtime.clips import moving_scenes, noisy, write_clip
from tests.training.small import small

# A number that no account has.
STRANGER = 54_321
# Root may write everywhere; without these it is held to permissions like everybody.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


@pytest.fixture(scope="module")
def place():
    folder = Path(tempfile.mkdtemp(prefix="l2g-places-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def commands(place):
    """By name: the words of a command that writes into OUT, which is there."""
    clip = write_clip(place / "clip.mp4", noisy(moving_scenes(20, height=120, width=160)))
    data = write_synthetic(place / "data", "val", seed=3, videos=2, frames=3, size=(64, 96))
    graph, model = (
        shutil.copy(small_graph(), place / "m.onnx"),
        shutil.copy(small_checkpoint(), place / "m.safetensors"),
    )
    truth = data / "instances.json"
    marks = json.loads(truth.read_text())["annotations"]
    found = [
        {key: mark[key] for key in ("video_id", "category_id", "segmentations")} | {"score": 0.5} for mark in marks
    ]
    (place / "found.json").write_text(json.dumps(found))
    few = ("--quiet", "--videos=1", "--frames=2", "--span=2", "--method=max", "--search-videos=1", "--max-trials=0",
           "--probe-frames=1", "--verdict-videos=1", "--ap-budget=none")  # fmt: skip
    quick = ("--compute-capability=8.9", "--no-cache", "--no-verify", "--quiet", "--optimization-level=0")
    phase = "phases=[{kind: image, iterations: 1, batch_size: 1}]"
    twice = phase.replace("iterations: 1", "iterations: 2")
    words = {
        "run": ("run", "--model", graph, "--input", clip, "--output", "OUT", "--quiet"),
        "demo": ("demo", "--model", model, "--output", "OUT"),
        "evaluate": ("evaluate", "--model", graph, "--dataset", data, "--results", "OUT/r.json", "--quiet"),
        "report": ("evaluate", "--model", graph, "--dataset", data, "--report", "OUT/r.json", "--quiet"),
        "parity": ("parity", "--reference", model, "--candidate", graph, "--dataset", data, "--report=OUT", "--quiet"),
        "metrics": ("metrics", "vis-ap", "--ground-truth", truth, "--results", place / "found.json", "--json", "OUT/s"),
        "export": ("export", "--ckpt", model, "--output", "OUT/m.onnx", "--quiet"),
        "quantize": ("quantize", "--ckpt", graph, "--dataset", data, "--output", "OUT/q.onnx", *few),
        "train": ("train", "--config", "synthetic_tiny", "--output", "OUT", *small(), phase, "evaluation.every=0"),
        "resume": ("train", "--config", "synthetic_tiny", "--output", "OUT", *small(), twice, "save_every=1", "ema=0"),
        "draw": ("data", "draw", "--split=val", "--videos=2", "--frames=2", "--output", "OUT/drawn"),
        "panoptic": ("data", "draw", "--panoptic", "--split=val", "--videos=1", "--frames=2", "--output", "OUT/drawn"),
        "convert": ("data", "convert", data, "--to=coco_video", "--output", "OUT/converted"),
        "masks": ("data", "convert", data, "--to=masks", "--output", "OUT/converted"),
        "triton": ("triton", graph, "--output", "OUT"),
        "check": ("gpu-check", "--device=cpu", "--quick", "--minutes=0.0001", "--models=l2g_tiny", "--output=OUT"),
        "bench": ("bench", graph, "--frames=2", "--output", "OUT", "--quiet"),
        "build": ("build", "--onnx", graph, "--output", "OUT/m.engine", "--library=tensorrt-rtx", *quick),
    }
    return {name: [str(word) for word in found] for name, found in words.items()}


@pytest.fixture(scope="module")
def forks():
    with Forks() as running:
        yield running


@pytest.fixture(scope="module")
def unprivileged():
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv here")
    with Forks(UNPRIVILEGED if os.getuid() == 0 else ()) as running:
        yield running


# The trainer saves where it can go on from, then its weights; the rest of `quantize` is what `export` does.
NAMES = ("run", "evaluate", "report", "parity", "metrics", "export", "quantize", "resume", "train", "draw",
         "panoptic", "convert", "masks", "triton", "bench")  # fmt: skip


def outcome(forks, commands, folder, name, place=None, mode=0o755):
    out = folder / "out"
    if out.exists():
        out.chmod(0o755)
        shutil.rmtree(out)
    out.mkdir()
    out.chmod(mode)
    words = [word.replace("OUT", str(out)) for word in commands[name]]
    return forks.outcome_of(words, folder / "log", out, place=place), out


def expect_one_error(found, out):
    assert found.kind == "error", found.text
    assert sum(line.startswith("error: ") for line in found.text.splitlines()) == 1, found.text
    assert "this is a bug" not in found.text


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(forks, commands, place, name):
    """A limit on the size of files stands for the disk: writing fails in the same places. What is said is in a file
    too, and `bench` says a table."""
    found, out = outcome(forks, commands, place, name, Place(file_bytes=1300 if name == "bench" else 700))
    expect_one_error(found, out)
    for path in out.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("name", [*NAMES, "demo", "build", "check"])
def test_a_folder_of_somebody_else(unprivileged, commands, place, name):
    """Said before the work, or where all of it is to load libraries, in its place."""
    found, out = outcome(unprivileged, commands, place, name, mode=0o555)
    expect_one_error(found, out)
    assert "ermission" in found.text
    assert list(out.rglob("*")) == []
    assert found.seconds < 20


LINKED = ("run", "evaluate", "report", "metrics", "draw", "panoptic", "convert", "masks", "triton")


@pytest.mark.parametrize("name", LINKED)
def test_links_in_the_place_of_files_lead_nowhere(forks, commands, place, name):
    """Somebody who may write into the folder cannot have a file of ours, elsewhere, written over."""
    found, out = outcome(forks, commands, place, name)
    assert found.kind == "result", found.text
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    victims = place / "victims"
    shutil.rmtree(victims, ignore_errors=True)
    victims.mkdir()
    shutil.rmtree(out)
    for number, file in enumerate(files):
        (victims / str(number)).write_text("mine")
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).symlink_to(victims / str(number))
    words = [word.replace("OUT", str(out)) for word in commands[name]]
    assert forks.outcome_of(words, place / "log", out).kind in ("result", "error")
    assert len(files) >= 1
    assert {(victims / str(number)).read_text() for number in range(len(files))} == {"mine"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("name", ["run", "evaluate", "draw"])
def test_nobody_without_a_home(forks, commands, place, name):
    """A user without a name, as containers have them: what is cached goes to a folder of theirs."""
    cache = place / f"l2g-{STRANGER}"
    cache.mkdir(mode=0o700, exist_ok=True)
    os.chown(cache, STRANGER, -1)
    nobody = Place(user=STRANGER, unset=("HOME", "L2G_CACHE", "XDG_CACHE_HOME"), environment={"TMPDIR": str(place)})
    found, out = outcome(forks, commands, place, name, nobody)
    assert found.kind == "result", found.text
    assert list(out.rglob("*"))
    assert (name == "run") <= any(cache.iterdir()), "the graph as it was optimised"
