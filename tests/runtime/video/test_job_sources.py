"""Sources on their way through a run: single pictures, pixels that are not square, inputs that would be overwritten."""

import json
import os
import sys
import threading
from collections import defaultdict
from contextlib import ExitStack

import av
import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.errors import VideoError
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.video.job import process_video, process_videos
from l2g.runtime.video.source import open_source
from l2g.runtime.video.writer import VideoWriter
from tests.runtime.blobs import BlobBackend, scene
from tests.runtime.clips import moving_scenes, write_clip

SQUARE = (1, (32, 16, 64, 48))  # a green square of 32 pixels, to look at


def _run(path, folder, **options):
    with open_source(path) as source:
        summary = process_video(BlobBackend(), source, folder, **options)
    lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    return summary, lines


def _masks(line):
    return [
        coco_mask.decode({**track["segmentation"], "counts": track["segmentation"]["counts"].encode()})
        for track in line["tracks"]
    ]


def test_a_single_picture_gives_a_picture(tmp_path):
    image = scene(64, 96, [SQUARE])
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    summary, lines = _run(tmp_path / "a.png", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["frames.jsonl", "overlay.png", "results.json"]
    assert tmp_path / "out" / "overlay.png" in summary.files
    overlay = cv2.imread(str(tmp_path / "out" / "overlay.png"))[..., ::-1]
    assert overlay.shape == image.shape
    np.testing.assert_array_equal(overlay[56:, 80:], image[56:, 80:])
    assert (overlay[20:40, 40:56] != image[20:40, 40:56]).any()
    (mask,) = _masks(lines[0])
    assert np.abs(mask.astype(int) - (image[..., 1] == 200)).mean() < 0.02
    _run(tmp_path / "a.png", tmp_path / "without", overlay=False)
    assert sorted(os.listdir(tmp_path / "without")) == ["frames.jsonl", "results.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have niceness on Linux alone")
@pytest.mark.parametrize("count", [1, 3])
def test_all_that_is_done_beside_the_model_has_a_lower_priority(count, tmp_path, monkeypatch):
    found = defaultdict(set)

    def noted(owner, name):
        plain = getattr(owner, name)

        def note(*arguments, **named):
            found[name].add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return plain(*arguments, **named)

        monkeypatch.setattr(owner, name, note)

    for owner, name in (
        (Letterbox, "to_canvas"),
        (Letterbox, "mask_to_source"),
        (VideoWriter, "write"),
        (BlobBackend, "step"),
    ):
        noted(owner, name)
    clip = write_clip(tmp_path / "a.mp4", moving_scenes(6))
    with ExitStack() as stack:
        jobs = [(stack.enter_context(open_source(clip)), tmp_path / str(number)) for number in range(count)]
        process_videos(BlobBackend(), jobs)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert found.pop("step") == {own}
    assert dict(found) == {name: {min(own + 10, 19)} for name in ("to_canvas", "mask_to_source", "write")}


@pytest.mark.parametrize(("aspect", "columns"), [(2.0, 48), (0.5, 192), (1.0, 96)])
def test_objects_have_their_true_shape_on_the_canvas_and_masks_are_in_stored_pixels(tmp_path, aspect, columns):
    image = cv2.resize(scene(64, 96, [SQUARE]), (columns, 64), interpolation=cv2.INTER_AREA)
    clip = write_clip(tmp_path / "a.mp4", [image] * 2, pixel_aspect=aspect)
    seen = []
    backend = BlobBackend()
    step = backend.step
    backend.step = lambda frames, reset: (seen.append(frames[0].copy()), step(frames, reset))[1]
    with open_source(clip) as source:
        process_video(backend, source, tmp_path / "out")
    green = (np.abs(seen[0].astype(int) - (30, 200, 40)) < 40).all(axis=2)
    rows, cols = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    # 64x96 to look at fills the canvas: the square is square, and where it was drawn.
    assert [rows[0], rows[-1] + 1, cols[0], cols[-1] + 1] == pytest.approx([16, 48, 32, 64], abs=1)
    line = json.loads((tmp_path / "out" / "frames.jsonl").read_text().splitlines()[0])
    (mask,) = _masks(line)
    assert mask.shape == (64, columns)
    scale = columns / 96
    assert line["tracks"][0]["box"] == pytest.approx([32 * scale, 16, 64 * scale, 48], abs=1.5)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (64, columns)
        assert float(stream.sample_aspect_ratio or 1) == pytest.approx(aspect)


def test_an_input_that_would_be_overwritten_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    clip = write_clip(folder / "overlay.mp4", moving_scenes(3))
    other = write_clip(tmp_path / "other.mp4", moving_scenes(3))
    (tmp_path / "link.mp4").symlink_to(clip)
    os.link(clip, tmp_path / "hard.mp4")
    before = clip.read_bytes()
    for path in (clip, tmp_path / "link.mp4", tmp_path / "hard.mp4", folder / ".." / "out" / "overlay.mp4"):
        with open_source(path) as source, pytest.raises(VideoError, match="give another output"):
            process_video(BlobBackend(), source, folder)
        # Nor by the run of another input beside it.
        with open_source(path) as first, open_source(other) as second, pytest.raises(VideoError, match="another"):
            process_videos(BlobBackend(), [(first, tmp_path / "new"), (second, folder)])
    assert clip.read_bytes() == before
    assert os.listdir(folder) == ["overlay.mp4"]
    assert not (tmp_path / "new").exists()
    summary, _ = _run(clip, folder, overlay=False)
    assert summary.frames == 3
    assert clip.read_bytes() == before


def test_pictures_that_would_be_overwritten_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "overlay.png"), moving_scenes(1)[0])
    with open_source(tmp_path / "overlay.png") as source, pytest.raises(VideoError, match="another output"):
        process_video(BlobBackend(), source, tmp_path)
    with open_source(tmp_path) as source:  # the folder's only picture
        assert source.is_picture
        with pytest.raises(VideoError, match="another output"):
            process_video(BlobBackend(), source, tmp_path)
    cv2.imwrite(str(tmp_path / "b.png"), moving_scenes(1)[0])
    assert _run(tmp_path, tmp_path)[0].frames == 2


def test_notices_reach_the_summary(tmp_path):
    for index, image in enumerate([scene(64, 96, []), scene(96, 64, [])]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    summary, _ = _run(tmp_path, tmp_path / "out")
    assert "letterboxed" in summary.notices[0]
