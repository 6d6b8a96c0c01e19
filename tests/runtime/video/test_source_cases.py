"""Files that were read wrongly once (tests/assets/cases), each with what is right for it."""

from pathlib import Path

import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.video.source import Selection, open_source

CASES = Path(__file__).parents[2] / "assets" / "cases"


def _read(name, **selection):
    with open_source(CASES / name, Selection(**selection), picture_rate=10) as source:
        return source, list(source)


# Name -> frames, (height, width), their times.
WHOLE = {
    "video/two_recordings_joined.ts": (24, (96, 160), np.arange(24) / 10),
    "video/cover_first.mkv": (24, (96, 160), np.arange(24) / 10),
    "video/long_last_frame.gif": (8, (96, 160), [0, 0.1, 0.2, 0.7, 0.8, 0.9, 1.0, 1.1]),
    "video/starts_at_half_a_second.mkv": (24, (96, 160), np.arange(24) / 10),
    "video/pixels_twice_as_wide.mp4": (24, (96, 80), np.arange(24) / 10),
    "pictures/photo_with_exif.jpg": (1, (384, 640), [0]),
    "pictures/motion_jpeg_with_exif.avi": (6, (384, 640), np.arange(6) / 10),
    "pictures/mac_companions": (6, (96, 160), np.arange(6) / 10),
    "pictures/two_shapes": (6, (96, 160), np.arange(6) / 10),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_ones(name):
    count, size, times = WHOLE[name]
    source, frames = _read(name)
    assert [frame.index for frame in frames] == list(range(count))
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-3)
    assert {frame.image.shape[:2] for frame in frames} == {size}
    assert source.damage is None
    assert source.expected_frames == pytest.approx(count, abs=12 if name.endswith("joined.ts") else 0)


def test_what_is_said_of_them():
    assert "track 1 is used" in _read("video/cover_first.mkv")[0].notices[0]
    assert "letterboxed into 160x96: 2, the first is 00002.jpg" in _read("pictures/two_shapes")[0].notices[0]
    assert _read("video/pixels_twice_as_wide.mp4")[0].pixel_aspect == 2
    assert _read("pictures/photo_with_exif.jpg")[0].is_picture


def test_a_part_of_the_second_recording():
    _, frames = _read("video/two_recordings_joined.ts", start=1.5, end=1.8)
    assert [frame.index for frame in frames] == [15, 16, 17]


def test_a_picture_cut_short():
    source, frames = _read("pictures/cut_short")
    assert [frame.index for frame in frames] == [0, 1, 2, 4, 5]
    assert "the first is 00003.jpg" in source.damage


@pytest.mark.parametrize(
    ("name", "message"), [("song.mp3", "holds no video stream"), ("no_width.mp4", "cannot be decoded: the codec")]
)
def test_refused_ones(name, message):
    with pytest.raises(VideoError, match=message):
        open_source(CASES / "video" / name)
