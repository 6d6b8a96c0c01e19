"""What counts as damage: bytes or frames that are missing; never a duration alone."""

import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from l2g.data.pictures import read_picture
from l2g.errors import VideoError
from l2g.runtime.video.source import Selection, open_source
from l2g.runtime.video.sources.integrity import is_cut
from tests.runtime.clips import cut, moving_scenes, noisy, write_clip
from tests.runtime.made import join, jpeg, write_motion_jpeg, write_ts

TENTH = Fraction(1, 10)


def _write(path, count=20, times=None, **options):
    if path.suffix == ".avi":
        options.setdefault("tick", TENTH)
    if path.suffix in (".mp4", ".mov"):
        options.setdefault("container_options", {"movflags": "faststart"})
    return write_clip(path, noisy(moving_scenes(count)), times, **options)


def _read(path, **selection):
    with open_source(path, Selection(**selection)) as source:
        return source, list(source)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "gif", "flv", "ts"])
def test_whole_files_are_whole(tmp_path, suffix):
    kinds = {"gif": ("gif", "rgb8"), "webm": ("libvpx-vp9", "yuv420p")}
    codec, pixels = kinds.get(suffix, ("libx264", "yuv420p"))
    clip = _write(tmp_path / f"a.{suffix}", codec=codec, pix_fmt=pixels, options={})
    assert is_cut(clip) is (None if suffix in ("flv", "ts") else False)
    source, frames = _read(clip)
    assert len(frames) == 20
    assert source.damage is None


@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "gif"])
def test_cut_files_are_damaged(tmp_path, suffix, share):
    codec, pixels = ("gif", "rgb8") if suffix == "gif" else ("libx264", "yuv420p")
    clip = cut(_write(tmp_path / f"a.{suffix}", codec=codec, pix_fmt=pixels, options={}), share)
    assert is_cut(clip) is True
    source, frames = _read(clip)
    assert 5 <= len(frames) <= 20
    assert "the file is damaged" in source.damage
    source, frames = _read(clip, end=0.3)
    assert len(frames) == 3
    assert source.damage is None  # what was asked for is there


@pytest.mark.parametrize("last", [0.2, 1.0, 30.0])
@pytest.mark.parametrize("suffix", ["gif", "mp4", "mkv", "mov"])
def test_a_long_last_frame_is_no_loss(tmp_path, suffix, last):
    """Its duration is in the packet, where the container has a place for it."""
    path = tmp_path / f"a.{suffix}"
    codec, pixels = ("gif", "rgb8") if suffix == "gif" else ("mpeg4", "yuv420p")
    tick = Fraction(1, 100)
    options = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        stream.codec_context.time_base = tick
        packets = []
        for index, image in enumerate(moving_scenes(6)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = 10 * index, tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for index, packet in enumerate(packets):
            packet.duration = 10 if index < 5 else round(last * 100)
            container.mux(packet)
    source, frames = _read(path)
    assert [frame.time for frame in frames] == pytest.approx(np.arange(6) / 10)
    assert source.damage is None
    # Through a pipe the structure cannot be looked at a second time.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(path.read_bytes(),), daemon=True).start()
    source, frames = _read(pipe)
    assert len(frames) == 6
    assert source.damage is None


@pytest.mark.parametrize("start", [0.04, 0.5, 3600.0])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "ts"])
def test_a_late_first_frame_is_no_loss(tmp_path, suffix, start):
    times = np.arange(24) / 10
    path = tmp_path / f"a.{suffix}"
    if suffix == "ts":
        write_ts(path, moving_scenes(24), times, start)
    else:
        _write(path, 24, times + start, options={"bf": "0"})
    source, frames = _read(path)
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=2e-3)
    assert source.damage is None
    assert source.expected_frames == pytest.approx(24, abs=1)


def test_slide_shows_are_whole(tmp_path):
    for suffix in ("mp4", "mkv"):
        source, frames = _read(_write(tmp_path / f"a.{suffix}", 4, [0, 50, 100, 105]))
        assert [frame.time for frame in frames] == pytest.approx([0, 50, 100, 105])
        assert source.damage is None


