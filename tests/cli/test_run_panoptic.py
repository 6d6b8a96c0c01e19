"""`l2g run` of things and stuff: files that agree with each other, and an overlay that shows both."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.cli.running import run as run_video
from l2g.errors import VideoError
from l2g.metrics.panoptic import read_predictions, submission
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.video.job import process_video
from l2g.runtime.video.lane import OutputOptions
from l2g.runtime.video.overlay import OverlayPainter, stuff_color
from l2g.runtime.video.source import open_source
from tests.runtime.blobs import CLASS_NAMES, BlobBackend, scene
from tests.runtime.clips import write_clip

SIZE = 64, 96


@pytest.fixture
def backends(monkeypatch):
    def open_backend(model, *, top_k, canvas=None, **_):
        backend = BlobBackend(SIZE, top_k=top_k)
        backend.contract = dataclasses.replace(backend.contract, stuff_classes=(2,))
        return backend

    monkeypatch.setattr("l2g.runtime.backends.open.open_backend", open_backend)


def blobs(step):
    return [(0, (8 + step, 8, 28 + step, 32)), (2, (4, 40, 92, 60))]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "my clip.mp4", [scene(*SIZE, blobs(4 * step)) for step in range(5)])


def run(tmp_path, clip, *options):
    output = tmp_path / "out"
    assert run_video.main(["--model", "m", "--input", str(clip), "--output", str(output), *options]) == 0
    return output


def test_the_files_agree_with_each_other(tmp_path, clip, backends):
    output = run(tmp_path, clip)
    assert sorted(path.name for path in output.iterdir()) == ["overlay.mp4", "pan_pred", "panoptic.jsonl", "pred.json"]
    lines = [json.loads(line) for line in (output / "panoptic.jsonl").read_text().splitlines()]
    predicted = read_predictions(*submission(output), {1: True, 2: True, 3: False})
    assert list(predicted.videos) == ["my_clip"]
    assert len(lines) == len(predicted.videos["my_clip"]) == 5
    for index, line in enumerate(lines):
        ids = predicted.id_map("my_clip", index)
        frame = predicted.videos["my_clip"][index]
        assert frame.file_name == f"{line['index']:08d}.png"
        assert [segment["id"] for segment in line["segments"]] == [segment.id for segment in frame.segments] == [3, 4]
        assert sorted({3, 4} | {0}) == np.unique(ids).tolist()
        for segment, listed in zip(line["segments"], frame.segments, strict=True):
            mask = ids == segment["id"]
            assert np.array_equal(coco_mask.decode(segment["segmentation"]).astype(bool), mask)
            assert segment["area"] == listed.area == mask.sum()
            rows, columns = np.nonzero(mask)
            assert segment["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (segment["label"] + 1, CLASS_NAMES[segment["label"]]) == (listed.category_id, segment["name"])
        stuff, thing = line["segments"]
        assert (stuff["isthing"], "track" in stuff, thing["isthing"], thing["track"]) == (False, False, True, 1)


def test_a_video_is_called_as_its_folder_of_results_is(tmp_path, backends):
    """A folder of pictures has no suffix that could be left out."""
    (tmp_path / "seq.02").mkdir()
    for step in range(2):
        cv2.imwrite(str(tmp_path / f"seq.02/{step}.png"), scene(*SIZE, blobs(4 * step))[..., ::-1])
    output = run(tmp_path, tmp_path / "seq.02", "--no-overlay")
    assert [entry["video_id"] for entry in json.loads((output / "pred.json").read_text())["annotations"]] == ["seq.02"]
    assert [path.name for path in (output / "pan_pred").iterdir()] == ["seq.02"]


def test_options_reach_the_merging(tmp_path, clip, backends):
    output = run(tmp_path, clip, "--min-stuff-area", "5000", "--no-overlay", "--no-results")
    assert [path.name for path in output.iterdir()] == ["panoptic.jsonl"]
    lines = [json.loads(line) for line in (output / "panoptic.jsonl").read_text().splitlines()]
    assert all([segment["id"] for segment in line["segments"]] == [4] for line in lines)


def test_instances_of_a_model_that_knows_stuff(tmp_path, clip, backends):
    output = run(tmp_path, clip, "--task", "instances", "--no-overlay")
    assert sorted(path.name for path in output.iterdir()) == ["frames.jsonl", "results.json"]


def test_a_semantic_run_has_no_things(tmp_path, clip, backends):
    output = run(tmp_path, clip, "--task", "semantic", "--no-overlay")
    categories = json.loads((output / "pred.json").read_text())["categories"]
    assert [category["isthing"] for category in categories] == [0, 0, 0]


def test_a_wrong_option_is_one_line(tmp_path, clip, backends, capsys):
    options = ["--model", "m", "--input", str(clip), "--output", str(tmp_path / "out"), "--overlap-threshold", "2"]
    assert run_video.main(options) == 2
    assert "overlap threshold 2 found, 0..1 expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_overlay_shows_stuff_in_its_colour_with_its_name_once(tmp_path):
    import l2g

    backend = BlobBackend((256, 384))
    backend.contract = dataclasses.replace(backend.contract, stuff_classes=(2,))
    picture = scene(256, 384, [(0, (32, 32, 112, 128)), (2, (16, 160, 368, 240))])
    result = l2g.Tracker(backend).update(picture)
    painter = OverlayPainter(CLASS_NAMES)
    drawn = painter.draw(picture, result)
    stuff = result.panoptic.ids == 3
    tinted = np.rint(0.55 * picture[200, 20] + 0.45 * np.array(stuff_color(2)))
    same = (np.abs(drawn.astype(int) - tinted) <= 1).all(-1)
    assert 0.85 < same[stuff].mean() < 1  # but for the name
    assert not same[~stuff].any()
    # The name stays where it is while its region is there.
    again = painter.draw(picture, result)
    assert np.array_equal(drawn, again)
    name = np.argwhere(stuff & ~same)
    assert cv2.boundingRect(name[:, ::-1].astype(np.int32).reshape(-1, 1, 2))[3] < 40


def test_a_run_goes_on_where_another_stopped(tmp_path, monkeypatch):
    """Every third frame is kept; what was written after it is written again, and nothing shows."""
    monkeypatch.setattr("l2g.runtime.video.lane.KEY_FRAMES", 3)
    clip = write_clip(tmp_path / "clip.mp4", [scene(*SIZE, blobs(3 * step)) for step in range(12)])

    def process(name, stop=None, resume=False):
        backend = BlobBackend(SIZE)
        backend.contract = dataclasses.replace(backend.contract, stuff_classes=(2,))
        done = []

        def on_frame():
            done.append(1)
            if len(done) == stop:
                raise KeyboardInterrupt

        with open_source(str(clip)) as source:
            options = OutputOptions(resume=resume)
            process_video(backend, source, tmp_path / name, overlay=False, on_frame=on_frame, output=options)
        return len(done)

    assert process("whole") == 12
    process("parts", stop=5)
    assert process("parts", resume=True) == 9  # three were kept
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(files) == 2 + 12
    for file in files:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "parts/unfinished").exists()


def test_maps_of_a_run_that_fails_leave_those_of_the_one_before(tmp_path, monkeypatch):
    """They lie in `unfinished` with the rest of it, and take their places when it has gone on to its end."""
    monkeypatch.setattr("l2g.runtime.video.lane.KEY_FRAMES", 3)
    clip = write_clip(tmp_path / "clip.mp4", [scene(*SIZE, blobs(3 * step)) for step in range(8)])

    def process(name, threshold, stop=None, resume=False):
        backend = BlobBackend(SIZE)
        backend.contract = dataclasses.replace(backend.contract, stuff_classes=(2,))
        done = []

        def on_frame():
            done.append(1)
            if len(done) == stop:
                raise VideoError("the disk is full")

        panoptic = PanopticOptions(min_stuff_area=threshold)
        with open_source(str(clip)) as source:
            options = OutputOptions(resume=resume)
            process_video(
                *(backend, source, tmp_path / name),
                overlay=False, on_frame=on_frame, output=options, panoptic=panoptic,
            )  # fmt: skip

    def files(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    process("out", 1)
    process("other", 10**6)
    before, other = files(tmp_path / "out"), files(tmp_path / "other")
    assert all(before[name] != other[name] for name in before), "what would be written over differs"
    with pytest.raises(VideoError, match="5 frames were done"):
        process("out", 10**6, stop=5)
    after = files(tmp_path / "out")
    unfinished = sorted(path.name for path in after if path.parts[0] == "unfinished" and path.suffix == ".png")
    assert unfinished == [f"{index:08d}.png" for index in range(5)]
    assert {name: content for name, content in after.items() if name.parts[0] != "unfinished"} == before
    process("out", 10**6, resume=True)
    assert files(tmp_path / "out") == other
    assert not (tmp_path / "out/unfinished").exists()
