"""The one loop: who is stepped when, and what joins and leaves."""

import dataclasses

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.errors import DataError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.runtime.session import VideoSession
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import BlobBackend

LENGTHS = (3, 1, 2, 4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(write_blob_dataset(tmp_path_factory.mktemp("blobs"), LENGTHS), "valid")


def lanes_of(dataset, backend):
    return (Lane(place, video, backend.contract) for place, video in enumerate(dataset.videos))


def test_videos_take_turns_as_streams(dataset):
    backend = BlobBackend()
    sessions = [VideoSession(backend), VideoSession(BlobBackend())]
    seen = []
    for round_ in rounds(lanes_of(dataset, backend), sessions, frames=10, streams=2, progress=False):
        assert all(session.streams == tuple(lane.place for lane in round_) for session in sessions)
        seen.append([(lane.place, lane.time) for lane in round_])
        assert [lane.last for lane in round_] == [lane.time == LENGTHS[lane.place] - 1 for lane in round_]
        for lane in round_:
            np.testing.assert_array_equal(lane.image, dataset.videos[lane.place].frame(lane.time))
            np.testing.assert_array_equal(lane.canvas, lane.letterbox.to_canvas(lane.image))
    assert seen == [[(0, 0), (1, 0)], [(0, 1), (2, 0)], [(0, 2), (2, 1)], [(3, 0)], [(3, 1)], [(3, 2)], [(3, 3)]]
    assert all(session.streams == () for session in sessions)


def test_lanes_are_made_when_their_turn_comes(dataset):
    backend, made = BlobBackend(), []

    def lanes():
        for lane in lanes_of(dataset, backend):
            made.append(lane.place)
            yield lane

    running = rounds(lanes(), [], frames=10, streams=1, progress=False)
    assert [lane.place for lane in next(running)] == made == [0]


def test_a_lane_may_be_shorter_than_its_video(dataset):
    backend = BlobBackend()
    lanes = [Lane(0, dataset.videos[3], backend.contract, length=2)]
    assert sum(len(round_) for round_ in rounds(lanes, [], frames=2, progress=False)) == 2


@pytest.mark.parametrize("streams", [1, 3])
def test_a_step_gives_each_lane_what_its_video_gives_alone(dataset, streams):
    backend = BlobBackend()
    session, found = VideoSession(backend), []
    for round_ in rounds(lanes_of(dataset, backend), [session], frames=10, streams=streams, progress=False):
        found += [outputs.queries for place, outputs in step(session, round_).items() if place == 3]
    alone, expected = VideoSession(BlobBackend()), []
    alone.join(0)
    for time in range(LENGTHS[3]):
        canvas = Lane(3, dataset.videos[3], backend.contract).letterbox.to_canvas(dataset.videos[3].frame(time))
        expected.append(alone.step({0: canvas})[0].queries)
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


def test_what_cannot_be_run_is_refused(dataset):
    assert frames_of(dataset) == sum(LENGTHS)
    with pytest.raises(DataError, match="holds no video; choose another split"):
        frames_of(dataclasses.replace(dataset, videos=[]))
