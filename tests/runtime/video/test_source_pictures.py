"""Pictures: EXIF, companions, shapes, bit depths, pages, animations, and what is no picture at all."""

import os
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from l2g.data.pictures import read_picture
from l2g.errors import VideoError
from l2g.runtime.video.source import Selection, group_inputs, open_source
from l2g.runtime.video.sources.fit import fit
from l2g.runtime.video.sources.picture_size import claimed_size
from tests.runtime.blobs import scene
from tests.runtime.clips import cut, moving_scenes, rotate_mp4, write_clip
from tests.runtime.made import EXIF_UPRIGHT, jpeg, write_motion_jpeg

PICTURE = scene(64, 96, [(0, (0, 0, 40, 24)), (1, (60, 30, 90, 60))])


def _read(path, rate=10.0, **selection):
    with open_source(path, Selection(**selection), picture_rate=rate) as source:
        return source, list(source)


def _close(image, expected, tolerance=6):
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize("orientation", EXIF_UPRIGHT)
def test_exif_of_a_photograph(tmp_path, orientation):
    (tmp_path / "a.jpg").write_bytes(jpeg(PICTURE, orientation))
    source, (frame,) = _read(tmp_path / "a.jpg")
    _close(frame.image, EXIF_UPRIGHT[orientation](PICTURE))
    assert (source.height, source.width) == frame.image.shape[:2]
    assert (source.is_picture, source.damage, source.notices) == (True, None, [])


@pytest.mark.parametrize("orientation", EXIF_UPRIGHT)
def test_exif_of_motion_jpeg(tmp_path, orientation):
    """FFmpeg lays EXIF beside the frame, as side data of a kind that PyAV does not name."""
    clip = write_motion_jpeg(tmp_path / "a.avi", [jpeg(PICTURE, orientation)] * 3, 64, 96)
    source, frames = _read(clip)
    assert len(frames) == 3
    for frame in frames:
        _close(frame.image, EXIF_UPRIGHT[orientation](PICTURE), 8)
    assert source.damage is None


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp", "avif", "jpeg", "JPG", "jpe", "jp2"])
def test_every_kind_of_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), PICTURE[..., ::-1])
    source, (frame,) = _read(path)
    _close(frame.image, PICTURE)
    assert source.is_picture
    source, (frame,) = _read(tmp_path)
    _close(frame.image, PICTURE)


def test_hidden_companions_are_no_pictures(tmp_path):
    for index in range(3):
        (tmp_path / f"img{index}.jpg").write_bytes(jpeg(PICTURE))
        (tmp_path / f"._img{index}.jpg").write_bytes(b"\0\5\x16\7 Mac OS X")
    (tmp_path / ".trash.png").write_bytes(b"x")
    source, frames = _read(tmp_path)
    assert [(frame.index, frame.time) for frame in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert source.damage is None
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "._a.jpg").write_bytes(b"x")
    with pytest.raises(VideoError, match="no pictures"):
        open_source(tmp_path / "only")


COMPANIONS = (
    "._img1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".img1.jpg.Xy12ab", ".trash-1.png", "img1.xmp", "img1.THM",
    "img1.jpg.part", "index.html", ".hidden.JPEG", "img1.jpg.json", "@eaDir", ".picasa.ini", ".nomedia",
    "ZbThumbnail.info",
)  # fmt: skip


