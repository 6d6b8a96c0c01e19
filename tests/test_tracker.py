"""Tracker: frame in, tracks out, equal to a whole run over the video, stream by stream."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import l2g
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.video.source import open_source
from tests.runtime.blobs import BlobBackend, scene
from tests.runtime.clips import moving_scenes, write_clip

CLIP = Path(__file__).parents[1] / "examples/demo/clip.mp4"


class _Recorder(BlobBackend):
    """Keeps what it was given."""

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.canvases, self.resets = [], []

    def step(self, frames, reset):
        self.canvases.append(frames.copy())
        self.resets.append(list(reset))
        return super().step(frames, reset)


def _lines(folder):
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def _line(result):
    """A result as `frames.jsonl` has it, spelled out here."""
    return {
        "index": result.index,
        "time": round(result.time, 6),
        "tracks": [
            {
                "id": track.track_id,
                "label": track.label,
                "name": result.class_names[track.label],
                "score": round(track.score, 6),
                "box": list(track.box),
                "segmentation": track.rle,
            }
            for track in result.tracks
        ],
    }


def _same(one, other):
    assert [t.track_id for t in one.tracks] == [t.track_id for t in other.tracks]
    assert [t.score for t in one.tracks] == [t.score for t in other.tracks]
    assert [t.rle for t in one.tracks] == [t.rle for t in other.tracks]


def test_the_demo_clip_gives_what_process_video_gives(tmp_path):
    pytest.importorskip("torch")
    l2g.process_video("l2g_tiny", CLIP, tmp_path, overlay=False)
    expected = _lines(tmp_path)
    with l2g.Tracker("l2g_tiny") as tracker, open_source(CLIP) as frames:
        got = [_line(tracker.update(frame.image, frame.time)) for frame in frames]
    assert got == expected
    assert len({track["id"] for line in got for track in line["tracks"]}) >= 2
    assert sum(len(line["tracks"]) for line in got) > len(got)


def test_options_are_those_of_process_video(tmp_path):
    """A threshold that hides, a rank that cuts and an age that forgets: each has to show in both alike."""
    images = moving_scenes(4) + [scene(64, 96, [])] * 3 + moving_scenes(4)
    clip = write_clip(tmp_path / "a.mp4", images)
    found = set()
    for options in ({}, {"score_threshold": 0.95}, {"top_k": 1}, {"max_age": 1}):
        l2g.process_video(BlobBackend(), clip, tmp_path / "out", overlay=False, **options)
        with l2g.Tracker(BlobBackend(), **options) as tracker, open_source(clip) as frames:
            lines = [_line(tracker.update(frame.image, frame.time)) for frame in frames]
        assert lines == _lines(tmp_path / "out")
        found.add(json.dumps(lines))
    assert len(found) == 4


def test_frames_of_any_size_come_back_in_their_own_pixels():
    tracker = l2g.Tracker(BlobBackend(canvas=(64, 96)))
    for key, (height, width) in enumerate([(64, 96), (480, 270), (33, 211), (720, 1280)]):
        box = (width // 4, height // 4, width // 2, height // 2)
        result = tracker.update(scene(height, width, [(0, box)]), stream=key)
        (track,) = result.tracks
        assert (result.height, result.width) == (height, width)
        assert track.mask.full().shape == (height, width)
        # A cell of the mask map is 4 pixels of the canvas.
        cell = 4 * max(height / 64, width / 96)
        np.testing.assert_allclose(track.box, box, atol=1.01 * cell)


def test_streams_are_apart_and_share_a_step():
    frames = {"door": moving_scenes(6), "gate": moving_scenes(6, 120, 200)[::-1], 7: moving_scenes(6, 96, 64)}
    alone = {}
    for key, images in frames.items():
        tracker = l2g.Tracker(BlobBackend())
        alone[key] = [tracker.update(image) for image in images]
    backend = _Recorder()
    together = l2g.Tracker(backend)
    for i in range(6):
        results = together.update_many({key: images[i] for key, images in frames.items()})
        assert list(results) == list(frames)
        for key in frames:
            _same(results[key], alone[key][i])
    assert [len(canvas) for canvas in backend.canvases] == [3] * 6
    assert together.streams == tuple(frames)


def test_the_unnamed_stream_and_a_named_one_take_turns():
    """Each keeps its state while the other is on the device."""
    images = moving_scenes(8)
    expected = [l2g.Tracker(BlobBackend())]
    expected = [expected[0].update(image) for image in images]
    tracker = l2g.Tracker(BlobBackend())
    for i, image in enumerate(images):
        _same(tracker.update(image), expected[i])
        _same(tracker.update(image, stream="other"), expected[i])


@pytest.mark.parametrize("fails", [False, True])
def test_a_cut_counts_though_its_step_fails(fails):
    """The step of the frame after the cut, at 0.3 s; the next one begins anew and says why."""

    class Failing(_Recorder):
        def step(self, frames, reset):
            if fails and len(self.resets) == 3:
                self.resets.append(None)
                raise l2g.L2GError("the library failed")
            return super().step(frames, reset)

    backend, images = Failing(), moving_scenes(6)
    tracker = l2g.Tracker(backend, cuts=[0.25])
    results = [tracker.update(image, i / 10) for i, image in enumerate(images[:3])]
    if fails:
        with pytest.raises(l2g.L2GError, match="the library failed"):
            tracker.update(images[3], 0.3)
    results += [tracker.update(image, i / 10) for i, image in list(enumerate(images))[3 + fails :]]
    assert [result.reset for result in results] == [None] * 3 + ["cut"] + [None] * (2 - fails)
    assert backend.resets[3 + fails :] == [[True]] + [[False]] * (2 - fails)
    ids = [{track.track_id for track in result.tracks} for result in results]
    assert ids == [{1, 2}] * 3 + [{3, 4}] * (3 - fails)


def test_reset_begins_anew_but_no_id_comes_twice():
    backend = _Recorder()
    tracker = l2g.Tracker(backend)
    images = moving_scenes(3)
    first = [tracker.update(image, float(i)) for i, image in enumerate(images)]
    tracker.reset()
    tracker.reset("never seen")
    again = tracker.update(images[0], 3.0)
    assert backend.resets == [[True], [False], [False], [True]]
    assert {t.track_id for r in first for t in r.tracks} == {1, 2}
    assert {t.track_id for t in again.tracks} == {3, 4}
    assert [t.score for t in again.tracks] == [t.score for t in first[0].tracks]
    assert again.index == 3


def test_leave_forgets_a_stream_and_its_key_is_free():
    tracker = l2g.Tracker(BlobBackend())
    image = moving_scenes(1)[0]
    tracker.update(image, stream="a")
    tracker.update(image, stream="b")
    tracker.leave("a")
    tracker.leave("a")
    assert tracker.streams == ("b",)
    result = tracker.update(moving_scenes(1, 96, 64)[0], stream="a")
    assert (result.index, {t.track_id for t in result.tracks}) == (0, {1, 2})


def test_a_stream_may_change_its_resolution_but_not_its_shape():
    tracker = l2g.Tracker(BlobBackend(canvas=(64, 96)))
    small, large = scene(360, 640, [(0, (100, 100, 300, 200))]), scene(720, 1280, [(0, (200, 200, 600, 400))])
    (before,), (after,) = tracker.update(small).tracks, tracker.update(large).tracks
    assert before.track_id == after.track_id
    np.testing.assert_allclose(np.array(after.box) / 2, before.box, atol=2)
    turned = scene(1280, 720, [(0, (200, 200, 600, 400))])
    with pytest.raises(l2g.L2GError, match=r"1280x720 found after frames of 720x1280.*call reset\(\)"):
        tracker.update(turned)
    with pytest.raises(l2g.L2GError, match=r"stream 'x'.*call reset\('x'\)"):
        [tracker.update(image, stream="x") for image in (large, turned)]
    # What was refused changed nothing.
    assert tracker.update(large).tracks[0].track_id == before.track_id
    tracker.reset()
    assert tracker.update(turned).tracks[0].track_id == before.track_id + 1


def test_one_refused_frame_stops_no_other_stream_halfway():
    backend = _Recorder()
    tracker = l2g.Tracker(backend)
    good = moving_scenes(2)
    tracker.update_many({"a": good[0], "b": good[0]})
    with pytest.raises(l2g.L2GError, match="stream 'b'"):
        tracker.update_many({"a": good[1], "b": good[1].astype(np.float32)})
    results = tracker.update_many({"a": good[1], "b": good[1]})
    assert [result.index for result in results.values()] == [1, 1]
    assert len(backend.canvases) == 2


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \[3, 4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        ("clip.mp4", "str found"),
        (None, "NoneType found"),
    ],
)
def test_a_frame_that_is_none(frame, found):
    with pytest.raises(l2g.L2GError, match=found + r".*uint8 \[H, W, 3\] RGB expected"):
        l2g.Tracker(BlobBackend()).update(frame)


def test_views_are_taken_as_they_are():
    """OpenCV's BGR turned round, and crops: strides of any sign."""
    image = moving_scenes(1)[0]
    expected = l2g.Tracker(BlobBackend()).update(image)
    bgr = np.ascontiguousarray(image[..., ::-1])
    _same(l2g.Tracker(BlobBackend()).update(bgr[..., ::-1]), expected)


