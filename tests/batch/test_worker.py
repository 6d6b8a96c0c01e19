"""What a worker may take of a machine that others work on too."""

import json
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from l2g.batch import worker
from l2g.batch.records import DONE, Entry, Settings, Task
from l2g.batch.run import _resources, run_batch
from l2g.batch.worker import Replica
from l2g.errors import L2GError
from l2g.runtime.video.source import open_source
from l2g.runtime.video.writer import VideoWriter
from tests.batch.made import FILES, one_by_one


@pytest.fixture(scope="module")
def sliced(tmp_path_factory):
    """A clip whose pictures hold four slices, which a decoder would give to four threads."""
    path = tmp_path_factory.mktemp("sliced") / "sliced.mp4"
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8), (1080, 720))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "x264-params": "slices=4"})
        stream.width, stream.height, stream.pix_fmt = 1080, 720, "yuv420p"
        for t in range(12):
            image = np.roll(ground, 5 * t, 1)
            image[200:400, 20 * t : 20 * t + 300] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_one_thread_is_one_thread(model, sliced, tmp_path, monkeypatch):
    """Its own time is the process's: nothing of decoder, model or encoder is done elsewhere. The bytes are the same."""
    replica = Replica(Settings(str(model)), str(tmp_path / "out"), 1)
    replica.ready()
    monkeypatch.setattr(threading.Thread, "start", None)
    decoders = []

    def opened(*words, **options):
        decoders.append(open_source(*words, **options))
        assert decoders[-1]._stream.codec_context.thread_count == 1, (
            "its share of the time is too small to be seen below"
        )
        return decoders[-1]

    monkeypatch.setattr(worker, "open_source", opened)
    process, own = time.process_time(), time.thread_time()
    outcome = replica.do(Task(Entry(str(sliced), "sliced")))
    process, own = time.process_time() - process, time.thread_time() - own
    monkeypatch.undo()
    assert (outcome.record.status, outcome.record.frames) == (DONE, 12)
    assert len(decoders) == 1
    assert process < 1.03 * own + 0.01

    one_by_one(model, [sliced], tmp_path / "one")
    for file in FILES:
        assert (tmp_path / "out/sliced" / file).read_bytes() == (tmp_path / "one/sliced" / file).read_bytes(), file


@pytest.mark.parametrize(("height", "threads"), [(1088, 1), (1090, 4)])
def test_the_bytes_of_an_overlay_do_not_depend_on_the_machine(height, threads, tmp_path):
    """x264 cuts a large picture for its threads; as many as there are cores would be other bytes elsewhere."""
    with VideoWriter(tmp_path / "overlay.mp4", height, 1920, 10) as writer:
        assert writer._stream.codec_context.thread_count == threads


@pytest.mark.parametrize(
    ("there", "address", "given", "expected"),
    [
        ({"CPU": 8}, None, (None, None), (8, 1, 0)),  # as many workers as cores, one thread each
        ({"CPU": 8}, None, (2, None), (2, 4, 0)),
        ({"CPU": 8}, None, (None, 2), (4, 2, 0)),
        ({"CPU": 2}, None, (3, None), (3, 1, 0)),
        ({"CPU": 16, "GPU": 2}, None, (None, None), (2, 8, 1)),
        ({"CPU": 64}, "auto", (4, None), (4, 1, 0)),  # which machine of a cluster has how many is not known
        ({"CPU": 64, "GPU": 4}, "auto", (None, None), (4, 2, 1)),  # one thread would keep a GPU waiting
    ],
)
def test_a_worker_has_its_share_of_the_machine(there, address, given, expected, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    found = _resources(address, *given, None, None)
    assert (found.workers, found.threads, found.gpus) == expected


def test_a_password_in_a_url_is_neither_told_nor_part_of_what_a_video_is(tmp_path):
    pytest.importorskip("fsspec")
    replica, task = Replica(Settings("m"), str(tmp_path), 1), Task(Entry("memory://me:secret@host/a.mp4", "a"))
    record = replica.do(task).record
    assert record.source == "memory://me:***@host/a.mp4"
    assert record.error == "memory://me:***@host/a.mp4: no such object; check the URL"
    (tmp_path / "a").mkdir()
    (tmp_path / "a/video.json").write_text(json.dumps(record.to_json()))
    assert replica.do(task).before


@pytest.mark.parametrize(
    ("given", "cores", "expected"),
    [
        ({}, None, (4, 1)),
        ({"threads": 8}, 8, (1, 8)),  # more than there are: one worker all the same
        ({"threads": 2}, 4, (2, 2)),
        ({"workers": 3, "threads": 2}, 6, (3, 2)),
        ({"workers": 2}, 4, (2, 2)),
    ],
)
def test_every_worker_has_room(given, cores, expected, tmp_path, monkeypatch):
    """Of four cores: Ray is told of as many as the workers ask for, else one would wait for ever."""
    asked = []

    def cluster(address, cores):
        asked.append(cores)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": cores or 4}))
        return nullcontext()

    def scheduler(make, resources, *_):
        asked.append((resources.workers, resources.threads))
        return SimpleNamespace(run=list)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr("l2g.batch.run.cluster", cluster)
    monkeypatch.setattr("l2g.batch.run.Scheduler", scheduler)
    (tmp_path / "a.mp4").touch()
    run_batch(Settings("m"), str(tmp_path / "a.mp4"), str(tmp_path / "out"), **given)
    assert asked == [cores, expected]


def test_pieces_are_not_taken_of_a_model_that_gives_maps(tmp_path):
    """What joins pieces knows tracks alone: the stuff would be lost without a word."""
    replica = Replica(Settings("l2g_tiny_panoptic", piece=60.0, overlay=False), str(tmp_path / "out"), 1)
    with pytest.raises(L2GError, match="gives panoptic maps, and --piece joins tracks alone; leave out --piece"):
        replica.ready()
