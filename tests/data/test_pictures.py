"""Frames that are picture files, and the search for damaged ones in several processes."""

import multiprocessing
import os
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from l2g.cli.learning.data_check import main
from l2g.data.dataset import PictureFile
from l2g.data.pictures import _looked_through, read_picture, unreadable_frames
from l2g.data.youtube_vis import load_youtube_vis
from l2g.errors import DataError
from tests.data.layouts import picture, write_youtube_vis, youtube_vis_json

CASES = Path(__file__).parents[1] / "assets" / "cases"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 0.95])
def test_a_picture_that_is_cut_short_is_no_picture(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), picture(0, 96, 160))
    assert read_picture(path, (96, 160)).shape == (96, 160, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"is not a picture, or is cut short"):
        read_picture(path)


@pytest.mark.parametrize(("tops", "bits"), [((600, 900, 300), 10), ((600, 3000, 300), 12), ((600, 1500, 60_000), 16)])
def test_equal_light_is_equal_in_all_frames_of_16_bits(tmp_path, tops, bits):
    """What a frame's brightest pixel is says nothing of what its numbers mean; what the video's is does."""
    for t, top in enumerate(tops):
        image = np.full((8, 8, 3), 300, np.uint16)
        image[0, 0] = top
        assert cv2.imwrite(str(tmp_path / f"{t}.png"), image)
    expected = round(300 * 255 / (2**bits - 1))
    assert [int(read_picture(tmp_path / f"{t}.png")[4, 4, 0]) for t in range(3)] == [expected] * 3


def test_a_bitmap_with_the_oldest_header(tmp_path):
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    head = b"BM" + struct.pack("<IHHI", 26 + pixels.size, 0, 0, 26) + struct.pack("<IHHHH", 12, 8, 4, 1, 24)
    path = tmp_path / "old.bmp"
    path.write_bytes(head + pixels[::-1].tobytes())
    assert np.array_equal(read_picture(path, (4, 8)), pixels[..., ::-1])


def test_the_shared_case_of_a_cut_picture():
    found = {}
    for path in sorted((CASES / "pictures" / "cut_short").glob("*.jpg")):
        try:
            read_picture(path)
        except DataError as error:
            found[path.name] = str(error)
    assert len(found) == 1
    assert "cut short" in next(iter(found.values()))


def test_pixels_are_those_in_the_file(tmp_path):
    """As stored: annotations were drawn on the pixels, whatever EXIF says of how the camera was held."""
    path = tmp_path / "a.jpg"
    assert cv2.imwrite(str(path), picture(0, 48, 80))
    plain = path.read_bytes()
    expected = cv2.imread(str(path))[..., ::-1]
    # One EXIF entry, short: the orientation (0x112) is 6, a quarter turn.
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    path.write_bytes(plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:])
    assert cv2.imread(str(path)).shape == (80, 48, 3)
    np.testing.assert_array_equal(read_picture(path, (48, 80)), expected)


def test_what_is_no_file_never_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    start = time.monotonic()
    for name, words in (("pipe.jpg", "cannot be read as a file"), ("no.jpg", "does not exist"), ("a\0b", "exist")):
        with pytest.raises(DataError, match=words):
            read_picture(tmp_path / name)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("workers", [1, 2])
def test_decode_names_the_damaged_video(tmp_path, workers):
    data = youtube_vis_json()
    for n in range(60):  # more than one batch
        video = {**data["videos"][1], "id": 100 + n, "file_names": [f"extra{n}/{t:05d}.png" for t in range(3)]}
        data["videos"].append(video)
    write_youtube_vis(tmp_path, data)
    frames = tmp_path / "train/JPEGImages"
    (frames / "extra7/00001.png").write_bytes(b"no picture")
    (frames / "extra7/00002.png").write_bytes((frames / "extra7/00002.png").read_bytes()[:300])
    cv2.imwrite(str(frames / "extra50/00000.png"), picture(0, 10, 12))
    dataset = load_youtube_vis(tmp_path)
    found = unreadable_frames(dataset, workers, progress=False)
    assert [dataset.videos[place].name for place in found] == ["extra7", "extra50"]
    first, second = found.values()
    assert (first.kind, first.where, first.fatal) == ("unreadable frame", "extra7", True)
    assert "extra7/00001.png" in first.detail
    assert "1 more of this video" in first.detail
    assert "has 10x12 pixels, the annotation says 24x40" in second.detail


def test_the_command(capsys):
    case = str(CASES / "datasets" / "corrupt_frame")
    assert main([case]) == 0  # nothing wrong with the annotation
    assert main([case, "--decode", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "unreadable frame: val_7_0001: frame " in out
    assert "00004.jpg' is not a picture" in out
    assert main([case, "--decode", "--workers", "0"]) == 2


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path):
    """A PNG of 30,000 x 30,000 pixels, of which nothing is there: 2.7 GB, were it decoded."""
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), picture(0))
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match="has 30000x30000 pixels, the annotation says 24x40"):
        read_picture(path, (24, 40))
    with pytest.raises(DataError, match="is not a picture"):
        read_picture(path)


def test_what_is_stopped_leaves_no_process_behind(tmp_path):
    """Workers that were told nothing kept the command from ending."""
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", picture(0, 480, 640))[1])
    pictures = [PictureFile(tmp_path / "a.png", (480, 640))] * 2000
    looking = _looked_through(pictures, 2)
    first, count, messages = next(looking)
    assert (first % 64, count, messages) == (0, 64, [])
    start = time.monotonic()
    looking.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < 2
