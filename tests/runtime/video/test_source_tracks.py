"""Which of several video tracks is the film."""

import av
import numpy as np
import pytest
from av.stream import Disposition

from l2g.errors import VideoError
from l2g.runtime.video.source import open_source
from tests.runtime.blobs import scene
from tests.runtime.clips import moving_scenes, write_clip
from tests.runtime.made import jpeg, write_tracks

FILM = moving_scenes(12)
TIMES = np.arange(12) / 10
NOTHING = Disposition(0)


def _still(height=48, width=48):
    return [scene(height, width, [(2, (0, 0, width, height))])], [0.0]


def _tracks(*others, film_at, suffix="mkv", tmp_path=None, sound=False, film=(FILM, TIMES, "libx264", NOTHING)):
    tracks = list(others)
    tracks.insert(film_at, film)
    return write_tracks(tmp_path / f"a.{suffix}", tracks, sound)


def _is_film(path, track=None):
    with open_source(path, track=track) as source:
        frames = list(source)
    assert source.damage is None
    return source, [frame.image.shape for frame in frames] == [(64, 96, 3)] * 12


# What stands beside the film, which is 96x64 and 12 frames.
BESIDE = {
    "a small still": (*_still(), "mjpeg", NOTHING),
    "a still larger than the film": (*_still(200, 320), "mjpeg", NOTHING),
    "a still that is the default": (*_still(200, 320), "mjpeg", Disposition.default),
    "a still that lasts as long": ([_still(200, 320)[0][0]], [0.0, 1.2], "mjpeg", Disposition.default),
    "a smaller preview": (moving_scenes(12, 32, 48), TIMES, "libx264", NOTHING),
    "a short, larger trailer": (moving_scenes(3, 128, 192), TIMES[:3], "libx264", NOTHING),
}


@pytest.mark.parametrize("film_at", [0, 1])
@pytest.mark.parametrize("name", BESIDE)
def test_the_film_is_found_and_said(tmp_path, name, film_at):
    source, found = _is_film(_tracks(BESIDE[name], film_at=film_at, tmp_path=tmp_path))
    assert found
    (notice,) = source.notices
    assert f"track {film_at} is used, of video tracks 0 (" in notice


@pytest.mark.parametrize("film_at", [0, 1])
def test_covers_in_mp4(tmp_path, film_at):
    """A drone's preview, and a true cover, which FFmpeg marks."""
    for mark in (NOTHING, Disposition.attached_pic):
        _, found = _is_film(_tracks((*_still(), "mjpeg", mark), film_at=film_at, suffix="mp4", tmp_path=tmp_path))
        assert found


def test_of_equals_the_default_then_the_larger_then_the_first_is_used(tmp_path):
    small, large = moving_scenes(12), moving_scenes(12, 128, 192)
    for dispositions, expected in [
        ((NOTHING, NOTHING), (128, 192)),
        ((Disposition.default, NOTHING), (64, 96)),
        ((Disposition.default, Disposition.default), (128, 192)),
    ]:
        tracks = [(images, TIMES, "libx264", d) for images, d in zip((small, large), dispositions, strict=True)]
        with open_source(write_tracks(tmp_path / "a.mkv", tracks)) as source:
            assert (source.height, source.width) == expected
    tracks = [(images, TIMES, "libx264", NOTHING) for images in (small, small[::-1])]
    with open_source(write_tracks(tmp_path / "a.mkv", tracks)) as source:
        assert "track 0 is used" in source.notices[0]


def test_a_track_can_be_chosen(tmp_path):
    path = _tracks(BESIDE["a still larger than the film"], film_at=1, tmp_path=tmp_path)
    source, found = _is_film(path, track=1)
    assert found
    assert source.notices == []
    with open_source(path, track=0) as source:
        (frame,) = source
        assert frame.image.shape == (200, 320, 3)
    assert source.damage is None
    for track in (2, -1):
        with pytest.raises(VideoError, match=rf"video track {track} asked for, but it holds video tracks 0 \(mjpeg"):
            open_source(path, track=track)
    with pytest.raises(VideoError, match="have no tracks"):
        open_source(tmp_path, track=0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_one_track_is_not_talked_about(tmp_path, suffix):
    with open_source(write_clip(tmp_path / f"a.{suffix}", FILM)) as source:
        assert source.notices == []


@pytest.mark.parametrize("suffix", ["mp4", "mka", "flac"])
def test_a_song_with_a_cover_holds_no_video(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "mp4":
        write_tracks(path, [(*_still(), "mjpeg", Disposition.attached_pic)], sound=True)
    else:
        with av.open(str(path), "w", format="matroska" if suffix == "mka" else None) as container:
            stream = container.add_stream("flac", rate=16000)
            if suffix == "mka":
                container.add_attachment("cover.jpg", "image/jpeg", jpeg(_still()[0][0]))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"holds no video stream(, only .* with --track|; give a video, .*AVI)$"):
        open_source(path)


def test_a_film_with_attachments(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.add_attachment("cover.jpg", "image/jpeg", jpeg(_still(300, 400)[0][0]))
        for image in FILM:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    source, found = _is_film(path)
    assert found
    assert "1 (mjpeg 400x300, a cover or preview)" in source.notices[0]
