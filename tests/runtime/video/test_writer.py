"""The overlay's container: plays in browsers, keeps times, loses nothing."""

import subprocess
import sys

import av
import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.video import writer as writer_room
from l2g.runtime.video.writer import VideoWriter, planar_yuv
from tests.runtime.blobs import scene
from tests.runtime.clips import decode, moving_scenes


def _write(path, images, times, rate=10.0):
    with VideoWriter(path, *images[0].shape[:2], rate) as writer:
        for image, time in zip(images, times, strict=True):
            writer.write(image, time)
    return decode(path)


def test_h264_that_plays_in_a_browser(tmp_path):
    images = moving_scenes(10)
    frames, times, facts = _write(tmp_path / "a.mp4", images, np.arange(10) / 10)
    assert (facts["codec"], facts["pix_fmt"]) == ("h264", "yuv420p")
    assert facts["duration"] == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(times, np.arange(10) / 10, atol=1e-4)
    for frame, image in zip(frames, images, strict=True):
        assert frame.shape == image.shape
        assert np.abs(frame.astype(int) - image).mean() < 6
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first"


def test_saturated_colors_survive_and_their_matrix_is_named(tmp_path):
    """Written as BT.601 and read as BT.709, green and red would be off by tens."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (230, 30, 30), (30, 230, 30), (30, 30, 230)
    with VideoWriter(tmp_path / "a.mp4", 64, 96, 10) as writer:
        writer.write(image, 0.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (6, 1), "BT.601, limited range"
        luma = frame.to_ndarray()[:64]
    # BT.601: Y = 16 + 219 (0.299 R + 0.587 G + 0.114 B).
    for column, color in ((16, (230, 30, 30)), (48, (30, 230, 30)), (80, (30, 30, 230))):
        expected = 16 + 219 / 255 * np.dot((0.299, 0.587, 0.114), color)
        assert abs(float(luma[20:40, column].mean()) - expected) < 3


def test_planes_are_those_of_the_standard():
    """BT.601 in its own numbers, and chroma the mean of four pixels, not one of them."""
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    planes = planar_yuv(image)
    assert (planes.shape, planes.dtype) == ((54, 64), np.uint8)
    red, green, blue = np.moveaxis(image / 255, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert np.abs(planes[:36] - (16 + 219 * luma)).max() <= 1
    for found, difference in ((planes[36:45], (blue - luma) / 1.772), (planes[45:], (red - luma) / 1.402)):
        mean = difference.reshape(18, 2, 32, 2).mean(axis=(1, 3))
        assert np.abs(found.reshape(18, 32) - (128 + 224 * mean)).max() <= 2


def test_variable_frame_rate_is_kept(tmp_path):
    times = [0, 0.04, 0.5, 0.51, 2.0]
    _, got, facts = _write(tmp_path / "a.mp4", moving_scenes(5), times)
    np.testing.assert_allclose(got, times, atol=1e-4)
    assert facts["duration"] == pytest.approx(2.1, abs=0.02)


def test_times_that_do_not_grow_are_no_crash(tmp_path):
    frames, got, _ = _write(tmp_path / "a.mp4", moving_scenes(5), [0, 0, 0.1, 0.1, 0.2])
    assert len(frames) == 5
    assert (np.diff(got) > 0).all()


def test_single_frame_lasts(tmp_path):
    frames, _, facts = _write(tmp_path / "a.mp4", moving_scenes(1), [0.0])
    assert len(frames) == 1
    assert facts["duration"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(63, 95), (63, 96), (64, 95), (1, 1)])
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, height, width):
    image = scene(height, width, [(0, (0, 0, width, height))])
    frames, _, _ = _write(tmp_path / "a.mp4", [image] * 2, [0, 0.1])
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0].astype(int) - image[0, 0]).max() < 20


@pytest.mark.parametrize("rate", [1000.0, 0.001, 29.97])
def test_any_frame_rate(tmp_path, rate):
    frames, _, _ = _write(tmp_path / "a.mp4", moving_scenes(3), np.arange(3) / rate, rate)
    assert len(frames) == 3


def test_an_exception_keeps_what_was_written(tmp_path):
    path = tmp_path / "a.mp4"

    def interrupted():
        with VideoWriter(path, 64, 96, 10) as writer:
            for index, image in enumerate(moving_scenes(7)):
                writer.write(image, index / 10)
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(decode(path)[0]) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_without_frames_nothing_is_left_behind(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 96, 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there_and_frame_of_another_size(tmp_path):
    with pytest.raises(VideoError, match="cannot be written"):
        VideoWriter(tmp_path / "no" / "a.mp4", 64, 96, 10)
    with (
        pytest.raises(VideoError, match=r"expected uint8 \[64, 96, 3\]"),
        VideoWriter(tmp_path / "a.mp4", 64, 96, 10) as writer,
    ):
        writer.write(np.zeros((64, 95, 3), np.uint8), 0.0)


def test_only_pictures_too_large_for_one_core_are_coded_by_several(tmp_path):
    threads = []
    for height, width in ((1080, 1920), (2160, 3840)):
        with VideoWriter(tmp_path / "out.mp4", height, width, 30) as writer:
            threads.append(writer._stream.codec_context.thread_count)
    assert threads[0] == 1 != threads[1]


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from l2g.errors import VideoError
from l2g.runtime.video.writer import VideoWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
images = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3), np.uint8)
for limit in map(int, sys.argv[2:]):
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            with VideoWriter(Path(sys.argv[1]) / f"{limit}.mp4", 64, 96, 10) as writer:
                for number, image in enumerate(images):
                    writer.write(image, number / 10)
        except VideoError as error:
            os._exit(2 if "cannot be written" in str(error) or "is the disk full" in str(error) else 3)
        os._exit(0)
    print(limit, os.waitpid(child, 0)[1])
"""


def test_a_disk_that_is_full_at_any_byte_is_one_error_and_no_empty_file(tmp_path):
    """Before the header, within it, within a frame; a limit on the size of files stands for the disk."""
    limits = [*range(0, 1200, 97), *range(1200, 38_000, 4_900)]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert [line.split() for line in done.stdout.splitlines()] == [[str(limit), "512"] for limit in limits], done.stderr
    left = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem))
    # The frames that came as far as the disk, under the file's name.
    lengths = [len(decode(path)[0]) for path in left]
    assert lengths == sorted(lengths)
    assert 0 < lengths[0] < lengths[-1] < 8


def test_the_processor_s_instructions_do_not_change_a_byte(tmp_path, monkeypatch):
    images, found = moving_scenes(6), []
    for number, instructions in enumerate(("", ":asm=0", writer_room._instructions())):
        monkeypatch.setattr(writer_room, "_instructions", lambda text=instructions: text)
        _write(tmp_path / f"{number}.mp4", images, np.arange(6) / 10)
        found.append((tmp_path / f"{number}.mp4").read_bytes())
    assert found[0] == found[1] == found[2]
