"""A stream that fails is said and begins anew; the others' numbers stay what they are to the bit. Stalls are told."""

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from l2g.errors import L2GError
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.video.job import FlowOptions, process_videos
from l2g.runtime.video.live.health import Watchdog
from l2g.runtime.video.live.watcher import Terminal
from l2g.runtime.video.source import Selection, VideoSource
from tests.runtime.blobs import BlobBackend
from tests.runtime.clips import moving_scenes

pytestmark = pytest.mark.alone


class Frames(VideoSource):
    """Frames out of memory, at a pace."""

    height, width, frame_rate = 64, 96, 10.0

    def __init__(self, name, images, pause=0.0, live=False, times=None):
        super().__init__(name, Selection())
        self._images, self._pause, self.is_live = images, pause, live
        self._times = times or [t / 10 for t in range(len(images))]

    def _decode(self):
        for index, image in enumerate(self._images):
            time.sleep(self._pause)
            yield index, self._times[index], lambda image=image: image


class Broken(BlobBackend):
    """Fails in the step of a frame that shows nothing but white, in the way that it is told."""

    how = "nan"

    def step(self, frames, reset):
        bad = np.array([frame.min() == 255 for frame in frames])
        if self.how == "raises" and bad.any():
            raise L2GError("the library failed")
        outputs = super().step(frames, reset)
        queries, logits = outputs.queries.copy(), outputs.logits.copy()
        # What a state that is not finite does: it stays so until the stream begins anew.
        spoilt = ~np.isfinite(queries).all(axis=(1, 2)) | bad
        queries[spoilt], logits[spoilt] = np.nan, np.nan
        self.state.tensors["prior_queries"][spoilt] = np.nan
        return RawOutputs(queries, outputs.boxes, logits, outputs.mask_logits)


WHITE = np.full((64, 96, 3), 255, np.uint8)


def lines(folder):
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def run(tmp_path, backend, *sources, **how):
    said = []
    jobs = [(source, tmp_path / source.name) for source in sources]
    summaries = process_videos(backend, jobs, overlay=False, watcher=Terminal(said.append), **how)
    return summaries, said


@pytest.mark.parametrize("how", ["nan", "raises"])
def test_one_bad_stream_leaves_the_others_as_they_are(tmp_path, how):
    good = moving_scenes(10)
    bad = [*good[:4], WHITE, *good[5:]]
    backend = Broken()
    backend.how = how
    (_, summary), said = run(tmp_path / "both", backend, Frames("good", good), Frames("bad", bad))
    run(tmp_path / "alone", BlobBackend(), Frames("good", good))
    assert (tmp_path / "both/good/frames.jsonl").read_text() == (tmp_path / "alone/good/frames.jsonl").read_text()
    found = lines(tmp_path / "both/bad")
    assert [len(line["tracks"]) for line in found] == [2] * 4 + [0] + [2] * 5
    assert [line["index"] for line in found if line.get("reset") == "failed"] == [5]
    assert summary.resets == {"failed": 1}
    assert [sorted(track["id"] for track in found[at]["tracks"]) for at in (3, 5)] == [[1, 2], [3, 4]]
    assert any("begins anew" in text for text in said)


@pytest.mark.parametrize("how", ["nan", "raises"])
def test_a_single_stream_recovers_too(tmp_path, how):
    good = moving_scenes(8)
    backend = Broken()
    backend.how = how
    images = [*good[:3], WHITE, *good[4:]]
    (summary,), _ = run(tmp_path, backend, Frames("a", images, live=True), flow=FlowOptions(policy="all"))
    assert [len(line["tracks"]) for line in lines(tmp_path / "a")] == [2] * 3 + [0] + [2] * 4
    assert summary.resets == {"failed": 1}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_map_of_a_bad_frame_is_empty(tmp_path, task):
    good = moving_scenes(8)
    backend = Broken()
    backend.contract = replace(backend.contract, stuff_classes=(1,))
    (summary,), _ = run(tmp_path, backend, Frames("a", [*good[:3], WHITE, *good[4:]]), task=task)
    found = [json.loads(line) for line in (tmp_path / "a/panoptic.jsonl").read_text().splitlines()]
    assert found[3]["segments"] == []
    assert [bool(line["segments"]) for line in found] == [True] * 3 + [False] + [True] * 4
    assert [line["index"] for line in found if line.get("reset") == "failed"] == [4]
    (video,) = json.loads((tmp_path / "a/pred.json").read_text())["annotations"]
    assert [bool(frame["segments_info"]) for frame in video["annotations"]] == [True] * 3 + [False] + [True] * 4
    maps = sorted((tmp_path / "a/pan_pred").rglob("*.png"))
    assert len(maps) == summary.frames == 8
    picture = cv2.imread(str(maps[3]))
    assert picture.shape == (64, 96, 3)
    assert not picture.any()


