"""A frame's result as arrays, for supervision and for COCO's tools."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.errors import L2GError
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask

HEIGHT, WIDTH = 20, 30
NAMES = ("cat", "dog", "cow")


def _ring():
    """A square with a hole and a far corner pixel: its box says little about it."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 5:12] = True
    mask[5:7, 7:9] = False
    mask[19, 29] = True
    return mask


def _bar():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4, 2:20] = True
    return mask


MASKS = np.stack([_ring(), _bar()])
BOXES = [[5, 3, 30, 20], [2, 4, 20, 5]]


def _result():
    tracks = tuple(
        TrackedInstance(track_id, slot, label, score, label, InstanceMask.from_patch(mask, 0, 0, HEIGHT, WIDTH))
        for mask, (track_id, slot, label, score) in zip(MASKS, [(7, 3, 2, 0.75), (2, 0, 0, 0.5)], strict=True)
    )
    return FrameResult(12, 0.4, tracks, HEIGHT, WIDTH, NAMES)


EMPTY = FrameResult(3, 0.1, (), HEIGHT, WIDTH, NAMES)


def test_arrays():
    result = _result()
    for found, expected, dtype in (
        (result.masks(), MASKS, bool),
        (result.boxes, BOXES, np.float32),
        (result.scores, [0.75, 0.5], np.float32),
        (result.labels, [2, 0], np.int64),
        (result.track_ids, [7, 2], np.int64),
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
    assert result.instances is result.tracks


def test_arrays_of_an_empty_frame_have_their_shapes():
    assert EMPTY.masks().shape == (0, HEIGHT, WIDTH)
    assert EMPTY.boxes.shape == (0, 4)
    assert EMPTY.scores.shape == EMPTY.labels.shape == EMPTY.track_ids.shape == (0,)
    assert EMPTY.to_coco() == []


def test_coco_entries_are_what_pycocotools_reads(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    truth = {
        "images": [{"id": 12, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 12,
                "category_id": category,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": list(map(float, coco_mask.toBbox(code))),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
            for i, (mask, category) in enumerate(zip(MASKS, (3, 1), strict=True))
            for code in [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))]
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(_result().to_coco()))
    with redirect_stdout(io.StringIO()):
        ground = coco.COCO(str(tmp_path / "truth.json"))
        found = ground.loadRes(str(tmp_path / "found.json"))
    for entry, mask in zip(found.anns.values(), MASKS, strict=True):
        np.testing.assert_array_equal(found.annToMask(entry).astype(bool), mask)
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    for kind in ("segm", "bbox"):
        with redirect_stdout(io.StringIO()):
            run = evaluation.COCOeval(ground, found, kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
        assert run.stats[0] == pytest.approx(1.0)


def test_coco_entry_field_by_field():
    first, second = _result().to_coco(image_id="a", category_ids=[10, 20, 30])
    assert first == {
        "image_id": "a",
        "category_id": 30,
        "bbox": [5, 3, 25, 17],
        "area": int(MASKS[0].sum()),
        "segmentation": first["segmentation"],
        "score": 0.75,
        "track_id": 7,
    }
    assert (second["category_id"], second["bbox"], second["area"]) == (10, [2, 4, 18, 1], 18)


def test_supervision_gets_every_field():
    supervision = pytest.importorskip("supervision")
    detections = _result().to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, BOXES)
    np.testing.assert_array_equal(detections.mask, MASKS)
    np.testing.assert_array_equal(detections.confidence, np.float32([0.75, 0.5]))
    np.testing.assert_array_equal(detections.class_id, [2, 0])
    np.testing.assert_array_equal(detections.tracker_id, [7, 2])
    assert list(detections.data["class_name"]) == ["cow", "cat"]
    # What people do with it.
    (dog,) = detections[detections.class_id == 0]
    assert (dog[4], dog[5]["class_name"]) == (2, "cat")
    np.testing.assert_array_equal(detections.area, MASKS.sum(axis=(1, 2)))
    drawn = supervision.MaskAnnotator().annotate(np.zeros((HEIGHT, WIDTH, 3), np.uint8), detections)
    np.testing.assert_array_equal(drawn.any(axis=2), MASKS.any(axis=0))


def test_supervision_takes_a_frame_without_tracks():
    supervision = pytest.importorskip("supervision")
    detections = EMPTY.to_supervision()
    assert len(detections) == 0
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert not supervision.MaskAnnotator().annotate(image, detections).any()
    assert len(supervision.Detections.merge([detections, _result().to_supervision()])) == 2


def test_without_supervision_it_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(L2GError, match="pip install supervision"):
        _result().to_supervision()


def test_supervision_is_loaded_only_when_asked_for():
    code = "import sys, l2g.runtime.frame_result; print('supervision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
