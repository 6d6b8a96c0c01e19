"""The benchmark of cuts counts what the detector names; and a flash that it once was wrong about."""

from itertools import islice

from benchmarks import cuts
from l2g.runtime.video.cuts import CutDetector


def named(frames):
    detector = CutDetector()
    return [t for t, frame in enumerate(frames) if detector.is_cut(frame)]


def test_a_flash_in_a_video_of_few_frames_is_no_cut():
    """Half bleached at first, then white, and four frames of the scene go by with each."""
    ((frames, there),) = islice(cuts.videos("flashes", 100, 4, (96, 160)), 10, 11)
    assert there == set()
    assert named(frames) == []


def test_every_kind_is_counted(capsys):
    assert cuts.main(["--videos", "2", "--strides", "1"]) == 0
    told = capsys.readouterr().out
    assert "all: precision 1.0000, recall 1.0000" in told
    assert [line.split()[-6:-2] for line in told.splitlines() if " cuts " in line][-1] == ["8", "8", "0", "96"]