@pytest.mark.parametrize(("how", "why"), [("nan", "NaN or infinity"), ("raises", "the library failed")])
@pytest.mark.parametrize("streams", [1, 2])
def test_a_model_that_never_gives_numbers_is_an_error(tmp_path, how, why, streams):
    backend = Broken()
    backend.how = how
    for live in (False, True):
        sources = [Frames(name, [WHITE] * 10, live=live) for name in "ab"[:streams]]
        with pytest.raises(L2GError, match=f"a: .*{why}"):
            run(tmp_path, backend, *sources, flow=FlowOptions(policy="all"))


@pytest.mark.parametrize(("how", "why"), [("nan", "NaN or infinity"), ("raises", "the library failed")])
def test_a_stream_that_never_recovers_ends_alone(tmp_path, how, why):
    good = moving_scenes(12)
    backend = Broken()
    backend.how = how
    (one, other), _ = run(tmp_path, backend, Frames("a", good), Frames("b", [*good[:3], *[WHITE] * 9]))
    assert one.damage is None
    assert [len(line["tracks"]) for line in lines(tmp_path / "a")] == [2] * 12
    assert "b: " in other.damage
    assert why in other.damage
    assert 6 <= len(lines(tmp_path / "b")) < 12


def test_a_step_of_one_stream_that_fails_leaves_the_others(tmp_path):
    """Cameras have a pace each, so that most batches are of one; all in a batch may fail too."""
    backend = Broken()
    backend.how = "raises"
    bad = Frames("bad", [*moving_scenes(3), *[WHITE] * 3, *moving_scenes(3)], 0.1, True)
    good = Frames("good", moving_scenes(24), 0.04, True)
    (one, other), _ = run(tmp_path, backend, bad, good, flow=FlowOptions(policy="all", wait=0.0))
    assert "bad: the library failed" in one.damage
    assert len(lines(tmp_path / "bad")) == 6
    assert other.damage is None
    assert [len(line["tracks"]) for line in lines(tmp_path / "good")] == [2] * 24

    images = [*moving_scenes(3), WHITE, *moving_scenes(3)]
    flow = FlowOptions(policy="all", wait=0.5)
    summaries, _ = run(tmp_path, backend, *[Frames(name, images, 0.05, True) for name in "cd"], flow=flow)
    assert [(summary.damage, summary.resets) for summary in summaries] == [(None, {"failed": 1})] * 2


def test_a_file_ends_at_once_where_the_model_fails_and_a_camera_beside_it_goes_on(tmp_path):
    failed = threading.Event()

    class Telling(Broken):
        how = "raises"

        def step(self, frames, reset):
            try:
                return super().step(frames, reset)
            except L2GError:
                failed.set()
                raise

    class Late(Frames):
        def _decode(self):
            assert failed.wait(60)  # a batch of one is what this is about
            yield from super()._decode()

    file = Frames("file", [*moving_scenes(2), WHITE, *moving_scenes(20)])
    camera = Late("camera", moving_scenes(24), 0.02, True)
    (one, other), said = run(tmp_path, Telling(), file, camera, flow=FlowOptions(policy="all", wait=0.0))
    assert "file: the library failed (2 frames were done" in one.damage
    assert (other.damage, other.resets, other.frames) == (None, {}, 24)
    assert said == []


def test_a_gap_begins_anew_on_a_live_source_alone(tmp_path):
    times = [0, 0.1, 0.2, 2.5, 2.6, 2.7]
    sources = [Frames(name, moving_scenes(6), 0.05, name == "live", times) for name in ("live", "file")]
    summaries, said = run(tmp_path, BlobBackend(), *sources, flow=FlowOptions(policy="all"))
    assert [summary.resets for summary in summaries] == [{"gap": 1}, {}]
    assert [line["index"] for line in lines(tmp_path / "live") if "reset" in line] == [3]
    assert said == ["live: begins anew at 2.5 s (gap)"]


