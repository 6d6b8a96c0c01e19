"""Identities across seams, from results whose truth is known."""

import json

import pytest

from l2g.batch.pieces import PieceFile, PieceWriter, join_pieces, joined
from l2g.batch.records import Settings
from l2g.batch.worker import pieces_of
from l2g.errors import L2GError
from l2g.runtime.video.job import JobSummary
from l2g.runtime.video.live.watcher import Progress
from tests.batch.made import frame

CLASSES = ("square",)
# Two squares that move apart, at ten frames a second; the pieces begin at 1 s and share three frames.
PLACES = {index: {"left": (5, index), "right": (25, 29 - index)} for index in range(20)}


def piece(first, last, names):
    """Frames first..last-1, where `names` says which track the piece calls each square."""
    return [
        frame(index, {names[name]: place for name, place in PLACES[index].items() if name in names})
        for index in range(first, last)
    ]


def tracks(frames):
    """By frame: which track lies left, which right."""
    return [{("left" if item.box[0] == 5 else "right"): item.track_id for item in result.tracks} for result in frames]


def test_tracks_go_on_where_they_lie_on_each_other():
    pieces = [piece(0, 13, {"left": 1, "right": 2}), piece(10, 20, {"left": 2, "right": 1})]
    found = list(joined(pieces, [1.0, 2.0]))
    assert [result.index for result in found] == list(range(20))
    assert tracks(found) == [{"left": 1, "right": 2}] * 20


def test_without_an_overlap_every_piece_has_tracks_of_its_own():
    pieces = [piece(0, 10, {"left": 1, "right": 2}), piece(10, 20, {"left": 1, "right": 2})]
    assert tracks(joined(pieces, [1.0, 2.0])) == [{"left": 1, "right": 2}] * 10 + [{"left": 3, "right": 4}] * 10


def test_what_was_not_seen_before_is_new_and_what_is_elsewhere_too():
    pieces = [piece(0, 13, {"left": 1}), piece(10, 20, {"left": 7, "right": 1})]
    assert tracks(joined(pieces, [1.0, 2.0]))[13:] == [{"left": 1, "right": 2}] * 7


@pytest.mark.parametrize(("shift", "track"), [(2, 1), (6, 2)])
def test_a_track_is_the_one_of_which_it_covers_half(shift, track):
    """IoU 0.67 and 0.25."""
    pieces = [
        [frame(index, {1: (5, 5)}) for index in range(13)],
        [frame(index, {1: (5 + shift, 5)}) for index in range(10, 20)],
    ]
    assert [result.tracks[0].track_id for result in joined(pieces, [1.0, 2.0])] == [1] * 13 + [track] * 7


def test_identities_last_over_several_seams():
    pieces = [
        piece(0, 8, {"left": 1, "right": 2}),
        piece(5, 13, {"left": 2, "right": 1}),
        piece(10, 20, {"left": 9, "right": 4}),
    ]
    assert tracks(joined(pieces, [0.5, 1.0, 1.5])) == [{"left": 1, "right": 2}] * 20


def test_the_files_of_joined_pieces_are_those_of_the_whole(tmp_path):
    whole, parts = piece(0, 20, {"left": 1, "right": 2}), []
    for number, frames in enumerate([piece(0, 13, {"left": 1, "right": 2}), piece(10, 20, {"left": 2, "right": 1})]):
        with PieceWriter(tmp_path / str(number)) as writer:
            for result in frames:
                writer.result(Progress("", result, None, 0.0, 0, 0, 0, 0, None))
            writer.end(JobSummary(len(frames), 1.5, 2, (), None, False, ("a note",), resets={"cut": 1}), {})
        parts.append(PieceFile(tmp_path / str(number)))
    (tmp_path / "out").mkdir()
    summary = join_pieces(parts, tmp_path / "out", CLASSES, 1.0, "a.mp4")
    assert (summary.frames, summary.tracks, summary.seconds) == (20, 2, 3.0)
    assert (summary.notices, summary.resets) == (("a note",), {"cut": 2})
    lines = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    for line, result in zip(lines, whole, strict=True):
        assert line["index"] == result.index
        assert line["time"] == result.time
        for track, item in zip(line["tracks"], result.tracks, strict=True):
            assert (track["id"], track["score"]) == (item.track_id, 0.9)
            assert track["box"] == list(item.box)
            assert track["segmentation"] == item.rle
    entries = json.loads((tmp_path / "out/results.json").read_text())
    assert [(entry["track_id"], len(entry["segmentations"])) for entry in entries] == [(1, 20), (2, 20)]
    assert entries[0]["segmentations"] == [result.tracks[0].rle for result in whole]


@pytest.mark.parametrize(("frames", "pieces"), [(20, 1), (25, 1), (26, 2), (45, 2), (46, 3), (None, 1)])
def test_how_many_pieces(frames, pieces):
    """At ten frames a second, pieces of 2 s and half a second more."""

    class Source:
        expected_frames, frame_rate = frames, 10.0

    assert pieces_of(Source(), Settings("m", overlay=False, piece=2.0, overlap=0.5)) == pieces


def test_options_of_pieces_that_do_not_fit_are_refused():
    for wrong in ({"piece": 1.0, "overlap": 1.0}, {"overlap": 0.5}, {"piece": -1.0}, {"piece": 1.0, "start": 2.0}):
        with pytest.raises(L2GError, match="found"):
            Settings("m", overlay=False, **wrong)
    with pytest.raises(L2GError, match="add --no-overlay"):
        Settings("m", piece=1.0)
