"""Frames out of every kind of file: upright, in order, at their times; damage said, nothing invented."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.video.source import Selection, open_source
from tests.runtime.blobs import scene
from tests.runtime.clips import TICK, cut, moving_scenes, noisy, rotate_mp4, write_clip

# (a, b, c, d) of the display matrix -> how numpy brings the stored picture upright.
ORIENTATIONS = {
    "quarter turn clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "quarter turn counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}


def _read(path, **selection):
    with open_source(path, Selection(**selection)) as source:
        frames = list(source)
        assert all(frame.image.shape == (source.height, source.width, 3) for frame in frames)
        assert all(frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous for frame in frames)
        return source, frames


def _close(image, expected, tolerance=12):
    """Equal but for compression."""
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_frames_come_in_order_with_indices_and_times(tmp_path, suffix):
    images = moving_scenes(12)
    # MPEG-TS starts late, AVI has no timestamps but a frame rate.
    clip = write_clip(tmp_path / f"a.{suffix}", images, tick=Fraction(1, 10) if suffix == "avi" else TICK)
    source, frames = _read(clip)
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=2e-3)
    assert source.frame_rate == pytest.approx(10, rel=0.1)
    assert source.damage is None
    for frame, image in zip(frames, images, strict=True):
        _close(frame.image, image)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_rotation_metadata_is_honoured(tmp_path, name):
    matrix, upright = ORIENTATIONS[name]
    images = moving_scenes(3)
    plain = write_clip(tmp_path / "plain.mp4", images)
    _, stored = _read(plain)
    _source, frames = _read(rotate_mp4(plain, matrix))
    for frame, original, image in zip(frames, stored, images, strict=True):
        np.testing.assert_array_equal(frame.image, upright(original.image))
        _close(frame.image, upright(image))


def test_variable_frame_rate_keeps_true_times(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 0.54, 1.5, 1.52, 3.0]
    _, frames = _read(write_clip(tmp_path / "vfr.mp4", moving_scenes(8), times))
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(63, 95), (65, 97), (64, 95), (33, 32)])
def test_odd_sizes(tmp_path, height, width):
    images = [scene(height, width, [(0, (4, 4, 20, 20))])] * 2
    # FFV1 keeps odd sizes as they are; lossless RGB.
    _, frames = _read(write_clip(tmp_path / "odd.mkv", images, codec="ffv1", pix_fmt="bgr0", options={}))
    np.testing.assert_array_equal(frames[1].image, images[0])


def test_single_frame_video_and_single_picture(tmp_path):
    image = scene(64, 96, [(1, (10, 10, 50, 40))])
    _, frames = _read(write_clip(tmp_path / "one.mp4", [image]))
    assert [(frame.index, frame.time) for frame in frames] == [(0, 0.0)]
    cv2.imwrite(str(tmp_path / "one.png"), image[..., ::-1])
    _, frames = _read(tmp_path / "one.png")
    assert [(frame.index, frame.time) for frame in frames] == [(0, 0.0)]
    np.testing.assert_array_equal(frames[0].image, image)


@pytest.mark.parametrize(("code", "matrix"), [(1, "ITU709"), (5, "ITU601")])
def test_the_color_matrix_that_a_file_names_is_used(tmp_path, code, matrix):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48], image[:, 48:] = (30, 220, 40), (220, 40, 30)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        options = {"crf": "5", "x264-params": f"colormatrix={'bt709' if code == 1 else 'bt470bg'}"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", dst_colorspace=matrix)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, frames = _read(tmp_path / "a.mp4")
    assert np.abs(frames[0].image.astype(int) - image)[:, [10, 30, 60, 80]].max() <= 6


def test_stride_start_and_end(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(20))
    for selection, expected in [
        ({"stride": 3}, list(range(0, 20, 3))),
        ({"start": 0.45}, list(range(5, 20))),
        ({"end": 0.5}, list(range(5))),
        ({"start": 0.5, "end": 1.2, "stride": 2}, [5, 7, 9, 11]),
    ]:
        source, frames = _read(clip, **selection)
        assert [frame.index for frame in frames] == expected
        assert abs(source.expected_frames - len(expected)) <= 1
        assert source.damage is None
        np.testing.assert_allclose([frame.time for frame in frames], np.array(expected) / 10, atol=1e-4)


def test_folder_of_pictures_in_natural_order(tmp_path):
    images = moving_scenes(11)
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), image[..., ::-1])
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(tmp_path, Selection(stride=2), picture_rate=5) as source:
        frames = list(source)
        assert source.expected_frames == 6
    assert [frame.index for frame in frames] == [0, 2, 4, 6, 8, 10]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2.0])
    for frame in frames:
        np.testing.assert_array_equal(frame.image, images[frame.index])


def test_broken_picture_in_a_folder_is_skipped_and_said(tmp_path):
    for index, image in enumerate(moving_scenes(4)):
        cv2.imwrite(str(tmp_path / f"{index:05}.png"), image)
    (tmp_path / "00002.png").write_bytes(b"\x89PNG nothing")
    source, frames = _read(tmp_path)
    assert [frame.index for frame in frames] == [0, 1, 3]
    assert "1 pictures could not be read, the first is 00002.png" in source.damage
    # At 0.2 s: what is not asked for is no damage, whether it is counted for the stride or read to find the end.
    for selection in (Selection(0.3, stride=2, phase=0.0), Selection(end=0.2)):
        with open_source(tmp_path, selection, picture_rate=10) as source:
            assert list(source)
            assert source.damage is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_file_gives_its_first_part_and_says_so(tmp_path, suffix):
    images = noisy(moving_scenes(30))
    faststart = {"movflags": "faststart"} if suffix == "mp4" else {}
    tick = Fraction(1, 10) if suffix == "avi" else TICK
    clip = write_clip(tmp_path / f"a.{suffix}", images, container_options=faststart, tick=tick)
    source, frames = _read(cut(clip, 0.6))
    assert 12 <= len(frames) <= 24
    assert "damaged" in source.damage
    for frame in frames[:12]:
        _close(frame.image, images[frame.index], 20)


def test_damage_in_the_middle_is_passed_over_and_said(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", noisy(moving_scenes(30)), container_options={"movflags": "faststart"})
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).integers(0, 255, 3000, dtype=np.uint8).tobytes()
    clip.write_bytes(data)
    source, frames = _read(clip)
    assert len(frames) >= 25
    assert frames[-1].time == pytest.approx(2.9, abs=0.01)
    assert "packets could not be decoded" in source.damage or "decoded with errors" in source.damage


def test_stopping_early_is_no_damage(tmp_path):
    with open_source(write_clip(tmp_path / "a.mp4", moving_scenes(10))) as source:
        iterator = iter(source)
        next(iterator)
        iterator.close()
        assert source.damage is None


def test_longer_sound_track_is_no_damage(tmp_path):
    """Matroska states one duration for the file; a sound track may outlast the pictures."""
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        for image in moving_scenes(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        for start in range(0, 16000 * 3, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    source, frames = _read(path)
    assert len(frames) == 10
    assert source.damage is None


def _sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BAD = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (
        lambda path: path.write_text("this is not a video\n" * 50),
        r"cannot be opened as a video \(.*\); give a complete video that FFmpeg opens, such as MP4, MKV or AVI",
    ),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "cannot be opened as a video"),
    "index lost": (lambda path: cut(write_clip(path, noisy(moving_scenes(10))), 0.7), "cannot be opened as a video"),
    "empty folder": (lambda path: path.mkdir(), "no pictures"),
    "folder of junk": (lambda path: (path.mkdir(), (path / "a.jpg").write_text("x")), "none of its 1 pictures"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_get_one_clear_error(tmp_path, name):
    make, message = BAD[name]
    path = tmp_path / "input.mp4"
    make(path)
    with pytest.raises(VideoError, match=message) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def test_sound_without_pictures(tmp_path):
    _sound_only(tmp_path / "a.wav")
    with pytest.raises(VideoError, match=r"holds no video stream; give a video, such as MP4, MKV or AVI$"):
        open_source(tmp_path / "a.wav")


def test_selection_past_the_end(tmp_path):
    with pytest.raises(VideoError, match=r"no frame from 9 s on found; its last one is at 0.\d+ s; give an"):
        _read(write_clip(tmp_path / "a.mp4", moving_scenes(3)), start=9.0)


@pytest.mark.parametrize("arguments", [{"stride": 0}, {"start": -1.0}, {"start": 2.0, "end": 2.0}, {"phase": 1.0}])
def test_selection_out_of_range(arguments):
    with pytest.raises(VideoError, match="expected"):
        Selection(**arguments)


def test_a_stream_that_changes_size_is_scaled_to_its_first_frame(tmp_path):
    """Recordings of calls and cameras change resolution on the way; raw H.264 can simply be joined."""
    small = write_clip(tmp_path / "a.h264", [scene(64, 96, [(0, (0, 0, 48, 64))])] * 3)
    large = write_clip(tmp_path / "b.h264", [scene(128, 192, [(0, (0, 0, 96, 128))])] * 3)
    small.write_bytes(small.read_bytes() + large.read_bytes())
    _, frames = _read(small)
    assert len(frames) == 6
    for frame in frames:
        _close(frame.image, scene(64, 96, [(0, (0, 0, 48, 64))]))