def test_a_fragmented_recording_that_was_stopped_is_whole(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov"}
    source, frames = _read(_write(tmp_path / "a.mp4", container_options=options))
    assert len(frames) == 20
    assert source.damage is None


def test_a_live_matroska_has_no_length_to_miss(tmp_path):
    clip = _write(tmp_path / "a.mkv", container_options={"live": "1"})
    assert is_cut(clip) is None
    source, frames = _read(clip)
    assert len(frames) == 20
    assert source.damage is None


# What cameras, phones and tools lay behind the end of a file; none of it is a box or a block that was cut.
JUNK = {
    "zeros": bytes(100),
    "text": b"gps=1,2;made by a camera\n" * 9,
    "a line": b"\n",
    "a tag of a song": b"TAG" + bytes(125),
    "noise": np.random.default_rng(1).bytes(999),
    "marks of a JPEG": b"\xff\xda\0\x0c" * 9,
}


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv", "gif", "ts"])
def test_junk_behind_the_end_is_no_loss(tmp_path, suffix):
    codec, pixels = ("gif", "rgb8") if suffix == "gif" else ("libx264", "yuv420p")
    clip = _write(tmp_path / f"a.{suffix}", codec=codec, pix_fmt=pixels, options={})
    data = clip.read_bytes()
    for name, junk in JUNK.items():
        clip.write_bytes(data + junk)
        source, frames = _read(clip)
        assert (len(frames), source.damage) == (20, None), name
        assert is_cut(clip) is (None if suffix == "ts" else False), name


@pytest.mark.parametrize("name", [*JUNK, "a video", "a second picture", "a second picture that is cut"])
def test_what_phones_lay_behind_a_jpeg_is_no_loss(tmp_path, name):
    """Motion photographs, depth maps: the first picture is whole."""
    image = noisy(moving_scenes(1))[0]
    more = {
        "a video": lambda: write_clip(tmp_path / "a.mp4", noisy(moving_scenes(5))).read_bytes(),
        "a second picture": lambda: jpeg(image[::-1]),
        "a second picture that is cut": lambda: jpeg(image[::-1])[:-600],
    }
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(image))
    expected = read_picture(path)
    path.write_bytes(jpeg(image) + (JUNK.get(name) or more[name]()))
    assert is_cut(path) is False
    source, (frame,) = _read(path)
    assert (source.damage, source.is_picture) == (None, True)
    for found in (frame.image, read_picture(path)):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("mode", ["progressive", "restarts"])
@pytest.mark.parametrize("lost", [1, 2, 40, 900])
def test_jpegs_of_many_scans_and_marks_are_cut_at_any_byte(tmp_path, mode, lost):
    path = tmp_path / "a.jpg"
    options = {"progressive": True} if mode == "progressive" else {"restart_marker_blocks": 1}
    Image.fromarray(noisy(moving_scenes(1))[0]).save(path, quality=90, **options)
    assert is_cut(path) is False
    path.write_bytes(path.read_bytes()[:-lost])
    assert is_cut(path) is True


def test_a_gif_that_lacks_its_last_byte_is_said_to(tmp_path):
    clip = _write(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8", options={})
    clip.write_bytes(clip.read_bytes()[:-1])
    source, frames = _read(clip)
    assert len(frames) == 20
    assert source.damage.endswith("the file is damaged: it ends at 2.000 s; its last bytes are missing")


def test_structures_of_jpeg(tmp_path):
    image = noisy(moving_scenes(1))[0]
    whole = tmp_path / "a.jpg"
    whole.write_bytes(jpeg(image, 6))
    assert is_cut(whole) is False
    # A thumbnail inside EXIF has an end of its own.
    thumbnail = jpeg(image[:16, :16])
    data = jpeg(image)
    data = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    whole.write_bytes(data + b"trailer of a phone")
    assert is_cut(whole) is False
    whole.write_bytes(data[: len(data) * 9 // 10])
    assert is_cut(whole) is True


def test_a_frame_of_motion_jpeg_that_is_cut(tmp_path):
    frames = [jpeg(image) for image in noisy(moving_scenes(6))]
    frames[3] = frames[3][: len(frames[3]) // 2]
    source, _ = _read(write_motion_jpeg(tmp_path / "a.avi", frames, 64, 96))
    assert source.damage is None or "damaged" in source.damage


def test_joined_streams_are_whole_and_hls_lists_go_on(tmp_path):
    images, times = moving_scenes(10), np.arange(10) / 10
    for index in range(3):
        write_ts(tmp_path / f"{index}.ts", images, times, start=(7.0, 500.0, 3.0)[index])
    join(tmp_path / "joined.ts", *(tmp_path / f"{index}.ts" for index in range(3)))
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
    playlist += "#EXT-X-DISCONTINUITY\n".join(f"#EXTINF:1.0,\n{index}.ts\n" for index in range(3)) + "#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(playlist)
    for name in ("joined.ts", "a.m3u8"):
        source, frames = _read(tmp_path / name)
        np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 10, atol=2e-3)
        assert source.damage is None


def test_an_unknown_codec_is_one_clear_error(tmp_path):
    for kind, name in [("mp4", b"avc1"), ("mkv", b"V_MPEG4/ISO/AVC"), ("avi", b"H264")]:
        clip = _write(tmp_path / f"a.{kind}")
        clip.write_bytes(clip.read_bytes().replace(name, b"X" * len(name)))
        with pytest.raises(VideoError, match=r"cannot be decoded|no frame can be decoded|holds no video"):
            _read(clip)


def test_frames_that_are_too_large_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.gif", moving_scenes(2), codec="gif", pix_fmt="rgb8", options={})
    data = bytearray(clip.read_bytes())
    assert data[6:10] == b"\x60\0\x40\0"
    data[6:10] = (30_000).to_bytes(2, "little") + (20_000).to_bytes(2, "little")
    clip.write_bytes(data)
    with pytest.raises(VideoError, match="no frame can be decoded"):
        open_source(clip)
    monkeypatch.setattr("l2g.runtime.video.sources.base.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match="frames of 96x64 found, at most 6143 pixels expected"):
        open_source(write_clip(tmp_path / "a.mp4", moving_scenes(2)))
