"""YouTube-VIS and OVIS AP against the official evaluators' recorded answers and against counting pixels by hand."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from l2g.cli.learning.vis_ap import main
from l2g.errors import DataError
from l2g.metrics.vis_ap import ap_of_draws, evaluate_vis
from tests.metrics.fixtures import load, quirks

TOLERANCE = 1e-9


def assert_official(report, expected):
    assert list(report.stats) == expected["stats_names"]
    assert list(report.stats.values()) == pytest.approx(expected["stats"], abs=TOLERANCE)
    assert report.ap_per_iou == pytest.approx(expected["AP_per_iou"], abs=TOLERANCE)
    for id_, stats in expected["per_category"].items():
        assert report.per_category[int(id_)] == pytest.approx(stats, abs=TOLERANCE)
    assert {f"{video}/{category}" for video, category in report.ious} == set(expected["ious"])
    for key, ious in expected["ious"].items():
        video, category = key.split("/")
        np.testing.assert_allclose(report.ious[int(video), int(category)], ious, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["ytvis_case_a", "ytvis_case_b", "ytvis_case_c"])
def test_official_answers(name):
    case = load(name)
    expected, before = case["expected"], copy.deepcopy(case["predictions"])
    report = evaluate_vis(case["gt"], case["predictions"], all_ious=True)
    assert_official(report, expected)
    np.testing.assert_allclose(report.recall.ravel(), expected["recall"], rtol=0, atol=TOLERANCE)
    mean_precision = report.precision.mean(axis=1).ravel()
    np.testing.assert_allclose(mean_precision, expected["precision_mean_over_R"], rtol=0, atol=TOLERANCE)
    # Giving up pairs that cannot reach 0.5 changes no statistic.
    assert evaluate_vis(case["gt"], case["predictions"]).stats == report.stats
    assert case["predictions"] == before

    ovis = evaluate_vis(case["gt"], case["predictions"], ovis=True)
    assert list(ovis.stats) == expected["ovis_stats_names"]
    assert list(ovis.stats.values()) == pytest.approx(expected["ovis_stats"], abs=TOLERANCE)


@pytest.mark.parametrize("case", quirks("ytvis_quirks", failing=False), ids=lambda case: case["name"])
def test_official_quirks(case):
    assert_official(evaluate_vis(case["gt"], case["predictions"], all_ious=True), case["expected"])


@pytest.mark.parametrize("case", quirks("ytvis_quirks", failing=True), ids=lambda case: case["name"])
def test_official_failures_are_data_errors(case):
    names = {
        "error_empty_results": "list is empty",
        "error_unknown_video": "entry 0: video_id 9",
        "error_gt_without_iscrowd": r"annotation 0 \(id 1\), video 1: has no 'iscrowd'",
    }
    with pytest.raises(DataError, match=names[case["name"]]):
        evaluate_vis(case["gt"], case["predictions"])


def test_empty_results_on_request():
    case = load("ytvis_case_a")
    report = evaluate_vis(case["gt"], [], allow_empty=True)
    assert report.stats["AP"] == 0.0
    assert report.stats["AR100"] == 0.0


@pytest.mark.parametrize(
    ("quirk", "note"),
    [
        ("short_prediction_is_zip_truncated", "results entry 0, video 1"),
        ("unknown_category_is_dropped", "results entry 1 with category_id 55"),
        ("size_mismatch_frame_counts_zero", "video 1: in 1 frames"),
        ("gt_id_zero_never_counts_as_tp", "annotation 0 has id 0"),
    ],
)
def test_what_the_official_code_passes_over_is_noted(quirk, note):
    case = next(case for case in quirks("ytvis_quirks", failing=False) if case["name"] == quirk)
    (found,) = evaluate_vis(case["gt"], case["predictions"]).notes
    assert note in found


def drawn(case, counts):
    """The case with every video so often as drawn, under ids of its own."""
    times = dict(zip(sorted(video["id"] for video in case["gt"]["videos"]), counts, strict=True))
    videos = [v | {"id": 100 * v["id"] + n} for v in case["gt"]["videos"] for n in range(times[v["id"]])]
    annotations = [
        a | {"video_id": 100 * a["video_id"] + n}
        for a in case["gt"]["annotations"]
        for n in range(times[a["video_id"]])
    ]
    annotations = [annotation | {"id": number} for number, annotation in enumerate(annotations, 1)]
    predictions = [
        p | {"video_id": 100 * p["video_id"] + n} for p in case["predictions"] for n in range(times[p["video_id"]])
    ]
    return case["gt"] | {"videos": videos, "annotations": annotations}, predictions


@pytest.mark.parametrize("name", ["ytvis_case_b", "ytvis_case_c"])
def test_the_ap_of_a_draw_is_that_of_a_data_set_with_these_videos(name):
    case = load(name)
    assert ap_of_draws(case["gt"], case["predictions"], np.ones((1, len(case["gt"]["videos"])), int)) == pytest.approx(
        case["expected"]["stats"][0], abs=TOLERANCE
    )
    # Of equal scores of different videos the order of the videos decides, which copies change.
    case["predictions"] = [p | {"score": p["score"] + 1e-6 * n} for n, p in enumerate(case["predictions"])]
    videos = len(case["gt"]["videos"])
    draws = np.random.default_rng(0).multinomial(videos, np.full(videos, 1 / videos), 6)
    found = ap_of_draws(case["gt"], case["predictions"], draws)
    assert len(set(found.tolist())) > 1
    for counts, ap in zip(draws, found, strict=True):
        assert ap == pytest.approx(evaluate_vis(*drawn(case, counts), allow_empty=True).stats["AP"], abs=TOLERANCE)


def test_a_draw_needs_a_count_for_each_video():
    case = load("ytvis_case_a")
    with pytest.raises(DataError, match=r"counts \[1, 1\] found"):
        ap_of_draws(case["gt"], case["predictions"], np.ones((1, 1), int))


# --- broken files -------------------------------------------------------------------------------------------------


def toy():
    case = next(c for c in quirks("ytvis_quirks", failing=False) if c["name"] == "tie_iou_last_gt_wins")
    return copy.deepcopy(case["gt"]), copy.deepcopy(case["predictions"])


def broken_results(change):
    truth, results = toy()
    change(results)
    return truth, results


def broken_truth(change):
    truth, results = toy()
    change(truth)
    return truth, results


MASK = {"size": [16, 16], "counts": "R1880000000000000n2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[1].pop("score"), "entry 1: has no 'score'"),
        (lambda r: r[1].update(score=float("nan")), r"entry 1 \(video 1\): 'score' is nan"),
        (lambda r: r[1].update(score="0.5"), "entry 1 .*'score' is '0.5'"),
        (lambda r: r[1].update(score=10**400), "entry 1 .*'score' is 1000"),
        (lambda r: r[1].update(score=-(10**400)), "entry 1 .*'score' is -1000"),
        (lambda r: r[1].update(video_id="1"), "entry 1: 'video_id' is '1'"),
        (lambda r: r[1].update(first_frame=-1), r"entry 1 \(video 1\): first_frame -1 found, 0 to 2 expected"),
        (lambda r: r[1].update(first_frame=10**30), "entry 1 .*first_frame 1000"),
        (lambda r: r[2].update(segmentations=None), r"entry 2 \(video 1\): 'segmentations' is NoneType"),
        (lambda r: r.insert(0, 7), "entry 0: found int"),
        (
            lambda r: r[1]["segmentations"].__setitem__(1, MASK | {"counts": [0, 256]}),
            "entry 1, video 1, frame 1.*list",
        ),
        (lambda r: r[1]["segmentations"].__setitem__(1, MASK | {"counts": ""}), "entry 1, video 1, frame 1.*empty"),
        (lambda r: r[1]["segmentations"].__setitem__(0, MASK | {"counts": "R1880P"}), "entry 1, video 1, frame 0.*cut"),
        (lambda r: r[1]["segmentations"].__setitem__(0, MASK | {"counts": "R18 80"}), "frame 0.*characters"),
        (lambda r: r[1]["segmentations"].__setitem__(0, MASK | {"counts": "R18é80"}), "frame 0.*characters"),
        (lambda r: r[1]["segmentations"].__setitem__(0, MASK | {"counts": "R188"}), "frame 0.*do not make up 16 x 16"),
        (lambda r: r[1]["segmentations"].__setitem__(0, MASK | {"size": [16]}), "frame 0.*'size' is"),
        (lambda r: r[1]["segmentations"].__setitem__(0, "mask.png"), "entry 1, video 1, frame 0.*found mask.png"),
    ],
)
def test_broken_results_are_named(change, message):
    with pytest.raises(DataError, match=message):
        evaluate_vis(*broken_results(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("videos"), "ground truth: has no 'videos'"),
        (lambda t: t.update(annotations=None), "'annotations' is NoneType"),
        (lambda t: t["videos"].append(t["videos"][0]), "video 1: id 1 is used twice"),
        (lambda t: t["videos"][0].update(length="2"), r"video \(id 1\): 'length' is '2'"),
        (lambda t: t["videos"][0].update(length=2.5), r"video \(id 1\): 'length' is 2.5"),
        (lambda t: t["annotations"][1].update(id=1), "annotation 1: id 1 is also that of annotation 0"),
        (lambda t: t["annotations"][1].update(video_id=5), r"annotation 1 \(id 2\): video_id 5"),
        (lambda t: t["annotations"][1].update(category_id=9), r"annotation 1 \(id 2\): category_id 9"),
        (lambda t: t["annotations"][1].pop("areas"), r"annotation 1 \(id 2\), video 1: has no 'areas'"),
        (lambda t: t["annotations"][1].update(areas=["a", 1]), r"annotation 1 \(id 2\), video 1, frame 0: area"),
        (lambda t: t["annotations"][1].update(areas=[10**400, 1]), r"annotation 1 \(id 2\), video 1, frame 0: area"),
        (lambda t: t["annotations"][1]["segmentations"][1].update(counts=[1, 2]), r"id 2\), video 1, frame 1.*sum"),
        (lambda t: t["annotations"][1]["segmentations"][1].update(counts="R18"), r"id 2\), video 1, frame 1.*make up"),
        (lambda t: t["annotations"][1]["segmentations"].__setitem__(1, [[1, 2, 3]]), r"id 2\), video 1, frame 1.*poly"),
    ],
)
def test_broken_ground_truth_is_named(change, message):
    with pytest.raises(DataError, match=message):
        evaluate_vis(*broken_truth(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["annotations"][0].pop("occlusion"), "annotation 0 .* has no 'occlusion'"),
        (lambda t: t["annotations"][0].update(occlusion=[None, None]), "annotation 0 .*no level"),
        (lambda t: t["annotations"][0].update(occlusion=["some", None]), "annotation 0 .*frame 0: occlusion is 'some'"),
        (lambda t: t["annotations"][0].update(occlusion=[["x"], None]), "annotation 0 .*frame 0: occlusion is ..x.."),
    ],
)
def test_ovis_needs_occlusion(change, message):
    truth, results = broken_truth(change)
    evaluate_vis(truth, results)
    with pytest.raises(DataError, match=message):
        evaluate_vis(truth, results, ovis=True)


def test_ovis_refuses_unequal_lengths():
    truth, results = broken_results(lambda r: r[0]["segmentations"].pop())
    with pytest.raises(DataError, match="entry 0, video 1: has 1 frames, ground truth annotation 0 has 2"):
        evaluate_vis(truth, results, ovis=True)


def test_ovis_without_annotations():
    truth, results = broken_truth(lambda t: t.update(annotations=None))
    assert set(evaluate_vis(truth, results, ovis=True).stats.values()) == {-1.0}


def test_command(tmp_path, capsys):
    case = load("ytvis_case_b")
    truth, results, out = tmp_path / "truth.json", tmp_path / "results.json", tmp_path / "report.json"
    truth.write_text(json.dumps(case["gt"]))
    results.write_text(json.dumps(case["predictions"]))
    assert main(["--ground-truth", str(truth), "--results", str(results), "--json", str(out)]) == 0
    report, expected = json.loads(out.read_text()), case["expected"]["summary"]
    for key in ("AP", "AP50", "AP75", "AR1", "AR10"):
        assert report[key] == pytest.approx(100 * expected[key], abs=100 * TOLERANCE)
    assert report["APl"] is None
    printed = capsys.readouterr()
    assert f"{100 * expected['AP50']:.2f}" in printed.out
    assert "category_id 77" in printed.err

    results.write_text(results.read_text()[:-100])
    assert main(["--ground-truth", str(truth), "--results", str(results)]) == 2
    assert "results.json: is not JSON" in capsys.readouterr().err
    assert main(["--ground-truth", str(tmp_path / "none.json"), "--results", str(results)]) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err


# --- an independent count -----------------------------------------------------------------------------------------


def random_case(rng):
    """(ground truth, results, bool masks by object and by prediction), small enough to count by hand."""
    height, width, frames = 6, 7, int(rng.integers(1, 5))
    videos = [{"id": int(i), "height": height, "width": width, "length": frames} for i in rng.permutation(3) + 1]
    truth = {"videos": videos, "categories": [{"id": 2}, {"id": 1}], "annotations": []}
    results, truth_masks, result_masks = [], [], []

    def masks():
        drawn = np.zeros((frames, height, width), bool)
        for frame in drawn:
            if rng.random() < 0.8:
                y, x = rng.integers(0, 4, 2)
                frame[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
        return drawn

    for id_ in range(1, int(rng.integers(3, 9))):
        drawn = masks()
        truth_masks.append(drawn)
        packed = [coco_mask.encode(np.asfortranarray(frame.astype(np.uint8))) for frame in drawn]
        truth["annotations"].append(
            {"id": id_, "video_id": int(rng.integers(1, 4)), "category_id": int(rng.integers(1, 3))}
            | {"iscrowd": int(rng.random() < 0.2), "areas": [int(rng.choice([0, 9, 16384, 80000])) for _ in drawn]}
            | {"segmentations": packed}
        )
    for _ in range(int(rng.integers(1, 30))):
        source = truth["annotations"][int(rng.integers(len(truth_masks)))]
        drawn = truth_masks[source["id"] - 1] ^ (rng.random((frames, height, width)) < rng.choice([0, 0.1, 0.5]))
        result_masks.append(drawn)
        packed = [coco_mask.encode(np.asfortranarray(frame.astype(np.uint8))) for frame in drawn]
        packed = [
            mask if frame.any() or rng.random() < 0.5 else None for mask, frame in zip(packed, drawn, strict=True)
        ]
        results.append(
            {
                "video_id": source["video_id"],
                "category_id": int(rng.integers(1, 3)) if rng.random() < 0.2 else source["category_id"],
                "score": float(rng.integers(1, 6)) / 5,
                "segmentations": packed,
            }
        )
    return truth, results, truth_masks, result_masks


def average_precision_by_hand(truth, results, truth_masks, result_masks, low, high):
    """(AP, AR100) within one area range, from bool masks, one definition after the other."""
    precisions, recalls = [], []
    for category in (1, 2):
        objects = [a for a in truth["annotations"] if a["category_id"] == category]
        for a in objects:
            areas = [area for area in a["areas"] if area]
            a["ignored"] = a["iscrowd"] or not low <= (sum(areas) / len(areas) if areas else 0) <= high
        total = sum(not a["ignored"] for a in objects)
        if not total:
            continue
        found = [i for i, r in enumerate(results) if r["category_id"] == category]
        found.sort(key=lambda i: (-results[i]["score"], results[i]["video_id"], i))
        for threshold in np.linspace(0.5, 0.95, 10):
            verdicts, free = [], {a["id"] for a in objects}
            for i in found:
                here = [a for a in objects if a["video_id"] == results[i]["video_id"]]
                candidates = []
                for place, a in enumerate(here):
                    inter = (truth_masks[a["id"] - 1] & result_masks[i]).sum()
                    union = (truth_masks[a["id"] - 1] | result_masks[i]).sum()
                    if (a["id"] in free or a["iscrowd"]) and union and inter / union >= threshold:
                        candidates.append((not a["ignored"], inter / union, place, a))
                if candidates:
                    chosen = max(candidates, key=lambda c: c[:3])[3]
                    free.discard(chosen["id"])
                    if not chosen["ignored"]:
                        verdicts.append(True)
                else:
                    areas = [frame.sum() for frame in result_masks[i] if frame.any()]
                    if low <= (sum(areas) / len(areas) if areas else 0) <= high:
                        verdicts.append(False)
            hits = np.cumsum(verdicts)
            curve = [(hits[k] / total, hits[k] / (k + 1)) for k in range(len(verdicts))]
            points = np.linspace(0, 1, 101)
            precisions.append(np.mean([max([p for r, p in curve if r >= point], default=0) for point in points]))
            recalls.append(hits[-1] / total if len(hits) else 0)
    return (np.mean(precisions), np.mean(recalls)) if precisions else (-1, -1)


@pytest.mark.parametrize("seed", range(40))
def test_equals_counting_pixels_by_hand(seed):
    case = random_case(np.random.default_rng(seed))
    stats = evaluate_vis(*case[:2]).stats
    for (low, high), names in {
        (0, 1e10): ("AP", "AR100"),
        (0, 128**2): ("APs", "ARs"),
        (128**2, 256**2): ("APm", "ARm"),
        (256**2, 1e10): ("APl", "ARl"),
    }.items():
        expected = average_precision_by_hand(*copy.deepcopy(case), low, high)
        assert (stats[names[0]], stats[names[1]]) == pytest.approx(expected, abs=TOLERANCE), names
