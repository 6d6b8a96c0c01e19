"""What ONNX Runtime makes of a graph is kept, and never used for anything but that graph, whole, on this machine."""

import os

import numpy as np
import pytest

pytest.importorskip("torch")  # the small graph is exported from a model
ort = pytest.importorskip("onnxruntime")

from l2g.errors import ContractError  # noqa: E402
from l2g.runtime.backends import kept_files  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.backends.open import open_backend  # noqa: E402
from tests.exported import edited, scale_one_weight, small_graph  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2G_KEEP_GRAPHS", raising=False)
    return tmp_path / "cache" / "onnxruntime"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that ONNX Runtime was given."""
    names = []
    session = ort.InferenceSession

    def noted(name, *arguments, **options):
        names.append(str(name))
        return session(name, *arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    return names


def rollout(backend, frames=3):
    rng = np.random.default_rng(5)
    height, width = backend.contract.height, backend.contract.width
    found = []
    for t in range(frames):
        pictures = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        found.append(backend.step(pictures, np.array([t == 0, t != 1])))
    backend.close()
    return [(o.queries, o.boxes, o.logits, o.mask_logits) for o in found]


def same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def kept(cache):
    return sorted(cache.glob("*.onnx"))


def test_the_second_opening_is_of_what_was_kept_and_equal_to_the_bit(cache, opened):
    expected = rollout(OnnxRuntimeBackend(small_graph()))
    assert not cache.exists()  # only where it is asked for
    assert same(rollout(open_backend(small_graph())), expected)
    assert len(kept(cache)) == 1
    opened.clear()
    assert same(rollout(open_backend(small_graph())), expected)
    assert opened == [str(kept(cache)[0])]


def test_a_cache_that_may_only_be_read_is_used(cache, opened, monkeypatch):
    """One of a read-only image, or of another user."""
    open_backend(small_graph()).close()
    opened.clear()

    def refused(*_):
        raise PermissionError("not the owner")

    monkeypatch.setattr(kept_files.os, "utime", refused)
    open_backend(small_graph()).close()
    assert opened == [str(kept(cache)[0])]


def test_files_of_others_that_cannot_go_leave_what_was_made(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("not the owner")

    monkeypatch.setattr(kept_files, "_make_room", refused)
    assert kept_files.keep(written(tmp_path / "a.onnx"))
    assert kept_files.is_whole(tmp_path / "a.onnx")
    monkeypatch.setattr(kept_files.Path, "write_text", refused)
    assert not kept_files.keep(written(tmp_path / "b.onnx"))
    assert not (tmp_path / "b.onnx").exists()


def written(path):
    made = kept_files.pending(path)
    with open(made.temporary, "wb") as file:
        file.write(b"a graph")
    return made


def test_another_graph_is_another_file(cache, tmp_path, opened):
    open_backend(small_graph()).close()
    other = edited(small_graph(), scale_one_weight, tmp_path / "other.onnx")
    found = rollout(open_backend(other))
    assert len(kept(cache)) == 2
    assert same(rollout(open_backend(other)), found)
    assert same(found, rollout(OnnxRuntimeBackend(other)))
    assert not same(found, rollout(OnnxRuntimeBackend(small_graph())))


@pytest.mark.parametrize("fact", ["version", "processor"])
def test_another_library_or_processor_is_another_file(cache, monkeypatch, fact, opened):
    open_backend(small_graph()).close()
    if fact == "version":
        monkeypatch.setattr(ort, "__version__", "0.0.1")
    else:
        monkeypatch.setattr(kept_files, "_processor", lambda: "flags: of another")
    opened.clear()
    open_backend(small_graph()).close()
    assert opened == [str(small_graph())]
    assert len(kept(cache)) == 2


@pytest.mark.parametrize("damage", ["one bit", "half", "no sum"])
def test_what_is_damaged_is_made_again(cache, damage, opened):
    expected = rollout(open_backend(small_graph()))
    file = kept(cache)[0]
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "half":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.with_suffix(".crc32").unlink()
    opened.clear()
    assert same(rollout(open_backend(small_graph())), expected)
    assert opened == [str(small_graph())]
    opened.clear()
    open_backend(small_graph()).close()
    assert opened == [str(file)]


def test_a_graph_that_was_changed_in_its_place_is_seen(cache, tmp_path, opened, monkeypatch):
    """Its length and the time that a user sees are those of before."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(small_graph().read_bytes())
    monkeypatch.setattr(kept_files.time, "time_ns", lambda: path.stat().st_ctime_ns + 10**10)
    expected = rollout(open_backend(path))
    before = path.stat()
    monkeypatch.setattr(kept_files, "sha256_of_file", None)  # it is remembered
    assert same(rollout(open_backend(path)), expected)
    monkeypatch.undo()
    monkeypatch.setenv("L2G_CACHE", str(cache.parent))
    other = edited(path, scale_one_weight, tmp_path / "other.onnx").read_bytes()
    assert len(other) == before.st_size
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not same(rollout(open_backend(path)), expected)


def test_nothing_is_kept_where_nothing_can_be_or_shall_be(cache, monkeypatch, tmp_path):
    expected = rollout(OnnxRuntimeBackend(small_graph()))
    (tmp_path / "in the way").write_text("a file")
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "in the way"))
    assert same(rollout(open_backend(small_graph())), expected)
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("L2G_KEEP_GRAPHS", "0")
    assert same(rollout(open_backend(small_graph())), expected)
    assert not cache.exists()


def test_the_oldest_use_goes_first(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(kept_files, "MOST_FILES", 2)
    graphs = [small_graph()]
    for factor in (1.1, 1.2):
        graphs.append(edited(small_graph(), lambda m, f=factor: scale_one_weight(m, f), tmp_path / f"{factor}.onnx"))
    files = []
    for age, graph in zip((30, 20), graphs[:2], strict=True):
        open_backend(graph).close()
        files += [file for file in kept(cache) if file not in files]
        os.utime(files[-1].with_suffix(".crc32"), (1e9 - age, 1e9 - age))
    open_backend(graphs[0]).close()  # used again: the second is the oldest now
    open_backend(graphs[2]).close()
    assert files[0] in kept(cache)
    assert files[1] not in kept(cache)
    assert len(kept(cache)) == 2 == len(list(cache.glob("*.crc32")))


def test_a_graph_that_is_refused_is_not_kept(cache, tmp_path):
    changed = edited(small_graph(), scale_one_weight, tmp_path / "changed.onnx", summed=False)
    for _ in range(2):
        with pytest.raises(ContractError, match="changed after its export"):
            open_backend(changed)
    assert kept(cache) == []
    assert not list(cache.glob("*.part"))
