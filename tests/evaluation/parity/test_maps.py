"""Parity of maps of things and stuff, and the searches' measurements on them."""

import dataclasses
import json

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.data.synthetic.panoptic import write_panoptic
from l2g.errors import L2GError
from l2g.evaluation.panoptic import metric_of, score
from l2g.evaluation.parity.frame import SegmentAgreement, compare_segments
from l2g.evaluation.parity.page import render_page
from l2g.evaluation.parity.report import Tolerances
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.evaluation.precision import measure
from l2g.runtime.panoptic.segmentation import Segment, Segmentation
from tests.evaluation.replay import ReplayBackend, write_vipseg


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    source = write_panoptic(tmp_path_factory.mktemp("drawn") / "set", "val", videos=2, frames=4, size=(64, 96))
    data = json.loads((source / "panoptic_gt_VIPSeg_val.json").read_text())
    videos = load_dataset(f"vipseg:{source}", "val").videos
    maps = {video.id: np.stack([video.panoptic(t) for t in range(video.length)]) for video in videos}
    folder = write_vipseg(tmp_path_factory.mktemp("coded"), data, maps)
    return load_dataset(f"vipseg:{folder}", "val"), data, maps


def replay(drawn, **changes):
    _, data, maps = drawn
    things = {category["id"]: bool(category["isthing"]) for category in data["categories"]}
    return ReplayBackend(data, maps, sorted(things), things, **changes)


def without(drawn, thing):
    """A backend that never sees the first thing (or stuff) of the first video, and how many segments that is."""
    _, data, _ = drawn
    things = {category["id"]: bool(category["isthing"]) for category in data["categories"]}
    frames = data["annotations"][0]["annotations"]
    chosen = next(s["id"] for s in frames[0]["segments_info"] if things[s["category_id"]] == thing)
    missing = sum(s["id"] == chosen for frame in frames for s in frame["segments_info"])
    return replay(drawn, hidden={(data["annotations"][0]["video_id"], chosen)}), missing


def parity(drawn, candidate, forced, tolerances=None, **options):
    options = ParityOptions(pictures=0, **options)
    return run_parity(
        replay(drawn), candidate, forced, drawn[0], options=options, tolerances=tolerances, progress=False
    )


def check(report, start):
    return next(check for check in report.checks if check.name.startswith(start))


def test_two_that_agree_pass_with_vpq_in_place_of_ap(drawn):
    report = parity(drawn, replay(drawn), replay(drawn))
    assert report.passed
    assert [c.name.split(",")[0] for c in report.checks][:2] == [
        "VPQ difference",
        "segments of the free run's maps that are the same",
    ]
    assert check(report, "VPQ").detail == "100.00 and 100.00"
    assert check(report, "segments").value == 100
    found = report.to_json()
    assert found["ap"] is None
    assert found["vpq"]["difference"] == dict.fromkeys(("VPQ", "VPQ_things", "VPQ_stuff", "STQ", "SQ", "AQ"), 0)
    assert found["tolerances"]["vpq"] == 0.05
    assert found["videos"][0]["segments"][0][0] == found["videos"][0]["segments"][0][1] > 0
    assert "Things and stuff, percent" in render_page(report)


@pytest.mark.parametrize(("asked", "options"), [("ap", {}), ("vpq", {"ap": False, "task": "panoptic"})])
def test_a_limit_of_what_is_not_compared_is_refused(drawn, asked, options):
    with pytest.raises(L2GError, match=f"tolerance of {asked} given, but judged are"):
        parity(drawn, replay(drawn), replay(drawn), tolerances=Tolerances(**{asked: 5.0}), **options)


def test_a_segment_that_one_side_lacks_fails(drawn):
    _, data, _ = drawn
    total = sum(len(frame["segments_info"]) for entry in data["annotations"] for frame in entry["annotations"])
    for thing in (True, False):
        candidate, missing = without(drawn, thing)
        report = parity(drawn, candidate, without(drawn, thing)[0])
        assert not check(report, "VPQ").passed
        segments = check(report, "segments")
        assert segments.value == pytest.approx(100 * (2 * total - 2 * missing) / (2 * total - missing))
        assert not segments.passed
        # Without a score the maps are still compared.
        alone = parity(drawn, candidate, without(drawn, thing)[0], ap=False, task="panoptic")
        assert check(alone, "segments").value == segments.value
        assert not any(c.name.startswith("VPQ") for c in alone.checks)


def test_reduced_precisions_may_lose_as_much_as_their_budget(drawn):
    candidate, _ = without(drawn, True)
    build = dataclasses.replace(candidate.contract.build, precision="int8")
    candidate.contract = dataclasses.replace(candidate.contract, build=build)
    limits = Tolerances(segments=50).limits(candidate.contract)
    assert (limits.vpq, limits.segments) == (0.5, 50)


def test_segments_are_the_same_by_class_and_overlap():
    ids = np.zeros((4, 4), np.int32)
    ids[:2], ids[2:] = 1, 7
    one = Segmentation(ids, (Segment(1, 0, None, 1.0, 8), Segment(7, 2, 4, 1.0, 8)))
    assert compare_segments(one, one) == SegmentAgreement(4, 4)
    renamed = Segmentation(np.where(ids == 7, 9, ids), (one.segments[0], Segment(9, 2, 6, 1.0, 8)))
    assert compare_segments(one, renamed) == SegmentAgreement(4, 4)
    other_class = Segmentation(ids, (Segment(1, 1, None, 1.0, 8), one.segments[1]))
    assert compare_segments(one, other_class) == SegmentAgreement(4, 2)
    half = ids.copy()
    half[0] = 0  # half of it, and no more
    assert compare_segments(one, Segmentation(half, (Segment(1, 0, None, 1.0, 4), one.segments[1]))) == (4, 2)


def test_searches_measure_vpq_where_there_are_maps(drawn):
    candidate, _ = without(drawn, True)
    reference, found = measure(replay(drawn), {"one": candidate}, drawn[0], progress=False)
    assert reference.ap == 100
    assert reference.switches is None
    assert found["one"].ap < 99
    assert found["one"].ap == pytest.approx(score(candidate, drawn[0], 2, progress=False))
    assert metric_of(drawn[0]) == "VPQ"


def test_a_graph_gives_the_maps_of_its_model(tmp_path, drawn):
    """The shipped model and its export, from pictures to VPQ."""
    onnxruntime = pytest.importorskip("l2g.runtime.backends.onnxruntime")
    exporter = pytest.importorskip("l2g.export.exporter")
    from l2g.checkpoint import load_checkpoint
    from l2g.runtime.backends.eager import EagerBackend

    model = load_checkpoint("l2g_tiny_panoptic")
    exporter.export(model, tmp_path / "tiny.onnx", exporter.ExportOptions())
    source = write_panoptic(tmp_path / "set", "val", videos=2, frames=6)
    sides = EagerBackend(model), *(onnxruntime.OnnxRuntimeBackend(tmp_path / "tiny.onnx") for _ in range(2))
    assert sides[1].contract.stuff_classes == (8, 9, 10, 11)
    dataset = load_dataset(f"vipseg:{source}", "val")
    report = run_parity(*sides, dataset, options=ParityOptions(pictures=0), progress=False)
    assert check(report, "VPQ").value <= 0.05
    assert check(report, "segments").value >= 99.9
    assert report.ap_reference["VPQ"] > 40
