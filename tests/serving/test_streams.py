"""Sequences begin, go on, end, restart, fall silent and fail, each without touching another."""

import cv2
import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.runtime.video.source import open_source
from l2g.serving.streams import GRACE_SECONDS, ServedStreams, StreamRequest
from l2g.serving.wire import NOTHING
from tests.runtime.blobs import BlobBackend
from tests.runtime.clips import moving_scenes
from tests.serving.same import content


class _Clock:
    now = 0.0

    def __call__(self):
        return self.now


class _Served(ServedStreams):
    """With a clock that stands still; `step` of one request."""

    def __init__(self, idle=30.0, backend=None):
        self.clock, self.backend = _Clock(), backend or BlobBackend()
        self.tracker = l2g.Tracker(self.backend)
        super().__init__(self.tracker, idle, self.clock)

    def one(self, *args, **how):
        (answer,) = self.step([StreamRequest(*args, **how)])
        return answer


def _alone(images):
    tracker = l2g.Tracker(BlobBackend())
    return [content(tracker.update(image, float(i))) for i, image in enumerate(images)]


def test_sequences_of_several_sizes_in_any_batches():
    frames = {7: moving_scenes(8), 8: moving_scenes(8, 120, 200)[::-1], 2**63 + 5: moving_scenes(8, 96, 64)}
    served, got = _Served(), {key: [] for key in frames}
    at = dict.fromkeys(frames, 0)
    for turn in [(7,), (7, 8), (8, 7), (2**63 + 5,), (2**63 + 5, 8, 7), (8,), *[tuple(frames)] * 7]:
        batch = [
            StreamRequest(k, start=at[k] == 0, end=at[k] == 7, frame=frames[k][at[k]], time=float(at[k]))
            for k in turn
            if at[k] < 8
        ]
        for request, answer in zip(batch, served.step(batch), strict=True):
            got[request.correlation].append(content(answer))
            at[request.correlation] += 1
    assert got == {key: _alone(images) for key, images in frames.items()}
    assert (served.count, served.tracker.streams) == (0, ())


def test_a_slot_that_is_not_ready_is_left_alone():
    served, image = _Served(), moving_scenes(1)[0]
    ready, empty = served.step([StreamRequest(1, start=True, frame=image), StreamRequest(0, ready=False, frame=image)])
    assert (len(ready.tracks), empty) == (2, NOTHING)
    assert (served.count, served.backend.steps) == (1, 1)


def test_a_start_begins_a_running_sequence_anew():
    served, images = _Served(), moving_scenes(4)
    for i in (0, 1):
        served.one(1, start=i == 0, frame=images[i], time=float(i))
    again = [content(served.one(1, start=i == 0, frame=images[i], time=float(i))) for i in range(4)]
    assert again == _alone(images)
    assert served.count == 1


def test_a_reset_is_that_of_the_tracker():
    served, images, alone = _Served(), moving_scenes(4), l2g.Tracker(BlobBackend())
    for i, image in enumerate(images):
        if i == 2:
            alone.reset()
        expected = alone.update(image, float(i))
        got = served.one(1, start=i == 0, frame=image, time=float(i), reset=i == 2)
        assert content(got) == content(expected)
    assert {track.track_id for track in got.tracks} == {3, 4}


def test_an_end_needs_no_frame_and_a_frame_needs_a_start():
    served, image = _Served(), moving_scenes(1)[0]
    served.one(1, start=True, frame=image)
    assert served.one(1, end=True) is NOTHING
    assert served.count == 0
    for how in ({}, {"end": True}):
        answer = served.one(1, frame=image, **how)
        assert isinstance(answer, L2GError)
        assert "sequence 1 has no state here" in str(answer)
    assert "without FRAME and PICTURE" in str(served.one(2, start=True))
    assert served.count == 0


def test_what_falls_silent_goes_and_what_speaks_stays():
    served, image = _Served(idle=10.0), moving_scenes(1)[0]
    served.one(1, start=True, frame=image)
    served.one(2, start=True, frame=image)
    served.clock.now = 10.0
    served.one(2, frame=image)
    served.clock.now = 10.0 + GRACE_SECONDS
    served.expire()
    assert served.count == 2
    served.clock.now += 1e-3
    served.expire()
    assert served.tracker.streams == (2,)
    assert "idle for longer than 10 s" in str(served.one(1, frame=image))
    # A step looks too, without a call of `expire`.
    served.clock.now = 100.0
    served.one(3, start=True, frame=image)
    assert served.tracker.streams == (3,)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"frame": np.zeros((64, 300, 3), np.uint8)}, "another aspect ratio"),
        ({"frame": np.zeros((64, 96, 4), np.uint8)}, r"uint8 \[64, 96, 4\]"),
        ({"picture": b"no picture"}, "10 bytes found that are no whole picture"),
        ({}, "without FRAME and PICTURE"),
    ],
)
def test_a_frame_that_is_refused_is_its_stream_s_alone(bad, said):
    served, images = _Served(), moving_scenes(3)
    served.step([StreamRequest(k, start=True, frame=images[0], time=0.0) for k in (1, 2)])
    error, good = served.step([StreamRequest(1, **bad), StreamRequest(2, frame=images[1], time=1.0)])
    assert isinstance(error, L2GError)
    with pytest.raises(L2GError, match=said):
        raise error
    assert content(good) == _alone(images)[1]
    # The stream is as it was: its next frame is its second.
    assert content(served.one(1, frame=images[1], time=1.0)) == _alone(images)[1]


def test_a_model_that_fails_ends_the_streams_of_its_step():
    class Broken(BlobBackend):
        def step(self, frames, reset):
            outputs = super().step(frames, reset)
            if self.steps == 2:
                outputs.logits[1] = np.nan
            return outputs

    served, image = _Served(backend=Broken()), moving_scenes(1)[0]
    served.one(9, start=True, frame=image)
    both = served.step([StreamRequest(k, start=True, frame=image) for k in (1, 2)])
    assert all("NaN" in str(answer) for answer in both)
    assert served.tracker.streams == (9,)


def test_the_same_sequence_twice_in_a_step():
    served, image = _Served(), moving_scenes(1)[0]
    first, second = served.step([StreamRequest(1, start=True, frame=image), StreamRequest(1, frame=image)])
    assert "twice in one batch" in str(second)
    assert len(first.tracks) == 2


def test_pictures_are_decoded_as_a_run_decodes_them(tmp_path):
    images = moving_scenes(3)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image[..., ::-1])
    expected = []
    with open_source(tmp_path) as source, l2g.Tracker(BlobBackend()) as tracker:
        expected = [content(tracker.update(frame.image, frame.time)) for frame in source]
    served = _Served()
    got = []
    for i, (_, _, _, _, _, _) in enumerate(expected):
        data = (tmp_path / f"{i}.jpg").read_bytes()
        got.append(content(served.one(1, start=i == 0, picture=data, time=i / 30)))
    assert [row[2:] for row in got] == [row[2:] for row in expected]
    assert got[0][-1]
