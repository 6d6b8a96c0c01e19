"""From a backend's outputs to tracks with masks in source pixels."""

import numpy as np
import pytest

from l2g.errors import ContractError, L2GError
from l2g.runtime.assembler import FrameAssembler, letterbox_of
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.outputs import Detections
from l2g.runtime.session import VideoSession
from tests.runtime.blobs import BlobBackend, scene

HEIGHT, WIDTH = 90, 160
BOX = (40, 20, 100, 60)


def _assemble(frames, top_k=None, parameters=None):
    """The results of `frames`, letterboxed onto the fake backend's canvas."""
    with VideoSession(BlobBackend(canvas=(128, 160), top_k=top_k)) as session:
        session.join(0)
        letterbox = letterbox_of(session.backend.contract, HEIGHT, WIDTH)
        assembler = FrameAssembler(letterbox, session.backend.contract, parameters)
        return [
            assembler.assemble(session.step({0: letterbox.to_canvas(frame)})[0], index, index / 10)
            for index, frame in enumerate(frames)
        ]


@pytest.mark.parametrize("top_k", [None, 4])
def test_masks_and_boxes_are_those_of_the_objects(top_k):
    (result,) = _assemble([scene(HEIGHT, WIDTH, [(1, BOX), (2, (120, 50, 160, 90))])], top_k)
    by_label = {instance.label: instance for instance in result.tracks}
    assert set(by_label) == {1, 2}
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    mask = by_label[1].mask.full()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    assert np.abs(np.subtract(by_label[1].box, BOX)).max() <= 1
    assert np.abs(np.subtract(by_label[2].box, (120, 50, 160, 90))).max() <= 1
    assert by_label[1].slot == 1
    assert 0.85 < by_label[1].score < 1


def test_raw_outputs_and_detections_give_the_same_masks():
    frames = [scene(HEIGHT, WIDTH, [(0, (10 + 3 * i, 10, 60 + 3 * i, 70))]) for i in range(5)]
    for raw, chosen in zip(_assemble(frames), _assemble(frames, top_k=3), strict=True):
        (a,), (b,) = raw.tracks, chosen.tracks
        assert (a.track_id, a.label, a.slot) == (b.track_id, b.label, b.slot)
        assert a.score == pytest.approx(b.score, abs=1e-6)
        one, other = a.mask.full(), b.mask.full()
        # Bytes saturate where the logits of this backend go on: up to half a pixel of the mask's edge.
        assert (one & other).sum() / (one | other).sum() > 0.95


def test_a_slot_that_is_used_again_gets_a_new_id():
    seen, unseen = scene(HEIGHT, WIDTH, [(0, BOX)]), scene(HEIGHT, WIDTH, [])
    results = _assemble([seen, unseen, seen, unseen, unseen, unseen, seen], parameters=TrackParameters(max_age=2))
    ids = [[instance.track_id for instance in result.tracks] for result in results]
    assert ids == [[1], [], [1], [], [], [], [2]]


def test_top_k_limits_what_is_looked_at():
    frame = scene(HEIGHT, WIDTH, [(0, (0, 0, 100, 80)), (1, (110, 10, 130, 30)), (2, (140, 10, 155, 30))])
    backend = BlobBackend(canvas=(128, 160))
    letterbox = letterbox_of(backend.contract, HEIGHT, WIDTH)
    outputs = backend.step(letterbox.to_canvas(frame)[None], np.array([True]))
    result = FrameAssembler(letterbox, backend.contract, top_k=1).assemble(outputs, 0, 0.0)
    assert [instance.label for instance in result.tracks] == [0]


def test_scores_that_are_not_numbers_are_an_error_that_names_the_frame():
    backend = BlobBackend(top_k=3)
    letterbox = letterbox_of(backend.contract, 64, 96)
    outputs = backend.step(scene(64, 96, [(0, (0, 0, 50, 50))])[None], np.array([True]))
    broken = Detections(**{**vars(outputs), "scores": np.full_like(outputs.scores, np.nan)})
    with pytest.raises(L2GError, match=r"frame 17: .* NaN"):
        FrameAssembler(letterbox, backend.contract).assemble(broken, 17, 0.0)


def test_a_slot_whose_mask_lies_in_the_padding_is_not_reported():
    """Its score is high and its track lives on, but there is nothing of it in the picture."""
    backend = BlobBackend(canvas=(128, 160), top_k=3)
    letterbox = letterbox_of(backend.contract, HEIGHT, WIDTH)
    canvas = scene(128, 160, [(0, (0, 110, 160, 128)), (1, (10, 10, 60, 60))])
    result = FrameAssembler(letterbox, backend.contract).assemble(backend.step(canvas[None], np.array([True])), 0, 0.0)
    assert [instance.label for instance in result.tracks] == [1]


def test_one_stream_of_a_batch():
    backend = BlobBackend()
    outputs = backend.step(np.stack([scene(64, 96, [(i, (0, 0, 50, 50))]) for i in range(3)]), np.ones(3, bool))
    row = outputs.stream(2)
    assert row.logits.shape[0] == 1
    np.testing.assert_array_equal(row.logits[0], outputs.logits[2])


def test_an_unknown_resize_mode_is_refused():
    from dataclasses import replace

    contract = replace(BlobBackend().contract, resize="stretch")
    with pytest.raises(ContractError, match="stretch"):
        letterbox_of(contract, 10, 10)
