"""Times that go on: clocks that begin anew, leap, stutter or are not there at all."""

from fractions import Fraction

import numpy as np
import pytest

from l2g.runtime.video.source import Selection, open_source
from l2g.runtime.video.sources.clock import timeline
from tests.runtime.clips import moving_scenes, write_clip
from tests.runtime.made import join, write_ts

TENTH = Fraction(1, 10)


def _times(stamps, may_jump=True):
    stamped = [
        (None if stamp is None else Fraction(stamp).limit_denominator(1000), i) for i, stamp in enumerate(stamps)
    ]
    made = list(timeline(stamped, TENTH, may_jump))
    assert [item for _, item in made] == list(range(len(stamps)))
    return [float(time) for time, _ in made]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([5, 5.1, 5.2, 5.3], [0, 0.1, 0.2, 0.3]),
        ([0, 0.04, 0.5, 3.0], [0, 0.04, 0.5, 3.0]),  # true gaps stay
        ([0, 0.1, 0.2, 0, 0.1, 0.2], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # begins anew
        ([9, 9.1, 5, 5.1, 7200, 7200.1], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # back, then far ahead
        ([0, 0.1, 0.2, 5000, 0.4, 0.5], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # one stray ahead
        ([0, 0.1, 0.2, 0.05, 0.4, 0.5], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # one stray back
        ([0, 0.1, 0.1, 0.3], [0, 0.1, 0.2, 0.3]),  # a stamp twice
        ([None, None, None], [0, 0.1, 0.2]),
        ([0, None, 0.2, None], [0, 0.1, 0.2, 0.3]),
        ([0, 0.1, 0], [0, 0.1, 0.2]),  # ends with a jump
        ([], []),
    ],
)
def test_times_go_on(stamps, expected):
    assert _times(stamps) == pytest.approx(expected, abs=1e-9)


def test_a_gap_is_a_jump_only_where_clocks_jump_and_only_beyond_the_usual():
    slides = [0, 50, 100, 155]
    assert _times(slides, may_jump=False) == slides
    steady = [(Fraction(stamp), None) for stamp in slides]
    assert [float(time) for time, _ in timeline(steady, Fraction(50), True)] == slides
    assert _times([0, 0.1, 9.9]) == pytest.approx([0, 0.1, 9.9])
    assert _times([0, 0.1, 10.3, 10.4]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_long_streams_do_not_drift():
    rate = Fraction(30000, 1001)
    stamps = [(index / rate, None) for index in range(20_000)]
    assert list(timeline(stamps, 1 / rate, True))[-1][0] == 19_999 / rate


# Where the second recording's clock begins; the first runs from 10.0 to 11.1 s.
SECOND = {
    "anew": 10.0,
    "a little back": 10.95,
    "an hour back": -3590.0,
    "an hour ahead": 3611.2,
    "a day ahead": 86000.0,
}


@pytest.mark.parametrize("name", SECOND)
def test_joined_recordings_go_on(tmp_path, name):
    begin = 4000.0  # an hour back has to be above zero
    images, times = moving_scenes(12), np.arange(12) / 10
    first = write_ts(tmp_path / "1.ts", images, times, begin + 10.0)
    second = write_ts(tmp_path / "2.ts", images, times, begin + SECOND[name])
    joined = join(tmp_path / "joined.ts", first, second)
    with open_source(joined) as source:
        frames = list(source)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(24) / 10, atol=2e-3)
    assert source.damage is None
    assert source.expected_frames is None or source.expected_frames < 100
    with open_source(joined, Selection(start=1.55, end=1.85)) as source:
        assert [frame.index for frame in source] == [16, 17, 18]


def test_the_end_is_counted_exactly_without_time_stamps(tmp_path):
    """AVI has a rate only; a tenth added fifty times is less than five."""
    clip = write_clip(tmp_path / "a.avi", moving_scenes(60), tick=TENTH)
    for end, count in [(5.0, 50), (0.3, 3), (2.3, 23), (5.05, 51)]:
        with open_source(clip, Selection(end=end)) as source:
            assert len(list(source)) == count
            assert source.expected_frames == pytest.approx(count, abs=1)
    with open_source(clip, Selection(start=0.7)) as source:
        assert [frame.index for frame in source] == list(range(7, 60))


# Tenths of a second at which a picture was coded; in between it stays as it was.
CODED = [0, 1, 2, 5, 6, 7, 15, 16, 17, 18]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg", "rawvideo"])
def test_places_that_an_avi_leaves_empty_are_time(tmp_path, codec):
    """As recorders of screens write them."""
    options = {"bf": "0"} if codec == "libx264" else {}
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path, times = tmp_path / "a.avi", np.array(CODED) / 10
    write_clip(path, moving_scenes(10), times, codec=codec, pix_fmt=pixels, options=options, tick=TENTH)
    with open_source(path) as source:
        np.testing.assert_allclose([frame.time for frame in source], times)
    assert source.damage is None
    with open_source(path, Selection(start=0.3, end=1.6)) as source:
        assert [frame.index for frame in source] == [3, 4, 5, 6]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(7)])
def test_times_of_avi_are_count_over_rate(tmp_path, rate):
    clip = write_clip(
        tmp_path / "a.avi", moving_scenes(40), times=[float(i / rate) for i in range(40)], tick=1 / rate, rate=rate
    )
    with open_source(clip) as source:
        assert [frame.time for frame in source] == [float(i / rate) for i in range(40)]