def test_time_is_given_or_counted_from_the_first_frame(monkeypatch):
    now = iter([100.0, 100.5, 102.0, 103.0])
    monkeypatch.setattr("l2g.tracker.clock.monotonic", lambda: next(now))
    tracker = l2g.Tracker(BlobBackend())
    image = moving_scenes(1)[0]
    times = [tracker.update(image).time, tracker.update(image).time, tracker.update(image, 0.25).time]
    assert times == [0.0, 0.5, 0.25]
    assert tracker.update_many({None: image, "b": image}, {"b": 9.0})["b"].time == 9.0


def test_a_closed_tracker_says_so_and_leaves_what_was_given_open():
    backend = BlobBackend()
    with l2g.Tracker(backend) as tracker:
        tracker.update(moving_scenes(1)[0])
    assert not backend.closed
    tracker.close()
    with pytest.raises(l2g.L2GError, match="is closed"):
        tracker.update(moving_scenes(1)[0])


def test_what_it_opens_it_closes_and_turns_upright(monkeypatch):
    opened = []

    def open_backend(model, *, top_k, canvas=None, portrait=False, **_):
        assert top_k is None
        opened.append(BlobBackend(canvas or ((96, 64) if portrait else (64, 96))))
        return opened[-1]

    monkeypatch.setattr("l2g.tracker.open_backend", open_backend)
    upright, flat = moving_scenes(1, 96, 64)[0], moving_scenes(1, 64, 96)[0]
    with l2g.Tracker("a_checkpoint") as tracker:
        tracker.update(upright)
        assert (tracker.contract.height, tracker.contract.width) == (96, 64)
        tracker.update(flat, stream="flat")
        assert (tracker.contract.height, tracker.contract.width) == (96, 64)
    assert [backend.closed for backend in opened] == [True, True]
    for model, options, frame in (
        ("a_checkpoint", {}, flat),
        ("a_checkpoint", {"canvas": (64, 96)}, upright),
        ("a_graph.onnx", {}, upright),
    ):
        opened.clear()
        with l2g.Tracker(Path(model), **options) as tracker:
            tracker.update(frame)
            assert (tracker.contract.height, tracker.contract.width) == (64, 96)
        assert len(opened) == 1


