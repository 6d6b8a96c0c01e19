"""A graph whose state another keeps: one sequence of it a stream, as `VideoSession` gives it."""

import threading

import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.runtime.session import VideoSession
from l2g.serving.graph_session import GraphSession
from tests.runtime.blobs import BlobBackend
from tests.runtime.clips import moving_scenes
from tests.serving.same import content


class _Graph:
    """A server's model: its state by correlation id, zeros where a sequence starts."""

    def __init__(self, association):
        self.backend = BlobBackend(association=association)
        self.states, self.calls = {}, []

    def __call__(self, calls):
        answers = []
        for call in calls:
            self.calls.append((call.correlation, call.start, call.end))
            assert call.start or call.correlation in self.states, "a sequence that never started"
            self.backend.state = None if call.start else self.states[call.correlation]
            # What the control of a repository tells the graph of an image model: every frame is a first frame.
            first = call.start or self.backend.contract.association == "embedding"
            arrays = self.backend.step(call.frames, np.array([first])).arrays()
            self.states[call.correlation] = self.backend.state
            if call.end:
                del self.states[call.correlation]
            answers.append(arrays)
        return answers


@pytest.mark.parametrize("association", ["propagate", "embedding"])
def test_streams_are_those_of_a_session_in_this_process(association):
    frames = {"a": moving_scenes(6), "b": moving_scenes(6)[::-1]}
    graph = _Graph(association)
    remote = l2g.Tracker(GraphSession(graph.backend.contract, graph))
    for key, images in frames.items():
        local = l2g.Tracker(VideoSession(BlobBackend(association=association)))
        for i, image in enumerate(images):
            if i == 3:
                local.reset()
                remote.reset(key)
            expected = content(local.update(image, float(i)))
            got = content(remote.update(image, float(i), key))
            # Of an image model the slots are in an order of chance.
            keep = (
                (lambda row: [(*t[:1], *t[2:]) for t in row[-1]]) if association == "embedding" else (lambda row: row)
            )
            assert keep(got) == keep(expected)
        remote.leave(key)
    assert graph.states == {}
    starts = [start for _, start, _ in graph.calls]
    assert starts.count(True) == 4
    assert len({correlation for correlation, _, _ in graph.calls}) == 2


def test_a_sequence_that_cannot_be_ended_is_left_to_the_server():
    graph = _Graph("propagate")
    session = GraphSession(graph.backend.contract, graph)
    frame = np.zeros((64, 96, 3), np.uint8)
    for stream in "ab":
        session.join(stream)
    session.step({"a": frame, "b": frame})
    other = threading.Thread(target=session.leave, args=("a",))
    other.start()
    other.join()
    assert len(graph.calls) == 2

    def gone(calls):
        raise L2GError("must specify the START flag")

    session._run = gone
    session.leave("b")


def test_a_stream_without_a_frame_costs_the_server_nothing():
    graph = _Graph("propagate")
    session = GraphSession(graph.backend.contract, graph)
    session.join("a")
    session.leave("a")
    assert graph.calls == []