@pytest.mark.parametrize("times", [[0, 0.9, 3.0, 5.1, 7.2], [0, 2, 4, 6, 8]])
def test_a_slow_camera_has_no_gaps(tmp_path, times):
    (summary,), _ = run(tmp_path, BlobBackend(), Frames("a", moving_scenes(5), 0.02, True, times))
    assert summary.resets == {}


def test_a_silent_source_and_a_silent_model_are_told_apart(tmp_path):
    class Sleepy(BlobBackend):
        def step(self, frames, reset):
            if self.steps == 3:
                time.sleep(1.0)
            return super().step(frames, reset)

    flow = FlowOptions(policy="all", stall=0.3)
    _, said = run(tmp_path, Sleepy(), Frames("a", moving_scenes(6), 0.05, True), flow=flow)
    assert any("the model has not answered" in text for text in said)
    assert not any("no frame for" in text for text in said)

    class Pausing(Frames):
        def _decode(self):
            for item in super()._decode():
                time.sleep(1.0 if item[0] == 3 else 0.0)
                yield item

    _, said = run(tmp_path, BlobBackend(), Pausing("b", moving_scenes(6), 0.05, True), flow=flow)
    assert any("b: no frame for" in text for text in said)
    assert any("b: gives frames again" in text for text in said)
    assert not any("model has not" in text for text in said)


class Watched:
    """What a lane is to the watchdog."""

    ended = False

    def __init__(self, rate, selection):
        self.source = Frames("a", [], live=True)
        self.source.frame_rate, self.source.selection = rate, selection


@pytest.mark.parametrize(
    ("rate", "selection", "before", "after"),
    [
        (10.0, Selection(), 0.3, 0.3),
        (2.0, Selection(), 1.5, 1.5),  # a slow source, or `rate` of a list
        (10.0, Selection(stride=5), 1.5, 1.5),
        (10.0, Selection(start=1.0), 1.3, 0.3),
    ],
)
def test_a_silence_is_longer_than_what_is_between_the_frames(rate, selection, before, after, monkeypatch):
    """Told once it is 0.3 s, or three times the spacing; before the first frame so long after the start."""
    said, now = [], [0.0]
    monkeypatch.setattr("l2g.runtime.video.live.health.time", SimpleNamespace(monotonic=lambda: now[0]))
    lane, late = Watched(rate, selection), Watched(rate, selection)
    late.source.is_open, late.source.name = False, "late"
    watchdog = Watchdog([lane, late], 0.3, Terminal(said.append))

    def told_after(seconds):
        """What it says when it looks once more, in this thread and by that clock."""
        now[0] += seconds
        watchdog._stop = Mock(**{"wait.side_effect": [False, True]})
        watchdog._look()
        return [text.split(" for")[0] for text in said]

    for limit in (before, after):
        assert told_after(limit - 0.01) == []
        assert told_after(0.02) == told_after(limit) == ["a: no frame"]
        watchdog.frame(lane)
        assert said[1:] == ["a: gives frames again"]
        said.clear()
    late.source.is_open = True
    assert "late: no frame" not in told_after(before - 0.01)
    assert "late: no frame" in told_after(0.02)


def test_the_newest_frame_is_taken_and_a_cut_in_a_dropped_frame_counts(tmp_path):
    class Slow(BlobBackend):
        def step(self, frames, reset):
            time.sleep(0.15)
            return super().step(frames, reset)

    (summary,), _ = run(tmp_path, Slow(), Frames("a", moving_scenes(40), 0.03, True), cuts=[1.55])
    found = lines(tmp_path / "a")
    assert len(found) + summary.dropped == 40
    assert summary.dropped > 15
    assert found[-1]["index"] == 39
    assert [line["time"] >= 1.5 for line in found if line.get("reset") == "cut"] == [True]


def test_a_batch_takes_whoever_has_a_frame(tmp_path):
    sizes = []

    class Recorder(BlobBackend):
        def step(self, frames, reset):
            sizes.append(len(frames))
            return super().step(frames, reset)

    fast, slow = Frames("fast", moving_scenes(30), 0.03, True), Frames("slow", moving_scenes(4), 0.25, True)
    began = time.monotonic()
    run(tmp_path, Recorder(), fast, slow, flow=FlowOptions(policy="all", wait=0.0))
    assert time.monotonic() - began < 2.5
    assert [len(lines(tmp_path / name)) for name in ("fast", "slow")] == [30, 4]
    assert sizes.count(1) > 20
