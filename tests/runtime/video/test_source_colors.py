"""Colours by the matrix and range that a file names, against the standards' own numbers (H.273, BT.601/709/2020)."""

from fractions import Fraction

import av
import numpy as np
import pytest

from l2g.runtime.video.source import open_source

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
