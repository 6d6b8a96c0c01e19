"""Tasks that meet: real workers over real clips, with a Ray that does everything in this process, in a known order."""

import json
import sys
from functools import partial

import av
import cv2
import pytest

from l2g.batch.entries import entries
from l2g.batch.records import DAMAGED, DONE, FAILED, Settings
from l2g.batch.scheduler import Resources, Scheduler
from l2g.batch.worker import Replica
from l2g.runtime.video.writer import VideoWriter
from tests.batch.made import FakeRay
from tests.runtime.blobs import BlobBackend, scene


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setattr("l2g.batch.worker.open_backend", lambda *_, **__: BlobBackend())


def write_clip(path, frames):
    """A red block that moves, at ten frames a second."""
    with VideoWriter(path, 64, 96, 10) as writer:
        for t in range(frames):
            writer.write(scene(64, 96, [(0, (5 + t, 10, 35 + t, 40))]), t / 10)
    return path


def remux(source, target, bytes_kept):
    """As Matroska, whose header says how long it lasts, and then cut off."""
    with av.open(str(source)) as given, av.open(str(target), "w", format="matroska") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    target.write_bytes(target.read_bytes()[: int(bytes_kept * target.stat().st_size)])


def settle(videos, out, workers=2, **settings):
    """What became of each video, in the order in which that was known."""
    outcomes = []
    make = partial(Replica, Settings("m", overlay=False, **settings), str(out), 1)
    Scheduler(make, Resources(workers), outcomes.append, print).run(entries(str(videos), str(out)))
    return [outcome.record for outcome in outcomes]


