"""Hard cuts: found in the frame where they are, and nothing else taken for one."""

import json

import numpy as np
import pytest

from l2g.data.synthetic.video import synthetic_video
from l2g.errors import VideoError
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.video.cuts import CutDetector, NamedCuts, cut_finder
from l2g.runtime.video.job import process_videos
from l2g.runtime.video.source import open_source
from l2g.tracker import Tracker
from tests.runtime.blobs import BlobBackend
from tests.runtime.clips import moving_scenes, write_clip


def drawn(index, frames=16, size=(96, 160)):
    return synthetic_video("val", index, seed=7, frames=frames, size=size).frames


def found(frames):
    detector = CutDetector()
    return [t for t, frame in enumerate(frames) if detector.is_cut(frame)]


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (480, 864)])
def test_cuts_are_found_in_their_very_frame(size):
    frames = np.concatenate([drawn(index, 8, size) for index in range(5)])
    assert found(frames) == [8, 16, 24, 32]


def test_a_scene_has_none():
    assert [found(drawn(index, 24)) for index in range(8)] == [[]] * 8


def test_a_pan_is_none():
    frames = drawn(3, 24, (96, 480))
    assert found([frame[:, 10 * t : 10 * t + 160] for t, frame in enumerate(frames)]) == []


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(("gain", "offset"), [(1.6, 60), (2.5, 120), (3, 160), (2, 200), (1, 255)])
def test_a_flash_is_none(length, gain, offset):
    for index in range(12):
        frames = drawn(index, 24).astype(float)
        frames[10 : 10 + length] = frames[10 : 10 + length] * gain + offset
        assert found(np.clip(frames, 0, 255).astype(np.uint8)) == []


def test_a_fade_is_none():
    frames = drawn(5, 30)
    share = np.clip(np.abs(np.arange(30) - 15) / 8, 0, 1)[:, None, None, None]
    assert found((frames * share).astype(np.uint8)) == []


def test_other_light_is_none():
    frames = drawn(6, 24).astype(float)
    frames[12:] *= (0.5, 0.4, 0.3)
    assert found(frames.astype(np.uint8)) == []


def test_noise_and_flat_pictures_are_none():
    rng = np.random.default_rng(0)
    assert found(rng.integers(0, 256, (20, 64, 96, 3), dtype=np.uint8)) == []
    assert found(np.full((20, 64, 96, 3), 90, np.uint8)) == []


def test_a_cut_after_a_black_pause_or_in_bright_snow_is_found():
    black = np.zeros((2, 96, 160, 3), np.uint8)
    assert found(np.concatenate([drawn(0, 10), black, drawn(1, 6)])) == [12]
    snow = [np.clip(frame.astype(int) + 120, 0, 255).astype(np.uint8) for frame in [*drawn(0, 16), *drawn(2, 6)]]
    assert len(found(snow)) <= 1


def test_named_times():
    cuts = NamedCuts([2.0, 0.5])
    assert [time for time in (0, 0.4, 0.4996, 0.6, 1.9, 2.3, 2.4) if cuts.is_cut(None, time)] == [0.4996, 2.3]
    for wrong in ("sometimes", [-1.0], [float("nan")]):
        with pytest.raises(VideoError, match="expected"):
            cut_finder(wrong)


@pytest.fixture
def two_scenes(tmp_path):
    return write_clip(tmp_path / "a.mp4", [*moving_scenes(8), *moving_scenes(8)])


def lines(folder):
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def test_after_a_cut_a_video_gives_what_its_scenes_give_alone(two_scenes, tmp_path):
    """Named, since the two scenes are alike."""
    with open_source(two_scenes) as source:
        process_videos(BlobBackend(), [(source, tmp_path / "out")], overlay=False, cuts=[0.8])
    with open_source(two_scenes) as source:
        process_videos(BlobBackend(), [(source, tmp_path / "uncut")], overlay=False, cuts="off")
    cut, uncut = lines(tmp_path / "out"), lines(tmp_path / "uncut")
    assert [line["index"] for line in cut if line.get("reset") == "cut"] == [8]
    assert {track["id"] for line in cut[:8] for track in line["tracks"]} == {1, 2}
    assert {track["id"] for line in cut[8:] for track in line["tracks"]} == {3, 4}
    assert {track["id"] for line in uncut for track in line["tracks"]} == {1, 2}
    # The scores tell the history that the state carries: those of the second scene are those of a first one.
    scores = [[track["score"] for track in line["tracks"]] for line in cut]
    np.testing.assert_allclose(scores[8:], scores[:8], atol=2e-3)
    assert scores[8] != [track["score"] for track in uncut[8]["tracks"]]


def test_the_tracker_cuts_as_a_run_does(two_scenes, tmp_path):
    with open_source(two_scenes) as source:
        process_videos(BlobBackend(), [(source, tmp_path / "out")], overlay=False, cuts=[0.8])
    with open_source(two_scenes) as source, Tracker(BlobBackend(), cuts=[0.8]) as tracker:
        results = [tracker.update(frame.image, frame.time) for frame in source]
    assert [[t.track_id for t in result.tracks] for result in results] == [
        [track["id"] for track in line["tracks"]] for line in lines(tmp_path / "out")
    ]
    assert [result.reset for result in results] == [None] * 8 + ["cut"] + [None] * 7


def test_only_the_stream_that_is_cut_begins_anew():
    frames = np.concatenate([drawn(0, 6, (64, 96)), drawn(1, 6, (64, 96))])
    seen = []

    class Recorder(BlobBackend):
        def step(self, frames, reset):
            seen.append(list(reset))
            return super().step(frames, reset)

    with Tracker(Recorder()) as tracker:
        for t, frame in enumerate(frames):
            tracker.update_many({"cut": frame, "calm": moving_scenes(12)[t]})
    assert [row for row in seen if any(row)] == [[True, True], [True, False]]
    assert seen[6] == [True, False]


def test_the_padding_of_the_canvas_tells_nothing():
    """A picture of 1:3 on a canvas of 2:3: the padding below is the same in both scenes."""
    backend = BlobBackend()
    frames = np.concatenate([drawn(0, 6, (32, 96)), drawn(1, 6, (32, 96))])
    box = letterbox_of(backend.contract, 32, 96)
    detector = CutDetector()
    canvases = [box.to_canvas(frame) for frame in frames]
    assert [t for t, canvas in enumerate(canvases) if detector.is_cut(box.content(canvas))] == [6]
