"""Siblings of what users reported: pictures of odd modes, cuts at the border of two frames, orientations of a track."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from l2g.data.pictures import read_picture
from l2g.runtime.video.source import Selection, open_source
from tests.runtime.blobs import scene
from tests.runtime.clips import moving_scenes, write_clip

PICTURE = scene(64, 96, [(0, (0, 0, 40, 24)), (1, (60, 30, 90, 60))])
GREY = PICTURE.mean(2).astype(np.uint8)


def _only(path):
    with open_source(path) as source:
        (frame,) = source
        assert (source.damage, source.is_picture) == (None, True)
        return frame.image


def _adaptive(picture):
    return picture.convert("P", palette=Image.Palette.ADAPTIVE)


def _see_through(picture):
    return Image.fromarray(np.dstack([np.asarray(picture), np.linspace(0, 255, 64 * 96).reshape(64, 96)]).astype("u1"))


# name: (suffix, how it is made of the picture, options of saving, largest mean difference)
MODES = {
    "grey": ("png", lambda p: p.convert("L"), {}, 1),
    "grey jpeg": ("jpg", lambda p: p.convert("L"), {"quality": 95}, 3),
    "grey and alpha": ("png", lambda p: p.convert("LA"), {}, 1),
    "one bit": ("png", lambda p: p.convert("L").point(lambda v: 255 * (v > 99)).convert("1"), {}, 1),
    "palette": ("png", _adaptive, {}, 1),
    "palette, one colour transparent": ("png", _adaptive, {"transparency": 0}, 1),
    "colour and alpha": ("png", _see_through, {}, 1),
    "colour and alpha, webp": ("webp", _see_through, {"lossless": True, "exact": True}, 1),
    "colour and alpha, tiff": ("tiff", _see_through, {}, 1),
    "interlaced palette": ("gif", _adaptive, {"interlace": 1}, 1),
    "progressive": ("jpg", lambda p: p, {"progressive": True, "quality": 95}, 4),
    "without subsampling": ("jpg", lambda p: p, {"subsampling": 0, "quality": 98}, 3),
    "CMYK": ("jpg", lambda p: p.convert("CMYK"), {"quality": 95}, 4),
    "LZW": ("tiff", lambda p: p, {"compression": "tiff_lzw"}, 1),
    "deflate": ("tiff", lambda p: p, {"compression": "tiff_adobe_deflate"}, 1),
    "packbits grey": ("tiff", lambda p: p.convert("L"), {"compression": "packbits"}, 1),
    "lossless webp": ("webp", lambda p: p, {"lossless": True}, 1),
    "top down bmp": ("bmp", lambda p: p.convert("P"), {}, 1),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_of_pictures(tmp_path, name):
    """Against Pillow, which reads them by itself; what is transparent has the colour that the file gives it."""
    suffix, make, options, tolerance = MODES[name]
    made = make(Image.fromarray(PICTURE))
    path = tmp_path / f"a.{suffix}"
    made.save(path, **options)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGBA").convert("RGB") if "P" in opened.mode else opened.convert("RGB"))
    for found in (_only(path), read_picture(path)):
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() <= tolerance


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_a_tiff_are_not_multiplied_by_its_alpha(tmp_path, bits):
    """Of pages too. libtiff does so with 8 bits where alpha lies beside the colours (ExtraSamples 2)."""
    alpha = np.linspace(0, 255, 64 * 96).reshape(64, 96).astype(np.uint8)
    path = tmp_path / "a.tiff"
    if bits == 8:
        pages = [Image.fromarray(np.dstack([picture, alpha])) for picture in (PICTURE, PICTURE[::-1])]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        cv2.imwritemulti(
            str(path), [np.dstack([p[..., ::-1], alpha]) * np.uint16(257) for p in (PICTURE, PICTURE[::-1])]
        )
    with open_source(path) as source:
        one, other = (frame.image for frame in source)
    assert np.array_equal(one, PICTURE)
    assert np.array_equal(other, PICTURE[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
def test_orientations_of_every_kind(tmp_path, suffix, orientation):
    """Of EXIF, of a TIFF's own tag, of an AVIF's own boxes; Pillow is the truth."""
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(PICTURE).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    found = _only(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6


def test_grey_of_sixteen_bits_beside_colour_of_eight(tmp_path):
    """A folder of both, as a tool writes depth beside pictures."""
    Image.fromarray(PICTURE).save(tmp_path / "0.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "1.png")
    with open_source(tmp_path) as source:
        colour, grey = source
    assert np.array_equal(colour.image, PICTURE)
    assert np.abs(grey.image.astype(int) - GREY[..., None]).max() <= 1


# Ends just before, at and behind the moment of frame 12 of 10 a second, and how many frames that gives.
BORDERS = [(1.2 - 1e-4, 12), (1.2, 12), (1.2 + 0.05, 13), (1.3, 13), (0.1, 1), (2.9, 29), (3.0, 30), (9.0, 30)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "ts", "webm"])
def test_ends_at_the_borders_of_frames(tmp_path, suffix):
    codec = "libvpx" if suffix == "webm" else "libx264"
    tick = {"tick": Fraction(1, 10)} if suffix == "avi" else {}
    clip = write_clip(tmp_path / f"a.{suffix}", moving_scenes(30), codec=codec, options={"g": "5"}, **tick)
    for end, count in BORDERS:
        with open_source(clip, Selection(end=end)) as source:
            found = [frame.index for frame in source]
            assert (found, source.damage) == (list(range(count)), None), end
    with open_source(clip, Selection(start=1.2, end=1.3)) as source:
        assert [frame.index for frame in source] == [12]


# Containers beside those that every other test has: (suffix, format, codec).
CONTAINERS = [
    ("wmv", "asf", "wmv2"), ("asf", "asf", "msmpeg4"), ("m2ts", "mpegts", "libx264"), ("ts", "mpegts", "libx265"),
    ("nut", "nut", "libx264"), ("ivf", "ivf", "libvpx"), ("y4m", "yuv4mpegpipe", "wrapped_avframe"),
    ("flv", "flv", "flv"), ("f4v", "f4v", "libx264"), ("swf", "swf", "flv"), ("rm", "rm", "rv20"),
    ("mov", "mov", "prores_ks"), ("mov", "mov", "png"), ("mkv", "matroska", "ffv1"), ("webm", "webm", "libvpx-vp9"),
    ("mp4", "mp4", "libsvtav1"), ("avi", "avi", "rawvideo"), ("avi", "avi", "huffyuv"), ("avi", "avi", "mjpeg"),
]  # fmt: skip
PIXELS = {"png": "rgb24", "huffyuv": "yuv422p", "mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}


@pytest.mark.parametrize(("suffix", "kind", "codec"), CONTAINERS)
def test_containers_of_every_kind(tmp_path, suffix, kind, codec):
    """All frames, their times, no false damage, and a part."""
    path, images = tmp_path / f"a.{suffix}", moving_scenes(12)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, PIXELS.get(codec, "yuv420p")
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_source(path) as source:
        frames = list(source)
    assert source.damage is None
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=2e-3)
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 16
    with open_source(path, Selection(start=0.25, end=0.75)) as source:
        assert [frame.index for frame in source] == [3, 4, 5, 6, 7]


VARIED = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 1.5, 1.6, 1.64, 1.7]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm", "ts", "flv", "nut"])
def test_frames_at_uneven_times(tmp_path, suffix):
    """Phones and screen recorders: the times are the file's own."""
    codec = {"webm": "libvpx"}.get(suffix, "libx264")
    clip = write_clip(tmp_path / f"a.{suffix}", moving_scenes(10), VARIED, codec=codec, options={"g": "5"})
    with open_source(clip) as source:
        np.testing.assert_allclose([frame.time for frame in source], VARIED, atol=2e-3)
        assert source.damage is None
    with open_source(clip, Selection(start=0.3, end=1.6)) as source:
        assert [frame.index for frame in source] == [3, 4, 5, 6]


def _matrix(clip, values):
    """Put a display matrix (a, b, c, d) of ones and zeros into the track's header."""
    data = bytearray(clip.read_bytes())
    place = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in values)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    return clip


MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "a quarter": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "half": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "three quarters": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "left for right": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    "transposed about the other diagonal": ((0, -1, -1, 0), lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices(tmp_path, name):
    values, upright = MATRICES[name]
    clip = _matrix(write_clip(tmp_path / "a.mp4", [PICTURE] * 3), values)
    with open_source(clip) as source:
        frames = [frame.image for frame in source]
        assert (source.height, source.width) == frames[0].shape[:2]
    expected = upright(PICTURE)
    assert frames[0].shape == expected.shape
    assert np.abs(frames[0].astype(int) - expected).mean() < 6
