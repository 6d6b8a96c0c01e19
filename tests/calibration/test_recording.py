"""Recordings against a run of the same graph by hand."""

from dataclasses import replace

import numpy as np
import pytest

from l2g.calibration.recording import (
    KINDS,
    Recording,
    RecordingOptions,
    hidden_frames,
    plan,
    read_samples,
    record,
    with_state,
    write_samples,
)
from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.errors import DataError
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.calibration.small_data import small_videos
from tests.export.models import run, session
from tests.exported import small_graph


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    dataset = load_dataset(small_videos(folder), "valid")
    backend = OnnxRuntimeBackend(small_graph())
    options = RecordingOptions(videos=2, frames=5, span=5)
    recording = record(backend, dataset, folder / "rollouts", options, progress=False)
    return dataset, recording, options, backend


def test_the_state_is_the_one_the_graph_carried(recorded):
    """Both videos by hand, the second forgotten before its third frame."""
    dataset, recording, *_ = recorded
    samples = {(sample.video, sample.time): sample for sample in recording}
    assert len(samples) == 10
    graph = session(small_graph())
    for place, video in enumerate(dataset.videos):
        state = (np.zeros((1, 10, 64), np.float32), np.zeros((1, 10, 4), np.float32))
        for time in range(5):
            fresh = time == 0 or (place, time) == (1, 2)
            inputs = samples[place, time].inputs
            np.testing.assert_array_equal(inputs["frames"][0], video.frame(time))
            assert inputs["prior_valid"] == (0 if fresh else 1)
            if not fresh:
                np.testing.assert_allclose(inputs["prior_queries"], state[0], atol=1e-5)
                np.testing.assert_allclose(inputs["prior_boxes"], state[1], atol=1e-5)
            valid = np.array([[not fresh]], np.float32)
            state = run(graph, (video.frame(time)[None], *state, valid))[:2]


def test_kinds_and_shares(recorded):
    _, recording, *_ = recorded
    kinds = {(sample.video, sample.time): sample.kind for sample in recording}
    assert kinds[0, 0] == kinds[1, 0] == "first"
    assert kinds[1, 2] == "reset"
    shares = recording.shares()
    assert set(shares) == set(KINDS)
    assert sum(shares.values()) == pytest.approx(100)
    assert (shares["first"], shares["reset"]) == (20, 10)


def test_what_is_there_is_not_recorded_again(recorded):
    dataset, recording, options, backend = recorded
    before = [file.stat().st_mtime_ns for file in recording.files]
    record(backend, dataset, recording.folder, options, progress=False)
    assert [file.stat().st_mtime_ns for file in recording.files] == before
    assert not list(recording.folder.glob(".*"))


def test_a_missing_video_alone_is_recorded_again_and_alike(recorded, tmp_path):
    dataset, recording, options, backend = recorded
    one, other = (read_samples(file) for file in recording.files)
    folder = tmp_path / "rollouts"
    folder.mkdir()
    (folder / recording.files[0].name).write_bytes(recording.files[0].read_bytes())
    again = list(record(backend, dataset, folder, options, progress=False))
    for before, after in zip(one + other, again, strict=True):
        assert (before.kind, before.video, before.time) == (after.kind, after.video, after.time)
        for name, array in before.inputs.items():
            np.testing.assert_array_equal(after.inputs[name], array)


def test_a_damaged_recording_is_named(recorded, tmp_path):
    _, recording, *_ = recorded
    data = recording.files[0].read_bytes()
    (tmp_path / "video_0000.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"video_0000.npz: not a recording .* delete it"):
        list(Recording(tmp_path))
    # Whole as a file, and without a frame in an array or in all of them.
    with np.load(recording.files[0]) as file:
        arrays = dict(file)
    for emptied in (["time"], ["frames"], [name for name in arrays if name != "video"]):
        np.savez(tmp_path / "video_0000.npz", **(arrays | {name: arrays[name][:0] for name in emptied}))
        with pytest.raises(DataError, match=r"video_0000.npz: not a recording \(0 to .* delete it"):
            list(Recording(tmp_path))


def test_plan_takes_first_reset_and_hidden_frames():
    kinds = plan(40, np.array([0, 5, 6, 7, 20, 39, 44]), 12, reset=20)
    assert len(kinds) == 12
    assert kinds[0] == "first"
    assert kinds[20] == "reset"
    assert {t for t, kind in kinds.items() if kind == "occluded"} == {5, 6, 7, 39}
    assert list(kinds) == sorted(kinds)
    # Later frames are spread over the video, and occluded ones take at most half of what is left.
    later = [t for t, kind in kinds.items() if kind == "later"]
    assert max(later) > 30
    assert sum(kind == "occluded" for kind in plan(40, np.arange(40), 12, None).values()) == 5
    assert plan(3, np.array([], int), 12, None) == {0: "first", 1: "later", 2: "later"}


def test_hidden_frames_from_grades_areas_and_masks(tmp_path):
    """Drawn and written, the same video says the same; the drawing says it by area, the file by grade."""
    written = load_dataset(small_videos(tmp_path, videos=1, frames=30), "valid").videos[0]
    found = hidden_frames(written)
    grades = [
        t for item in written.objects for t, grade in enumerate(item.record["occlusion"]) if grade == "severe_occlusion"
    ]
    assert set(grades) <= set(found.tolist())
    drawn = synthetic_dataset("val", videos=1, frames=30, size=(64, 96)).videos[0]
    areas = drawn.read(range(30)).masks.sum((2, 3))
    expected = set()
    for area in areas:
        seen = np.flatnonzero(area)
        half = np.median(area[seen]) / 2
        expected |= {t for t in range(seen[0], seen[-1] + 1) if area[t] < half}
    assert set(hidden_frames(drawn).tolist()) == expected


def test_states_to_compare_with(recorded):
    _, recording, *_ = recorded
    later = next(sample for sample in recording if sample.time == 1)
    first = next(sample for sample in recording if sample.time == 0)
    assert with_state(later, "rollout") is later.inputs
    zeros, random = with_state(later, "zeros"), with_state(later, "random")
    assert not zeros["prior_queries"].any()
    assert not zeros["prior_boxes"].any()
    assert 0.9 < random["prior_queries"].std() < 1.1
    assert zeros["prior_valid"] == random["prior_valid"] == 1
    assert with_state(first, "random")["prior_valid"] == 0
    np.testing.assert_array_equal(random["prior_queries"], with_state(later, "random")["prior_queries"])
    assert later.inputs["prior_queries"].any()


def test_a_data_set_without_videos_is_refused(recorded, tmp_path):
    dataset, _, options, backend = recorded
    empty = type(dataset)(dataset.name, dataset.categories, ())
    with pytest.raises(DataError, match="holds no video to calibrate on"):
        record(backend, empty, tmp_path, options)


@pytest.mark.parametrize("wrong", [{"videos": 0}, {"frames": 1}, {"span": 1}])
def test_too_little_is_refused(wrong):
    with pytest.raises(DataError, match=f"{next(iter(wrong))} .* at least"):
        RecordingOptions(**wrong)


def test_a_recording_of_something_else_is_named(recorded, tmp_path):
    """One without the frames, as a model with other inputs would leave."""
    dataset, recording, options, backend = recorded
    samples = [replace(sample, inputs=dict(sample.inputs)) for sample in read_samples(recording.files[0])]
    for sample in samples:
        del sample.inputs["frames"]
    write_samples(tmp_path / recording.files[0].name, samples)
    with pytest.raises(DataError, match=r"not a recording for this model \(prior_boxes, .* found\); delete it"):
        record(backend, dataset, tmp_path, options, progress=False)
