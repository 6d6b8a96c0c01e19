"""A video's files appear whole and once, in a folder and in a store; another video's are never written over."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from l2g.batch.records import VideoRecord
from l2g.batch.store import FolderStore, ObjectStore, finished, local_copy
from l2g.errors import DataError, VideoError
from tests.batch.made import done

pytest.importorskip("fsspec")


@pytest.fixture(params=["folder", "objects"])
def store(request, tmp_path):
    if request.param == "folder":
        return FolderStore(str(tmp_path / "out"))
    return ObjectStore(request.getfixturevalue("bucket") + f"/{tmp_path.name}")


def commit(store, record, content="{}"):
    with store.stage(record.name) as folder:
        folder.mkdir(parents=True)
        (folder / "frames.jsonl").write_text(content)
        return store.commit(folder, record)


def test_a_committed_video_is_there_and_nothing_else(store, tmp_path):
    assert finished(store, "a") is None
    assert commit(store, done("a"))
    assert finished(store, "a") == done("a")
    assert store.read("a/frames.jsonl") == b"{}"
    if isinstance(store, FolderStore):
        assert sorted(path.name for path in (store.root / "a").iterdir()) == ["frames.jsonl", "video.json"]
        assert list((store.root / ".staging").iterdir()) == []


def test_folders_of_maps_come_along(store):
    with store.stage("a") as folder:
        (folder / "pan_pred" / "a").mkdir(parents=True)
        (folder / "pan_pred" / "a" / "0.png").write_bytes(b"map")
        assert store.commit(folder, done("a"))
    assert store.read("a/pan_pred/a/0.png") == b"map"


def test_of_copies_that_end_together_one_is_first(store):
    """The record that stays is that of the copy that was told so."""
    copies = [replace(done("a"), worker=str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda record: commit(store, record), copies))
    assert sum(first) == 1
    assert finished(store, "a") == copies[first.index(True)]


def test_the_results_of_another_video_are_not_written_over(store):
    commit(store, done("a", "one.mp4"), "first")
    with pytest.raises(VideoError, match=r"two.mp4: its results would lie in a, where those of one.mp4 are"):
        commit(store, done("a", "two.mp4"), "second")
    assert store.read("a/frames.jsonl") == b"first"
    assert finished(store, "a").source == "one.mp4"


def test_a_folder_without_a_record_is_not_replaced(tmp_path):
    store = FolderStore(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine").touch()
    with pytest.raises(VideoError, match="holds no results of a batch"):
        commit(store, done("a"))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_a_store_that_lost_its_writer_before_the_record_takes_the_video_again(bucket, tmp_path):
    store = ObjectStore(f"{bucket}/{tmp_path.name}")
    (tmp_path / "half").write_text("half")
    store._claim(done("a"))
    store.put(tmp_path / "half", "a/frames.jsonl")
    assert finished(store, "a") is None
    assert commit(store, done("a"), "whole")
    assert store.read("a/frames.jsonl") == b"whole"


def test_a_record_that_is_none_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/video.json").write_text('{"name": "a", "age": 3}')
    with pytest.raises(VideoError, match=r"a/video.json: is not a record"):
        finished(FolderStore(str(tmp_path)), "a")


def test_passwords_are_not_told(store):
    """Nor does another one make it another video: whoever wrote it, the source is the same."""
    record = done("a", "ftp://me:secret@host/a.mp4")
    assert commit(store, record)
    assert b"secret" not in store.read("a/video.json")
    assert not commit(store, done("a", "ftp://me:other@host/a.mp4"))
    told = replace(record, error="ftp://me:secret@host/a.mp4: is gone", notices=("ftp://me:secret@host/a.mp4: odd",))
    assert (told.error, told.notices) == ("ftp://me:***@host/a.mp4: is gone", ("ftp://me:***@host/a.mp4: odd",))
    with (
        pytest.raises(DataError, match=r"^nowhere://me:\*\*\*@host/b: cannot be opened"),
        local_copy("nowhere://me:secret@host/b"),
    ):
        pass


def test_a_record_is_read_as_it_was_written():
    record = VideoRecord("a", "b", "damaged", 3, 2, 0.5, "cut off", ("a note",), {"cut": 2}, 4, 2, "host:1")
    assert VideoRecord.from_json(record.to_json()) == record
