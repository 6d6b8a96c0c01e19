"""A result crosses the wire without losing a bit."""

from dataclasses import replace

import numpy as np
import pytest

import l2g
from l2g.errors import L2GError
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.serving import wire
from tests.runtime.blobs import CLASS_NAMES, BlobBackend
from tests.runtime.clips import moving_scenes
from tests.serving.same import content


def test_a_result_comes_back():
    tracker = l2g.Tracker(BlobBackend(), cuts=(0.2,))
    seen = 0
    for i, image in enumerate(moving_scenes(4, 66, 101)):
        result = tracker.update(image, i / 10)
        arrays = wire.arrays_of(result)
        for spec in wire.OUTPUTS:
            array, sides = arrays[spec.name], [len(result.tracks) if side == -1 else side for side in spec.shape]
            assert (array.shape, array.dtype) == ((1, *sides), wire.DTYPES[spec.datatype])
        back = wire.result_of(arrays, CLASS_NAMES)
        assert content(back) == content(result)
        assert back.class_names == CLASS_NAMES
        for one, other in zip(back.tracks, result.tracks, strict=True):
            np.testing.assert_array_equal(one.mask.full(), other.mask.full())
        assert result.reset == ("cut" if i == 2 else None)
        seen += len(result.tracks)
    assert seen == 8


def test_no_number_takes_another_s_place():
    patch = np.array([[True, False, True], [False, True, True]])
    mask = InstanceMask(50, 40, top=7, left=11, patch=patch)
    tracks = tuple(
        TrackedInstance(track_id=90 - i, slot=70 + i, label=i, score=0.1 + i / 7, frame_label=5 - i, mask=mask)
        for i in range(3)
    )
    result = FrameResult(12, 3.4, tracks, 50, 40, CLASS_NAMES, "cut")
    back = wire.result_of(wire.arrays_of(result), CLASS_NAMES)
    for one, other in zip(back.tracks, tracks, strict=True):
        assert one.score == np.float32(other.score)
        assert replace(one, mask=mask, score=other.score) == other
        np.testing.assert_array_equal(one.mask.full(), mask.full())
    assert replace(back, tracks=()) == replace(result, tracks=())


def test_nothing_comes_back_as_nothing():
    back = wire.result_of(wire.arrays_of(wire.NOTHING), ())
    assert content(back) == content(wire.NOTHING)


def test_a_model_that_returns_no_tracks():
    names = [spec.name for spec in wire.OUTPUTS]
    wire.check_outputs([*names, "more"], "m")
    with pytest.raises(L2GError, match="model 'm' of the server has no output 'SCORES'"):
        wire.check_outputs([name for name in names if name != "SCORES"], "m")
