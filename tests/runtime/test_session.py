"""Streams share a backend and do not notice."""

from dataclasses import replace

import numpy as np
import pytest

from l2g.errors import ContractError, L2GError
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.session import VideoSession
from tests.runtime.blobs import BlobBackend, scene


def _frames(stream, count):
    """Blobs whose areas differ by stream and frame, so that every history is its own."""
    rng = np.random.default_rng(stream)
    return [
        scene(64, 96, [(int(rng.integers(3)), (0, 0, int(rng.integers(8, 90)), int(rng.integers(8, 60))))])
        for _ in range(count)
    ]


def _alone(frames, **backend):
    """What a stream's frames give with a backend of their own."""
    with VideoSession(BlobBackend(**backend)) as session:
        session.join("only")
        return [session.step({"only": frame})["only"] for frame in frames]


def _equal(got, expected):
    assert type(got) is type(expected)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


@pytest.mark.parametrize("top_k", [None, 3])
def test_streams_of_different_lengths_get_what_they_get_alone(top_k):
    lengths = {"a": (0, 12), "b": (3, 5), "c": (4, 20), "d": (7, 8)}  # when it joins, how many frames it has
    videos = {name: _frames(seed, length) for seed, (name, (_, length)) in enumerate(lengths.items())}
    got = {name: [] for name in lengths}
    with VideoSession(BlobBackend(top_k=top_k)) as session:
        for now in range(30):
            for name, (start, length) in lengths.items():
                if now == start:
                    session.join(name)
                if now == start + length:
                    session.leave(name)
            batch = {
                name: videos[name][now - start] for name, (start, n) in lengths.items() if start <= now < start + n
            }
            assert set(batch) == set(session.streams)
            for name, outputs in session.step(batch).items():
                got[name].append(outputs)
    for name, video in videos.items():
        expected = _alone(video, top_k=top_k)
        assert len(got[name]) == len(expected)
        for ours, theirs in zip(got[name], expected, strict=True):
            _equal(ours, theirs)


def test_a_stream_without_a_frame_keeps_its_state():
    rng = np.random.default_rng(9)
    videos = {name: _frames(seed, 40) for seed, name in enumerate("abc")}
    position = dict.fromkeys(videos, 0)
    got = {name: [] for name in videos}
    with VideoSession(BlobBackend()) as session:
        for name in videos:
            session.join(name)
        for _ in range(40):
            batch = {}
            for name in rng.permutation(list(videos)):
                if rng.random() < 0.5:
                    batch[str(name)] = videos[name][position[name]]
                    position[name] += 1
            for name, outputs in session.step(batch).items():
                got[name].append(outputs)
    assert min(position.values()) > 10
    for name in videos:
        for ours, theirs in zip(got[name], _alone(videos[name][: position[name]]), strict=True):
            _equal(ours, theirs)


def test_resetting_one_stream_leaves_the_other_untouched():
    a, b = _frames(0, 8), _frames(1, 8)
    got = {"a": [], "b": []}
    with VideoSession(BlobBackend()) as session:
        session.join("a")
        session.join("b")
        for index in range(8):
            if index == 5:
                session.reset("a")
            for name, outputs in session.step({"b": b[index], "a": a[index]}).items():
                got[name].append(outputs)
    for ours, theirs in zip(got["b"], _alone(b), strict=True):
        _equal(ours, theirs)
    for ours, theirs in zip(got["a"], _alone(a[:5]) + _alone(a[5:]), strict=True):
        _equal(ours, theirs)
    assert not np.array_equal(got["a"][5].queries, _alone(a)[5].queries)


def test_a_stream_reset_while_it_pauses_starts_anew():
    a, b = _frames(0, 4), _frames(1, 1)
    with VideoSession(BlobBackend()) as session:
        session.join("a")
        session.join("b")
        session.step({"a": a[0]})
        session.step({"b": b[0]})
        session.reset("a")
        _equal(session.step({"a": a[1]})["a"], _alone(a[1:2])[0])


def test_leaving_and_joining_again_starts_anew():
    frames = _frames(0, 4)
    with VideoSession(BlobBackend()) as session:
        session.join("a")
        session.step({"a": frames[0]})
        session.leave("a")
        session.join("a")
        _equal(session.step({"a": frames[1]})["a"], _alone(frames[1:2])[0])


def test_state_stays_on_the_device_while_the_streams_stay():
    backend = BlobBackend()
    with VideoSession(backend) as session:
        session.join("a")
        session.join("b")
        for frame in _frames(0, 6):
            session.step({"a": frame, "b": frame})
            session.step({"b": frame, "a": frame})
        assert backend.transfers == 0
        session.step({"a": frame})
        assert backend.transfers == 1
    assert backend.closed


@pytest.mark.parametrize("top_k", [None, 4])
def test_an_image_model_is_linked_per_stream(top_k):
    """The backend shuffles its slots every frame; the session undoes it for each stream, pauses included."""
    slots = {"a": set(), "b": set()}
    with VideoSession(BlobBackend(association="embedding", top_k=top_k)) as session:
        session.join("a")
        session.join("b")
        for index in range(12):
            batch = {"a": scene(64, 96, [(0, (8, 8, 40, 40))])}
            if index % 3:
                batch["b"] = scene(64, 96, [(2, (8, 8, 60, 40))])
            for name, outputs in session.step(batch).items():
                best = outputs.logits[0].max(axis=1).argmax() if top_k is None else outputs.slots[0, 0]
                slots[name].add(int(best))
    assert [len(seen) for seen in slots.values()] == [1, 1]


def test_an_image_model_carries_no_state():
    frames = _frames(4, 6)
    with VideoSession(BlobBackend(association="embedding")) as session:
        session.join("a")
        for frame in frames[:-1]:
            session.step({"a": frame})
        last = session.step({"a": frames[-1]})["a"]
    first = _alone(frames[-1:], association="embedding")[0]
    np.testing.assert_array_equal(np.sort(last.logits.ravel()), np.sort(first.logits.ravel()))


def test_a_propagating_model_is_never_linked():
    frame = scene(64, 96, [(0, (8, 8, 40, 40))])
    backend = BlobBackend()
    original = backend.step

    def swapped(frames, reset):
        outputs = original(frames, reset)
        if backend.steps == 2:
            return RawOutputs(*[value[:, ::-1] for value in vars(outputs).values()])
        return outputs

    backend.step = swapped
    with VideoSession(backend) as session:
        session.join("a")
        first = session.step({"a": frame})["a"]
        second = session.step({"a": frame})["a"]
    np.testing.assert_array_equal(second.mask_logits[0], first.mask_logits[0, ::-1])


def test_nothing_to_step_is_nothing_done():
    with VideoSession(BlobBackend()) as session:
        session.join("a")
        assert session.step({}) == {}


def test_misuse_is_named():
    frame = scene(64, 96, [])
    session = VideoSession(BlobBackend())
    with pytest.raises(L2GError, match="'x' has not joined"):
        session.step({"x": frame})
    with pytest.raises(L2GError, match="has not joined"):
        session.reset("x")
    session.join("x")
    with pytest.raises(L2GError, match="joined already"):
        session.join("x")
    with pytest.raises(L2GError, match=r"uint8 \[64, 96, 3\]"):
        session.step({"x": frame[:32]})
    with pytest.raises(L2GError, match="float32"):
        session.step({"x": frame.astype(np.float32)})
    backend = BlobBackend()
    backend.contract = replace(backend.contract, association="guess")
    with pytest.raises(ContractError, match="guess"):
        VideoSession(backend)
