"""A public Mask DINO checkpoint on a video, through the real backend, against the public implementation's instances."""

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import l2g  # noqa: E402
from l2g.cli.running import run as run_video  # noqa: E402
from l2g.runtime.backends.eager import EagerBackend  # noqa: E402
from l2g.runtime.identity.tracks import TrackParameters  # noqa: E402
from l2g.runtime.video.job import process_video  # noqa: E402
from l2g.runtime.video.source import open_source  # noqa: E402
from tests import golden  # noqa: E402
from tests.runtime.clips import write_clip  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "public.pth"
    torch.save({"model": golden.tiny_state_dict("tiny_seed0")}, path)
    return path


def _lossless(path, images):
    return write_clip(path, images, codec="ffv1", pix_fmt="bgr0", options={})


def _overlap(one, other):
    return (one & other).sum() / max(1, (one | other).sum())


@pytest.mark.parametrize("top_k", [None, 20])
def test_first_frame_holds_the_public_instances_and_tracks_stay(tmp_path, checkpoint, top_k):
    from pycocotools import mask as coco_mask

    fixture = golden.fixture("tiny_seed0")
    expected = golden.instances(fixture)
    height, width = fixture["image"].shape[:2]
    model = l2g.load_checkpoint(checkpoint, **golden.TINY)
    backend = EagerBackend(model, top_k=top_k, canvas=(height, width))
    assert backend.contract.association == "embedding"
    image = fixture["image"]
    # The third frame lets noise change the order of the queries; the fourth is the first again.
    noise = np.random.default_rng(0).integers(-20, 20, image.shape)
    images = [image, image, np.clip(image + noise, 0, 255).astype(np.uint8), image]
    before, within = cv2.getNumThreads(), []
    with open_source(_lossless(tmp_path / "clip.mkv", images)) as source:
        summary = process_video(
            backend,
            source,
            tmp_path / "out",
            parameters=TrackParameters(birth_score=0.0),
            top_k=20,
            on_frame=lambda: within.append(cv2.getNumThreads()),
        )
    assert (summary.frames, summary.damage) == (4, None)
    assert (within, cv2.getNumThreads()) == ([1] * 4, before)  # the stages are the threads

    lines = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    found = [(t["label"], t["score"], coco_mask.decode(t["segmentation"]).astype(bool)) for t in lines[0]["tracks"]]
    # The public list may hold a query twice with two classes; ours holds its best class.
    best = {}
    for label, _, _, mask in expected:
        if mask.any():
            matches = [(_overlap(mask, ours), ours_label) for ours_label, _, ours in found]
            overlap, ours_label = max(matches)
            assert overlap > 0.93, f"no such mask for class {label}: best overlap {overlap:.3f}"
            best.setdefault(ours_label, overlap)
    assert {label for label, _, _ in found} >= set(best)
    # The same picture gives the same tracks with the same masks, whatever came between.
    assert lines[1]["tracks"] == lines[0]["tracks"]
    assert {t["id"] for t in lines[3]["tracks"]} == {t["id"] for t in lines[0]["tracks"]}
    masks = {t["id"]: t["segmentation"] for t in lines[3]["tracks"]}
    assert all(masks[t["id"]] == t["segmentation"] for t in lines[0]["tracks"])


def test_the_command_runs_a_checkpoint(tmp_path, checkpoint, capsys):
    clip = _lossless(tmp_path / "clip.mkv", [golden.fixture("tiny_seed0")["image"]] * 2)
    arguments = ["--model", str(checkpoint), "--input", str(clip), "--output", str(tmp_path / "out")]
    (tmp_path / "names.txt").write_text("cat\ndog\n\nfox\nhen\nowl\n")
    arguments += ["--num-queries", "20", "--class-names", str(tmp_path / "names.txt"), "--size", "64x96"]
    assert run_video.main([*arguments, "--score-threshold", "0.05", "--top-k", "3"]) == 0
    assert "2 frames in" in capsys.readouterr().out
    tracks = [json.loads(line)["tracks"] for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    assert 1 <= len(tracks[0]) <= 3
    assert tracks[0][0]["name"] == ("cat", "dog", "fox", "hen", "owl")[tracks[0][0]["label"]]
    assert tracks[0] == tracks[1]


def test_a_checkpoint_that_is_none_is_one_line(tmp_path, capsys):
    clip = _lossless(tmp_path / "clip.mkv", [np.zeros((64, 96, 3), np.uint8)])
    (tmp_path / "model.pth").write_bytes(b"nothing of the kind")
    arguments = ["--model", str(tmp_path / "model.pth"), "--input", str(clip), "--output", str(tmp_path / "out")]
    assert run_video.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'model.pth'}")
    assert error.count("\n") == 1