@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_of_every_system_are_no_pictures(tmp_path, name):
    """Of macOS, Windows, NAS boxes, copying tools, photo software."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"img{index}.png"), PICTURE[..., ::-1])
    if name.startswith("@"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"\0\5\x16\7 whatever")
    source, frames = _read(tmp_path)
    assert [(frame.index, frame.time) for frame in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert (source.damage, source.notices) == (None, [])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif", "jp2"])
def test_a_picture_cut_short_is_damage(tmp_path, suffix, share):
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8), (5, 5), 0)
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.{suffix}"), noise)
    cut(tmp_path / f"2.{suffix}", share)
    source, frames = _read(tmp_path)
    assert [frame.index for frame in frames] == [0, 1, 3]
    assert f"1 pictures could not be read, the first is 2.{suffix}" in source.damage


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_single_jpeg_cut_short_gives_what_is_there_and_is_damage(tmp_path, share):
    (tmp_path / "a.jpg").write_bytes(jpeg(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)))
    source, frames = _read(cut(tmp_path / "a.jpg", share))
    assert len(frames) == 1
    assert source.is_picture
    assert "damaged" in source.damage


def test_other_shapes_are_letterboxed_and_said(tmp_path):
    upright = scene(96, 64, [(2, (0, 0, 64, 96))])
    for index, image in enumerate([PICTURE, upright, PICTURE, cv2.resize(PICTURE, (192, 128)), upright]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[..., ::-1])
    source, frames = _read(tmp_path)
    for index in (0, 2):
        np.testing.assert_array_equal(frames[index].image, PICTURE)
    _close(frames[3].image, PICTURE)
    for index in (1, 4):
        # 96x64 into 64x96: two thirds of the size, 64 rows of 43 columns, then padding.
        assert (frames[index].image[:, :42] == (40, 60, 230)).all()
        assert (frames[index].image[:, 43:] == (124, 116, 104)).all()
    (notice,) = source.notices
    assert "letterboxed into 96x64: 2, the first is 1.png" in notice
    assert source.damage is None


@pytest.mark.parametrize(
    ("height", "width"),
    [(96, 64), (64, 64), (32, 96), (200, 10), (10, 200), (1, 1), (1, 300), (300, 1), (640, 640), (63, 300), (128, 97)],
)
def test_any_shape_lies_whole_in_the_first_ones_frame(height, width):
    """Scaled alike in both directions, at the top left, the rest padding."""
    colour = (40, 60, 230)
    image = np.full((height, width, 3), colour, np.uint8)
    fitted, other = fit(image, 64, 96)
    scale = min(64 / height, 96 / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    assert other
    assert fitted.shape == (64, 96, 3)
    assert (fitted[:rows, :columns] == colour).all()
    assert (fitted[rows:] == (124, 116, 104)).all()
    assert (fitted[:, columns:] == (124, 116, 104)).all()


def test_a_pixel_of_rounding_is_no_other_shape():
    image = np.full((50, 75, 3), 200, np.uint8)
    fitted, other = fit(image, 67, 100)
    assert not other
    assert (fitted == 200).all()


def test_video_that_turns_on_the_way_keeps_its_shapes(tmp_path):
    """Recordings of calls: raw H.264 of two sizes, one after the other."""
    first = write_clip(tmp_path / "a.h264", [PICTURE] * 3)
    second = write_clip(tmp_path / "b.h264", [scene(96, 64, [(2, (0, 0, 64, 96))])] * 3)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    source, frames = _read(first)
    assert len(frames) == 6
    _close(frames[5].image[:, :40], np.full((64, 40, 3), (40, 60, 230)))
    _close(frames[5].image[:, 46:], np.full((64, 50, 3), (124, 116, 104)))
    assert len(source.notices) == 1


@pytest.mark.parametrize(
    ("bits", "suffix"), [(10, "png"), (12, "png"), (12, "tiff"), (12, "jp2"), (16, "png"), (16, "tiff")]
)
def test_deep_pictures_keep_their_brightness(tmp_path, bits, suffix):
    top = (1 << bits) - 1
    grey = np.linspace(0, top, 96).round().astype(np.uint16)[None].repeat(64, axis=0)
    for index, image in enumerate([grey, np.dstack([grey, grey // 2, grey * 0])]):
        cv2.imwrite(str(tmp_path / f"{index}.{suffix}"), image)
    source, (first, second) = _read(tmp_path)
    for path, frame in zip(source.files, (first, second), strict=True):  # and in a data set
        np.testing.assert_array_equal(read_picture(path), frame.image)
    expected = np.rint(grey.astype(float) * 255 / top)
    assert np.abs(first.image - expected[..., None]).max() <= 1
    assert np.abs(second.image[..., 2] - expected).max() <= 1  # stored as BGR
    assert second.image[..., 0].max() == 0
    assert len(source.notices) == (bits < 16)


def test_a_sequence_takes_the_depth_of_its_brightest_picture(tmp_path):
    """A dark 16-bit picture looks like 12 bits; from the first bright one on the sequence is read as 16."""
    for index, value in enumerate([3000, 60000, 3000]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 96), value, np.uint16))
    _, frames = _read(tmp_path)
    assert [frame.image[0, 0, 0] for frame in frames] == [187, 233, 12]


def test_deep_video_keeps_its_brightness(tmp_path):
    ramp = np.linspace(0, 255, 96).round().astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    _, frames = _read(write_clip(tmp_path / "a.mkv", [ramp] * 2, codec="ffv1", pix_fmt="gray16le", options={}))
    assert np.abs(frames[0].image.astype(int) - ramp).max() <= 1


def test_floating_point_pictures_are_refused(tmp_path):
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.tiff"), np.full((64, 96, 3), 0.5, np.float32))
    with pytest.raises(VideoError, match="none of its 2 pictures can be read"):
        open_source(tmp_path)


@pytest.mark.parametrize("count", [2, 5])
def test_pages_of_a_tiff_are_frames(tmp_path, count):
    images = moving_scenes(count)
    cv2.imwritemulti(str(tmp_path / "a.tiff"), [image[..., ::-1] for image in images])
    source, frames = _read(tmp_path / "a.tiff", rate=5)
    assert [frame.time for frame in frames] == pytest.approx(np.arange(count) / 5)
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, image)
    assert not source.is_picture
    assert "a.tiff holds several pictures" in source.notices[0]
    cv2.imwrite(str(tmp_path / "b.png"), images[0][..., ::-1])
    source, frames = _read(tmp_path)
    assert [frame.index for frame in frames] == list(range(count + 1))


DURATIONS = [100, 100, 250, 50, 1000]


@pytest.mark.parametrize("suffix", ["webp", "gif", "avif", "png"])
def test_animations_keep_their_times(tmp_path, suffix):
    images = moving_scenes(5)
    animation = cv2.Animation()
    animation.frames, animation.durations = [image[..., ::-1].copy() for image in images], np.array(DURATIONS)
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwriteanimation(str(path), animation)
    source, frames = _read(path)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.45, 0.5], abs=0.011)
    for frame, image in zip(frames, images, strict=True):
        _close(frame.image, image, 30 if suffix == "gif" else 15)  # a palette, dithered
    assert (source.damage, source.is_picture) == (None, False)
    assert source.expected_frames in (5, None)
    source, frames = _read(path, start=0.15, end=0.47)
    assert [frame.index for frame in frames] == [2, 3]


def test_a_long_animated_webp_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("l2g.runtime.video.sources.pictures._ANIMATION_BYTES", 4 * 64 * 96 * 3)
    animation = cv2.Animation()
    images = moving_scenes(8)
    animation.frames, animation.durations = [image[..., ::-1].copy() for image in images], np.full(8, 40)
    cv2.imwriteanimation(str(tmp_path / "a.webp"), animation)
    source, frames = _read(tmp_path / "a.webp")
    assert [frame.index for frame in frames] == list(range(8))
    for frame, image in zip(frames, images, strict=True):
        _close(frame.image, image, 15)
    assert source.frame_rate == pytest.approx(25)


def test_a_gif_of_one_picture_is_a_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.gif"), PICTURE[..., ::-1])
    source, frames = _read(tmp_path / "a.gif")
    assert len(frames) == 1
    assert source.is_picture


def test_a_video_with_the_name_of_a_picture_is_a_video(tmp_path):
    write_clip(tmp_path / "a.mp4", moving_scenes(4)).rename(tmp_path / "a.jpg")
    source, frames = _read(tmp_path / "a.jpg")
    assert len(frames) == 4
    assert not source.is_picture


def test_picture_files_named_one_by_one_are_one_video(tmp_path):
    images = moving_scenes(11)
    names = []
    for index, image in enumerate(images):
        names.append(str(tmp_path / f"frame{index}.png"))
        cv2.imwrite(names[-1], image[..., ::-1])
    film = str(write_clip(tmp_path / "film.mp4", images))
    (group,) = group_inputs(sorted(names))  # as a shell sorts them
    source, frames = _read(group)
    assert len(frames) == 11
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, image)
    assert len(source.files) == 11
    assert group_inputs([film, *names, film]) == [film, tuple(names), film]
    assert group_inputs([film, names[0]]) == [film, names[0]]
    with pytest.raises(VideoError, match="no such file"):
        open_source([names[0], str(tmp_path / "missing.png")])


def test_what_lies_in_folders_does_not_stop_a_run(tmp_path):
    """A pipe would be waited for, a name that is not Unicode ends OpenCV's own reader."""
    for index in (0, 5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), PICTURE[..., ::-1])
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    (tmp_path / "3.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "4.png").symlink_to("/dev/zero")
    odd = os.path.join(os.fsencode(tmp_path), b"6\xff\xfe.png")
    with open(odd, "wb") as file:
        file.write(cv2.imencode(".png", PICTURE[..., ::-1])[1].tobytes())
    source, frames = _read(tmp_path)
    assert [frame.index for frame in frames] == [0, 5, 6]
    np.testing.assert_array_equal(frames[2].image, PICTURE)
    assert "4 pictures could not be read, the first is 1.png" in source.damage
    (tmp_path / "empty").mkdir()
    odd = os.path.join(os.fsencode(tmp_path), b"empty", b"\xff.png")
    open(odd, "wb").close()
    with pytest.raises(VideoError, match="none of its 1") as caught:
        open_source(tmp_path / "empty")
    str(caught.value).encode()  # can be printed
    with pytest.raises(VideoError, match="empty") as caught:
        open_source(os.fsdecode(odd))
    str(caught.value).encode()


def _huge_tiff(data):
    """A classic TIFF of this machine's byte order; OpenCV writes its directory at the end."""
    for tag, value in ((256, 30_000), (257, 20_000)):
        at = data.index(struct.pack("<HH", tag, 3), 8)
        data = data[:at] + struct.pack("<HHII", tag, 4, 1, value) + data[at + 12 :]
    return data


HUGE = {
    "bmp": lambda data: data[:18] + struct.pack("<ii", 30_000, -20_000) + data[26:],
    "png": lambda data: data[:16] + struct.pack(">II", 30_000, 20_000) + data[24:],
    "jpg": lambda data: data.replace(struct.pack(">HH", 64, 96), struct.pack(">HH", 20_000, 30_000)),
    "tiff": _huge_tiff,
    "webp": lambda data: data[:26] + struct.pack("<HH", 15_000, 10_000) + data[30:],
    "avif": lambda data: data.replace(struct.pack(">II", 96, 64), struct.pack(">II", 30_000, 20_000)),
    "jp2": lambda data: data.replace(struct.pack(">II", 96, 64), struct.pack(">II", 30_000, 20_000)),
}
QUALITY = {"webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}


@pytest.mark.parametrize("suffix", HUGE)
def test_a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path, suffix, monkeypatch):
    data = cv2.imencode(f".{suffix}", PICTURE, QUALITY.get(suffix, []))[1].tobytes()
    assert claimed_size(data) == (64, 96)
    assert claimed_size(HUGE[suffix](data)) == ((10_000, 15_000) if suffix == "webp" else (20_000, 30_000))
    (tmp_path / f"a.{suffix}").write_bytes(HUGE[suffix](data))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(VideoError, match="none of its 1 pictures can be read"):
        open_source(tmp_path)


def test_what_other_kinds_of_webp_and_the_pages_of_a_tiff_claim(tmp_path):
    """Without loss; extended, with a canvas; and each page of its own."""
    for quality in (101, 90):
        data = cv2.imencode(".webp", PICTURE, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        assert data[12:16] == (b"VP8L" if quality > 100 else b"VP8 ")
        assert claimed_size(data) == (64, 96)
    canvas = struct.pack("<I", 2) + (95).to_bytes(3, "little") + (63).to_bytes(3, "little")
    assert claimed_size(b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + canvas) == (64, 96)
    cv2.imwritemulti(str(tmp_path / "a.tiff"), [PICTURE, PICTURE[:40, :30], PICTURE[:, :50]])
    data = (tmp_path / "a.tiff").read_bytes()
    assert [claimed_size(data, page) for page in range(4)] == [(64, 96), (40, 30), (64, 50), (0, 0)]
    # What is cut anywhere, or claims directories without end, is looked through in no time.
    for end in range(0, len(data), 97):
        claimed_size(data[:end])
    assert claimed_size(b"MM\0+\0\x08\0\0" + (16).to_bytes(8, "big") + b"\xff" * 40) == (0, 0)


@pytest.mark.parametrize("orientation", [None, 6])
def test_the_claim_of_a_jpeg_is_behind_its_other_segments(orientation):
    assert claimed_size(jpeg(PICTURE, orientation)) == (64, 96)
    assert claimed_size(b"") == claimed_size(b"\xff\xd8") == claimed_size(b"GIF89a" + bytes(20)) == (0, 0)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf"), 1e-300, 1e300, 0.0, -1.0])
def test_rates_that_are_none(tmp_path, rate):
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    with pytest.raises(VideoError, match="frame rate"):
        open_source(tmp_path, picture_rate=rate)


@pytest.mark.parametrize("rate", [1e-6, 0.01, 29.97, 1e4])
def test_unusual_rates(tmp_path, rate):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), PICTURE)
    _, frames = _read(tmp_path, rate=rate)
    assert [frame.time for frame in frames] == pytest.approx([0, 1 / rate, 2 / rate], rel=1e-6)


