"""Colours by the matrix and range that a file names, against the standards' own numbers (H.273, BT.601/709/2020)."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from l2g.errors import VideoError
from l2g.runtime.video.source import open_source
from tests.runtime.clips import write_clip

# Luma weights of red and blue.
WEIGHTS = {
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
COLORS = np.array(
    [
        (220, 40, 30),
        (30, 210, 50),
        (40, 60, 230),
        (235, 225, 20),
        (16, 16, 16),
        (240, 240, 240),
        (128, 128, 128),
        (200, 30, 190),
    ]
)
PATCH = 16


def _ycbcr(rgb, matrix, full, bits):
    """Y'CbCr of R'G'B' in 0..255, by the definition, as whole numbers of `bits`."""
    red, blue = WEIGHTS[matrix]
    r, g, b = (rgb[..., channel] / 255 for channel in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    unit = 1 << (bits - 8)
    if full:
        top = (1 << bits) - 1
        planes = y * top, cb * top + 128 * unit, cr * top + 128 * unit
    else:
        planes = (219 * y + 16) * unit, (224 * cb + 128) * unit, (224 * cr + 128) * unit
    return np.rint(np.clip(np.stack(planes), 0, (1 << bits) - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def _write(path, matrix, full, bits, transfer=None):
    """Two frames of patches, coded without loss; the colours are named in the H.264 stream."""
    picture = np.repeat(np.repeat(COLORS[None], PATCH, axis=0), PATCH, axis=1)
    planes = _ycbcr(picture, matrix, full, bits)
    pixel_format = "yuv444p" if bits == 8 else "yuv444p10le"
    named = f"colormatrix={matrix}:fullrange={'on' if full else 'off'}" + (f":transfer={transfer}" if transfer else "")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "x264-params": named})
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixel_format
        stream.codec_context.time_base = Fraction(1, 10)
        for index in range(2):
            frame = av.VideoFrame(picture.shape[1], picture.shape[0], pixel_format)
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                rows[:, : values.shape[1]] = values
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 10)
            # The encoder converts nothing where the frame says what the stream says.
            frame.color_range = 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _patches(image):
    return image[PATCH // 2, PATCH // 2 :: PATCH].astype(int)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_matrix_and_range(tmp_path, matrix, bits, full):
    with open_source(_write(tmp_path / "a.mkv", matrix, full, bits)) as source:
        frames = list(source)
    assert len(frames) == 2
    for frame in frames:
        assert np.abs(_patches(frame.image) - COLORS).max() <= 2
    assert source.notices == []


def test_the_test_tells_matrices_and_ranges_apart():
    """Read by another rule the same patches are off by three times the tolerance and more."""
    right = _ycbcr(COLORS, "bt709", False, 8).astype(int)
    for matrix, full in [("bt470bg", False), ("bt2020nc", False), ("bt709", True)]:
        assert np.abs(_ycbcr(COLORS, matrix, full, 8).astype(int) - right).max() > 3 * 2


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_said(tmp_path, transfer, name):
    with open_source(_write(tmp_path / "a.mkv", "bt2020nc", False, 10, transfer)) as source:
        assert len(list(source)) == 2
    (notice,) = source.notices
    assert f"HDR ({name})" in notice
    assert source.damage is None


def _tagged(source, path, matrix, primaries):
    """The same stream with other numbers of H.273 for its colours."""
    named = f"h264_metadata=matrix_coefficients={matrix}:colour_primaries={primaries}"
    with av.open(str(source)) as opened, av.open(str(path), "w") as written:
        stream = opened.streams.video[0]
        target = written.add_stream_from_template(stream)
        name_them = BitStreamFilterContext(named, stream, target)
        for packet in opened.demux(stream):
            for changed in name_them.filter(packet if packet.size else None):
                changed.stream = target
                written.mux(changed)
    return path


@pytest.mark.parametrize(("primaries", "matrix"), [(1, "bt709"), (9, "bt2020nc"), (6, "smpte240m"), (7, "smpte240m")])
def test_a_matrix_that_follows_from_the_primaries(tmp_path, primaries, matrix):
    clip = _tagged(_write(tmp_path / "a.mkv", matrix, False, 8), tmp_path / "b.mkv", 12, primaries)
    with open_source(clip) as source:
        for frame in source:
            assert np.abs(_patches(frame.image) - COLORS).max() <= 2


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14, 15, 16, 17])
def test_colours_that_cannot_be_converted_are_said(tmp_path, matrix):
    clip = _tagged(_write(tmp_path / "a.mkv", "bt709", False, 8), tmp_path / "b.mkv", matrix, 2)
    with pytest.raises(VideoError, match=r"its colours are coded as .*, which cannot be converted here"):
        open_source(clip)


@pytest.mark.parametrize("matrix", [2, 3, 18, 99])
def test_numbers_that_name_nothing_are_as_none(tmp_path, matrix):
    """Reserved ones too: read as BT.601."""
    clip = _tagged(_write(tmp_path / "a.mkv", "smpte170m", False, 8), tmp_path / "b.mkv", matrix, 2)
    with open_source(clip) as source:
        for frame in source:
            assert np.abs(_patches(frame.image) - COLORS).max() <= 2


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("libx264rgb", "rgb24"), ("ffv1", "bgr0"), ("ffv1", "bgra"), ("ffv1", "rgb48le"), ("png", "rgb24"),
        ("png", "rgba"), ("ffv1", "gbrp10le"), ("ffv1", "yuv444p16le"), ("ffv1", "yuva444p"), ("mjpeg", "yuvj444p"),
    ],
)  # fmt: skip
def test_pixels_of_other_formats(tmp_path, codec, pixels):
    """Without a matrix, deep, with alpha, of full range: alike."""
    picture = np.repeat(np.repeat(COLORS[None], PATCH, axis=0), PATCH, axis=1).astype(np.uint8)
    options = {"libx264rgb": {"qp": "0"}, "mjpeg": {"qscale": "1"}}.get(codec, {})
    name = "a.mov" if codec == "png" else "a.mkv"
    clip = write_clip(tmp_path / name, [picture] * 2, codec=codec, pix_fmt=pixels, options=options)
    with open_source(clip) as source:
        frames = list(source)
    assert (len(frames), source.damage) == (2, None)
    assert np.abs(_patches(frames[1].image) - COLORS).max() <= 2