def test_options_that_do_not_fit():
    with pytest.raises(l2g.L2GError, match="canvas given with an open backend"):
        l2g.Tracker(BlobBackend(), canvas=(64, 96))
    with pytest.raises(l2g.L2GError, match="top-k 0"):
        l2g.Tracker(BlobBackend(), top_k=0)
    with pytest.raises(l2g.L2GError, match=r"1\.5 found"):
        l2g.Tracker(BlobBackend(), score_threshold=1.5)
    with pytest.raises(l2g.L2GError, match=r"nowhere\.onnx: no such file"):
        l2g.Tracker("nowhere.onnx")


def test_an_image_model_is_linked():
    images = moving_scenes(6)
    tracker = l2g.Tracker(BlobBackend(association="embedding"))
    ids = [[(t.label, t.track_id) for t in sorted(tracker.update(i).tracks, key=lambda t: t.label)] for i in images]
    assert ids == [ids[0]] * 6
    assert len(ids[0]) == 2


def test_scores_that_are_not_numbers_are_an_error():
    class Broken(BlobBackend):
        def step(self, frames, reset):
            raw = super().step(frames, reset)
            return RawOutputs(raw.queries, raw.boxes, raw.logits * np.nan, raw.mask_logits)

    with pytest.raises(l2g.L2GError, match="NaN"):
        l2g.Tracker(Broken()).update(moving_scenes(1)[0])


def test_ten_lines_turn_a_video_into_tracks(tmp_path):
    """The README's block, run as it stands; its last line prints every track of the shipped clip with its frames."""
    pytest.importorskip("torch")
    l2g.process_video("l2g_tiny", CLIP, tmp_path, overlay=False)
    frames = {}
    for line in _lines(tmp_path):
        for track in line["tracks"]:
            frames[track["id"]] = frames.get(track["id"], 0) + 1
    lines = TEN_LINES.strip().splitlines()
    assert len(lines) <= 10
    done = subprocess.run(
        [sys.executable, "-c", TEN_LINES], cwd=CLIP.parents[2], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    assert {int(words[0].lstrip("#")): int(words[-2]) for words in printed} == frames


TEN_LINES = """
from collections import defaultdict
import av
import l2g
tracks = defaultdict(list)
with l2g.Tracker("l2g_tiny") as tracker, av.open("examples/demo/clip.mp4") as video:
    for frame in video.decode(video=0):
        result = tracker.update(frame.to_ndarray(format="rgb24"), frame.time)
        for track in result.tracks:
            tracks[track.track_id, result.class_names[track.label]].append((result.time, track.score, track.box))
print("\\n".join(f"#{track_id} {name}: {len(seen)} frames" for (track_id, name), seen in tracks.items()))
"""