def test_strides_of_one_phase_share_their_frames(tmp_path):
    """Also where a picture before the part cannot be read and is not counted."""
    for index in range(20):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), PICTURE)
    (tmp_path / "03.png").write_bytes(b"no picture")
    whole, part, own = (
        [frame.index for frame in _read(tmp_path, stride=3, **selection)[1]]
        for selection in ({}, {"start": 1.1, "phase": 0.0}, {"start": 1.1})
    )
    assert (whole, part, own) == ([0, 4, 7, 10, 13, 16, 19], [13, 16, 19], [11, 14, 17])


@pytest.mark.parametrize("limits", [{"start": float("nan")}, {"start": float("inf")}, {"end": float("nan")}])
def test_limits_that_are_no_numbers(limits):
    with pytest.raises(VideoError, match="expected"):
        Selection(**limits)


# Of DVD, HDV, DV and anamorphic film, in what they lie in; and turned.
PIXEL_SHAPES = [
    (2, False, "mp4"), (Fraction(16, 15), False, "mp4"), (Fraction(1, 2), True, "mp4"),
    (Fraction(64, 45), False, "mkv"), (Fraction(8, 9), False, "mkv"), (Fraction(4, 3), False, "mov"),
    (Fraction(40, 33), True, "mov"), (Fraction(12, 11), False, "ts"), (Fraction(16, 11), False, "avi"),
    (Fraction(10, 11), False, "flv"), (Fraction(4, 3), False, "nut"), (Fraction(64, 45), True, "mp4"),
]  # fmt: skip


@pytest.mark.parametrize(("aspect", "turned", "suffix"), PIXEL_SHAPES)
def test_the_shape_of_pixels(tmp_path, aspect, turned, suffix):
    tick = {"tick": Fraction(1, 10)} if suffix == "avi" else {}
    codec, options = ("mpeg4", {}) if suffix == "avi" else ("libx264", None)
    clip = tmp_path / f"a.{suffix}"
    write_clip(clip, moving_scenes(3), codec=codec, options=options, pixel_aspect=aspect, **tick)
    if turned:
        rotate_mp4(clip, (0, 1, -1, 0))
    source, frames = _read(clip)
    # Some containers say how wide the picture is shown, in whole pixels.
    assert source.pixel_aspect == pytest.approx(float(1 / aspect if turned else aspect), rel=0.006)
    assert frames[0].image.shape == ((96, 64, 3) if turned else (64, 96, 3))
    assert source.is_portrait == (source.height > source.width * source.pixel_aspect)


def test_video_of_a_camera_with_square_pixels(tmp_path):
    with av.open(str(write_clip(tmp_path / "a.mp4", moving_scenes(2)))) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    assert _read(tmp_path / "a.mp4")[0].pixel_aspect == 1
