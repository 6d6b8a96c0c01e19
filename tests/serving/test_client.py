"""The client, against a server in this process; `test_real_server` has the real one."""

import cv2
import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.serving import client as module
from l2g.serving.client import TritonTracker
from tests.runtime.blobs import CLASS_NAMES, BlobBackend
from tests.runtime.clips import moving_scenes
from tests.serving.loopback import RefusedError, Server
from tests.serving.same import content


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(module, "_library", lambda scheme: server)
    return server


def test_it_is_the_tracker(server):
    images = moving_scenes(6)
    with TritonTracker("grpc://host:1", "m") as remote, l2g.Tracker(BlobBackend()) as local:
        for i, image in enumerate(images):
            for stream in (None, "b") if i % 2 else (None,):
                if i == 3:
                    remote.reset(stream)
                    local.reset(stream)
                assert content(remote.update(image, float(i), stream)) == content(local.update(image, float(i), stream))
        assert (remote.streams, remote.class_names) == ((None, "b"), CLASS_NAMES)
        assert (server.address, server.streams.count) == ("host:1", 2)
    assert (server.streams.count, server.address) == (0, None)
    first, *_, last = [row for row in server.sent if row[0] == server.sent[0][0]]
    assert first[1:] == (True, False, ["FRAME", "TIME"])
    assert last[1:] == (False, True, ["TIME"])
    assert [row[3] for row in server.sent].count(["FRAME", "RESET", "TIME"]) == 2
    with pytest.raises(L2GError, match="closed"):
        remote.update(images[0])
    remote.close()


def test_time_is_the_clock_s_unless_given(server):
    with TritonTracker("http://host:1", "m") as remote:
        image = moving_scenes(1)[0]
        assert 0 <= remote.update(image).time < remote.update(image).time < 60


def test_pictures_travel_as_files(server):
    image = moving_scenes(1)[0]
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    with TritonTracker("grpc://host:1", "m") as remote:
        assert content(remote.update(data, 0.0, "p")) == content(remote.update(image, 0.0, "f"))
    assert server.sent[0][3] == ["PICTURE", "TIME"]


def test_a_lost_sequence_is_told_and_begun_anew(server):
    images = moving_scenes(4)
    with TritonTracker("grpc://host:1", "m") as remote:
        first = [remote.update(image, float(i)) for i, image in enumerate(images)]
        server.start_again()
        for _ in range(2):
            with pytest.raises(L2GError, match=r"the stream is not known.*call reset\(\)"):
                remote.update(images[0])
        remote.reset()
        again = remote.update(images[0], 4.0)
        assert (again.index, {track.track_id for track in again.tracks}) == (4, {3, 4})
        assert [t.score for t in again.tracks] == [t.score for t in first[0].tracks]
        # Lost once more: still no id comes twice.
        server.start_again()
        with pytest.raises(L2GError):
            remote.update(images[0])
        remote.reset()
        assert {track.track_id for track in remote.update(images[0]).tracks} == {5, 6}
        server.start_again()
    # What the server does not know need not be ended.
    assert server.streams.count == 0


def test_after_a_timeout_nobody_knows_whether_the_frame_counted(server):
    image = moving_scenes(1)[0]
    with TritonTracker("grpc://host:1", "m", timeout=2) as remote:
        server.fail = RefusedError("[StatusCode.DEADLINE_EXCEEDED] Deadline Exceeded")
        with pytest.raises(L2GError, match=r"no answer for model 'm' within 2 s"):
            remote.update(image)
        assert remote.update(image).index == 0  # its first frame: begun again
        server.fail = RefusedError("timeout of the corresponding sequence has been expired")
        with pytest.raises(L2GError, match="every slot of the server is taken"):
            remote.update(image)
        with pytest.raises(L2GError, match=r"call reset\(\)"):
            remote.update(image)


def test_a_refused_frame_leaves_the_stream_as_it_was(server):
    images = moving_scenes(2)
    with TritonTracker("grpc://host:1", "m") as remote:
        with pytest.raises(L2GError, match="no whole picture"):
            remote.update(b"", stream="door")
        assert remote.streams == ()
        assert remote.update(images[0], stream="door").index == 0
        for bad in (np.zeros((64, 300, 3), np.uint8), np.zeros((64, 96), np.uint8), "frame.jpg"):
            with pytest.raises(L2GError):
                remote.update(bad, stream="door")
        assert remote.update(images[1], stream="door").index == 1
    assert server.streams.count == 0
    assert len({row[0] for row in server.sent}) == 1


def test_a_first_frame_that_was_refused_leaves_no_slot_behind(server):
    """The server gave one to the sequence all the same."""
    with TritonTracker("grpc://host:1", "m") as remote:
        with pytest.raises(L2GError, match="no whole picture"):
            remote.update(b"")
        assert len(server.running) == 1
    assert server.running == set()


def test_an_error_in_the_block_is_not_hidden_by_one_of_closing(server):
    def block(error):
        with TritonTracker("grpc://host:1", "m") as remote:
            remote.update(moving_scenes(1)[0])
            server.fail = ConnectionError("gone")
            if error:
                raise error

    with pytest.raises(ZeroDivisionError):
        block(ZeroDivisionError())
    with pytest.raises(L2GError, match="gone"):
        block(None)


def test_tensors_without_their_bytes(server, monkeypatch):
    """What a server before 24.12 makes of NumPy 2."""

    def none(_self, name):
        return np.empty(0, np.int64).reshape(1, 2)

    monkeypatch.setattr("tests.serving.loopback.Answer.as_numpy", none)
    with (
        pytest.raises(L2GError, match=r"lack their bytes .*before 24\.12.*'numpy<2'"),
        TritonTracker("grpc://host:1", "m") as remote,
    ):
        remote.update(moving_scenes(1)[0])


@pytest.mark.parametrize("url", ["host:8001", "ftp://host:1", "grpc://", ""])
def test_what_is_no_address(url):
    with pytest.raises(L2GError, match=r"grpc://HOST:PORT or http://HOST:PORT expected"):
        TritonTracker(url, "m")


def test_an_address_is_told_without_a_password():
    with pytest.raises(L2GError, match=r"^'ftp://me:\*\*\*@host' found"):
        TritonTracker("ftp://me:secret@host", "m")


def test_a_timeout_of_nothing():
    with pytest.raises(L2GError, match="more than 0 expected"):
        TritonTracker("grpc://host:1", "m", timeout=0)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    with pytest.raises(L2GError, match=r"pip install 'l2g\[serving\]'"):
        TritonTracker("grpc://host:1", "m")
