"""Things and stuff of a stream, frame after frame, through the public face."""

import dataclasses

import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.panoptic.options import PanopticOptions
from tests.runtime.blobs import BlobBackend, scene

SIZE = 64, 96
# Red and green are things, blue is stuff.
RED, GREEN, BLUE = (0, (8, 8, 28, 32)), (1, (48, 8, 80, 32)), (2, (4, 40, 92, 60))


def backend(stuff=(2,), **changes):
    made = BlobBackend(SIZE, **changes)
    made.contract = dataclasses.replace(made.contract, stuff_classes=stuff)
    return made


def moved(blob, step):
    color, (x1, y1, x2, y2) = blob
    return color, (x1 + step, y1, x2 + step, y2)


def test_each_pixel_has_one_segment_and_things_keep_their_ids():
    with l2g.Tracker(backend()) as tracker:
        for step in range(0, 20, 4):
            result = tracker.update(scene(*SIZE, [moved(RED, step), GREEN, BLUE]))
            found = result.panoptic
            expected = np.zeros(SIZE, int)
            # A class of stuff has its label + 1, a thing its track and the number of classes.
            for id_, (_, (x1, y1, x2, y2)) in ((3, BLUE), (5, moved(RED, step)), (4, GREEN)):
                expected[y1:y2, x1:x2] = id_
            assert (found.ids != expected).sum() <= 12  # corners, which interpolation rounds
            assert not set(np.unique(found.ids)) - {0, 3, 4, 5}
            assert [(s.id, s.label, s.track_id, s.is_thing) for s in found.segments] == [
                (3, 2, None, False),
                (4, 1, 1, True),
                (5, 0, 2, True),
            ]
            assert [segment.area for segment in found.segments] == [(found.ids == id_).sum() for id_ in (3, 4, 5)]
            assert sorted(track.track_id for track in result.tracks) == [1, 2]
            for track in result.tracks:
                assert np.array_equal(track.mask.full(), found.ids == 3 + track.track_id)


def test_after_a_reset_things_are_new_and_stuff_is_not():
    with l2g.Tracker(backend()) as tracker:
        tracker.update(scene(*SIZE, [RED, BLUE]))
        tracker.reset()
        found = tracker.update(scene(*SIZE, [RED, BLUE])).panoptic
    assert [segment.id for segment in found.segments] == [3, 5]


def test_instances_and_semantic_can_be_asked_for():
    picture = scene(*SIZE, [RED, BLUE])
    with l2g.Tracker(backend(), task="instances") as tracker:
        result = tracker.update(picture)
        assert result.panoptic is None
        assert {track.label for track in result.tracks} == {0, 2}
    with l2g.Tracker(backend(), task="semantic", panoptic=PanopticOptions(temperature=0)) as tracker:
        found = tracker.update(picture).panoptic
        assert all(segment.track_id is None for segment in found.segments)
        assert (found.ids[10:30, 10:26] == 1).all()
        assert (found.ids[42:58, 8:90] == 3).all()
        assert tracker.update(picture).tracks == ()


def test_the_task_is_the_models_own_unless_given():
    picture = scene(*SIZE, [RED])
    assert l2g.Tracker(backend(())).update(picture).panoptic is None
    assert l2g.Tracker(backend((1,))).update(picture).panoptic is not None
    everything = l2g.Tracker(backend((0, 1, 2))).update(picture)
    assert everything.tracks == ()  # semantic


def test_a_model_that_knows_no_stuff_gives_a_map_of_its_things():
    found = l2g.Tracker(backend(()), task="panoptic").update(scene(*SIZE, [RED, GREEN])).panoptic
    assert [(segment.label, segment.is_thing) for segment in found.segments] == [(1, True), (0, True)]
    assert (found.ids[10:30, 10:26] == found.segments[1].id).all()


def test_chosen_detections_give_the_same_map():
    picture = scene(*SIZE, [RED, GREEN, BLUE])
    raw = l2g.Tracker(backend()).update(picture).panoptic
    chosen = l2g.Tracker(backend(top_k=4)).update(picture).panoptic
    assert np.array_equal(raw.ids, chosen.ids)
    with pytest.raises(L2GError, match="needs all slots"):
        l2g.Tracker(backend(top_k=4), task="semantic")


def test_a_task_that_there_is_not_is_refused():
    with pytest.raises(L2GError, match="task 'panoptics' found, one of instances, panoptic, semantic expected"):
        l2g.Tracker(backend(), task="panoptics")


def test_scores_that_are_not_numbers_are_refused():
    made = backend()

    def step(frames, reset):
        found = BlobBackend.step(made, frames, reset)
        return RawOutputs(found.queries, found.boxes, np.full_like(found.logits, np.nan), found.mask_logits)

    made.step = step
    for task in ("panoptic", "semantic"):
        with pytest.raises(L2GError, match="NaN or infinity"):
            l2g.Tracker(made, task=task).update(scene(*SIZE, [RED]))
        made.state = None