def indices(folder):
    return [json.loads(line)["index"] for line in (folder / "frames.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("pieces", [{}, {"piece": 1.0, "overlap": 0.3}])
def test_of_two_videos_of_one_name_one_is_refused(workers, pieces, tmp_path):
    """Each has an outcome, and the files of the other are its own alone."""
    (tmp_path / "in").mkdir()
    lengths = {str(write_clip(tmp_path / "in/a.mp4", 30)): 30, str(write_clip(tmp_path / "in/a.mov", 26)): 26}
    records = settle(tmp_path / "in", tmp_path / "out", workers, **pieces)
    assert sorted((record.name, record.status) for record in records) == [("a", DONE), ("a", FAILED)]
    kept, refused = sorted(records, key=lambda record: record.status == FAILED)
    assert {kept.source, refused.source} == set(lengths)
    assert f"{refused.source}: its results would lie in a, where those of {kept.source} are" in refused.error
    assert indices(tmp_path / "out/a") == list(range(lengths[kept.source]))


def test_a_video_that_is_listed_twice_has_two_outcomes(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 8)
    (tmp_path / "list.txt").write_text(f"{clip}\n{clip}\n")
    assert [record.status for record in settle(tmp_path / "list.txt", tmp_path / "out")] == [DONE, DONE]


def test_a_second_copy_of_what_is_split_splits_it_once(tmp_path, monkeypatch):
    """Its answer comes when pieces are under way already, and the last of these takes long."""
    monkeypatch.setitem(sys.modules, "ray", FakeRay(lambda task: task.piece == 5))
    monkeypatch.setattr("l2g.batch.scheduler.SLOW", 0.0)
    monkeypatch.setattr("l2g.batch.scheduler.SLOW_SECONDS", 0.0)
    done = []
    do = Replica.do
    monkeypatch.setattr(Replica, "do", lambda self, task: done.append(task) or do(self, task))
    clips = [write_clip(tmp_path / "short.mp4", 8), write_clip(tmp_path / "long.mp4", 58)]
    (tmp_path / "list.txt").write_text("\n".join(map(str, clips)))
    records = settle(tmp_path / "list.txt", tmp_path / "out", workers=3, piece=1.0, overlap=0.2)
    assert [task.entry.name for task in done if not task.pieces].count("long") == 2, "there was a second copy"
    assert {record.name: (record.status, record.error, record.pieces) for record in records} == {
        "short": (DONE, None, 1), "long": (DONE, None, 6),
    }  # fmt: skip
    assert indices(tmp_path / "out/long") == list(range(58))


@pytest.mark.parametrize("stride", [3, 14])
def test_pieces_have_the_frames_of_the_whole_at_any_stride(stride, tmp_path):
    """Ten frames a piece are no multiple of it, and without a frame in common a seam ends every track. At 14 a piece
    has no frame at all."""
    clip = write_clip(tmp_path / "a.mp4", 45)
    for out, pieces in (("whole", {}), ("pieces", {"piece": 1.0, "overlap": 0.5})):
        (record,) = settle(clip, tmp_path / out, stride=stride, **pieces)
        assert (record.status, record.error) == (DONE, None)
        assert record.pieces == (4 if pieces else 1)
    assert indices(tmp_path / "pieces/a") == indices(tmp_path / "whole/a") == list(range(0, 45, stride))
    if stride == 3:
        lines = map(json.loads, (tmp_path / "pieces/a/frames.jsonl").read_text().splitlines())
        assert [[track["id"] for track in line["tracks"]] for line in lines] == [[1]] * 15


def test_a_bad_picture_before_an_empty_piece_fails_nothing(tmp_path):
    """At a stride of seven 22 pictures are told as 2.8 s, so that a last piece begins where there is nothing."""
    (tmp_path / "in").mkdir()
    for t in range(22):
        cv2.imwrite(str(tmp_path / f"in/{t:02}.png"), scene(64, 96, [(0, (5 + t, 10, 35 + t, 40))])[..., ::-1])
    (tmp_path / "in/03.png").write_bytes(b"\x89PNG nothing")
    how = {"stride": 7, "picture_rate": 10.0}
    for out, pieces in (("whole", {}), ("pieces", {"piece": 1.2, "overlap": 0.1})):
        (record,) = settle(tmp_path / "in", tmp_path / out, **how, **pieces)
        assert record.status == DAMAGED
        assert record.error == f"{tmp_path / 'in'}: 1 pictures could not be read, the first is 03.png"
        assert record.pieces == (3 if pieces else 1)
    assert indices(tmp_path / "pieces/in") == indices(tmp_path / "whole/in")


@pytest.mark.parametrize("bad", [range(15), range(8, 32), [3, 12, 13, 28]])
def test_bad_pictures_are_told_as_of_the_whole_wherever_they_are(bad, tmp_path):
    """Forty pictures in pieces of one second and a half: all of the first, of the middle, and some of several."""
    (tmp_path / "in").mkdir()
    for t in range(40):
        cv2.imwrite(str(tmp_path / f"in/{t:02}.png"), scene(64, 96, [(0, (5, 10, 35, 40))])[..., ::-1])
    for t in bad:
        (tmp_path / f"in/{t:02}.png").write_bytes(b"\x89PNG nothing")
    for out, pieces in (("whole", {}), ("pieces", {"piece": 1.0, "overlap": 0.5})):
        (record,) = settle(tmp_path / "in", tmp_path / out, picture_rate=10.0, **pieces)
        assert record.status == DAMAGED
        said = f"{len(bad)} pictures could not be read, the first is {bad[0]:02}.png"
        assert record.error == f"{tmp_path / 'in'}: {said}"
        assert (record.frames, record.pieces) == (40 - len(bad), 4 if pieces else 1)
    assert indices(tmp_path / "pieces/in") == indices(tmp_path / "whole/in")


def test_a_video_that_is_cut_has_the_frames_before_the_cut(tmp_path):
    """Its header tells of 58 frames, so that pieces begin where there is nothing."""
    whole = write_clip(tmp_path / "whole.mp4", 58)
    clip = tmp_path / "cut.mkv"
    remux(whole, clip, bytes_kept=0.4)
    records = [
        settle(clip, tmp_path / out, **how)[0] for out, how in (("a", {}), ("b", {"piece": 1.0, "overlap": 0.2}))
    ]
    assert [(record.status, record.frames, record.error) for record in records] == [
        (DAMAGED, records[0].frames, records[0].error)
    ] * 2
    assert records[1].pieces == 6
    assert 0 < records[0].frames < 40
    assert indices(tmp_path / "b/cut") == indices(tmp_path / "a/cut")
