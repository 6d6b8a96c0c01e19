"""VPQ and STQ against the official evaluators' recorded answers and against counting pixels by hand."""

import itertools
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from l2g.cli.learning import stq, vpq
from l2g.errors import DataError
from l2g.metrics.stq import evaluate_stq
from l2g.metrics.vpq import evaluate_vpq
from tests.metrics.fixtures import PANOPTIC_CASES, load, panoptic, quirks

TOLERANCE = 1e-9
CASES = Path(__file__).parents[1] / "assets" / "cases" / "datasets"


def assert_official_vpq(report, expected):
    for length, window in expected["per_window"].items():
        found = report.windows[int(length)]
        assert found.vpq == pytest.approx(window["VPQ"], abs=TOLERANCE)
        assert found.vpq_thing == pytest.approx(window["VPQ_thing"], abs=TOLERANCE)
        assert found.vpq_stuff == pytest.approx(window["VPQ_stuff"], abs=TOLERANCE)
        assert found.sq == pytest.approx(window["SQ"], abs=TOLERANCE)
        assert found.rq == pytest.approx(window["RQ"], abs=TOLERANCE)
        for id_, counts in window["per_class"].items():
            quality = found.per_category[int(id_)]
            assert (quality.tp, quality.fp, quality.fn) == (counts["tp"], counts["fp"], counts["fn"])
            for name in ("iou", "pq", "sq", "rq"):
                assert getattr(quality, name) == pytest.approx(counts[name], abs=TOLERANCE)
    for lengths, key in (("1_2_4_6", "mean_1_2_4_6"), ("1_2_4_6_8", "mean_1_2_4_6_8_as_in_vpq-final.txt")):
        for name, value in expected[key].items():
            assert report.means()[f"{name}_{lengths}"] == pytest.approx(value, abs=TOLERANCE)


def assert_official_stq(report, expected):
    total, videos = report.total, report.per_video.values()
    assert (total.stq, total.aq, total.sq) == pytest.approx(
        (expected["STQ"], expected["AQ"], expected["IoU_SQ"]), abs=TOLERANCE
    )
    assert [video.stq for video in videos] == pytest.approx(expected["STQ_per_seq"], abs=TOLERANCE)
    assert [video.aq for video in videos] == pytest.approx(expected["AQ_per_seq"], abs=TOLERANCE)
    assert [video.sq for video in videos] == pytest.approx(expected["IoU_per_seq"], abs=TOLERANCE)
    assert [video.frames for video in videos] == expected["Length_per_seq"]


@pytest.mark.parametrize("name", PANOPTIC_CASES)
def test_official_answers(name):
    case = load(name)
    inputs = panoptic(case, name)
    assert_official_vpq(evaluate_vpq(*inputs), case["expected"]["vpq"])
    assert_official_stq(evaluate_stq(*inputs), case["expected"]["stq"])


@pytest.mark.parametrize("case", quirks("pan_quirks", failing=False), ids=lambda case: case["name"])
def test_official_quirks(case):
    inputs = panoptic(case)
    assert_official_vpq(evaluate_vpq(*inputs), case["expected"]["vpq"])
    assert_official_stq(evaluate_stq(*inputs), case["expected"]["stq"])


# Where the official evaluator divides by zero for lack of things, the number is undefined and the others are not.
NO_THING = "error_vpq_no_thing_anywhere_divides_by_zero"
FAILING = quirks("pan_quirks", failing=True)


@pytest.mark.parametrize("case", [c for c in FAILING if c["name"] != NO_THING], ids=lambda case: case["name"])
def test_official_failures_are_data_errors(case):
    messages = {
        "error_vpq_json_segment_absent_from_map": "results, video 'v', frame 0: segment 77 is in segments_info but not",
        "error_vpq_map_segment_absent_from_json": "results, video 'v', frame 0: segment 31 is in the map but not in",
    }
    with pytest.raises(DataError, match=messages[case["name"]]):
        evaluate_vpq(*panoptic(case))


@pytest.mark.parametrize("changing", ["annotated", "predicted"])
def test_category_of_a_tube_is_that_of_its_first_frame(changing):
    def side(categories):
        frames = [[{"id": 1, "category_id": 1}, {"id": 2, "category_id": category}] for category in categories]
        frames = [[s | {"area": 8, "iscrowd": 0} for s in segments] for segments in frames]
        annotations = [{"video_id": "v", "annotations": [{"segments_info": segments} for segments in frames]}]
        return {"categories": [{"id": i, "isthing": int(i > 1)} for i in (1, 3, 4)], "annotations": annotations}

    sides = [side((3, 4)), side((3, 3))][:: 1 if changing == "annotated" else -1]
    maps = {"v": np.repeat([[[1, 1, 2, 2]] * 4], 2, axis=0)}
    single, double = evaluate_vpq(sides[0], maps, sides[1], maps, windows=(1, 2)).windows.values()
    assert single.vpq_thing == pytest.approx(100 * (1 / 1.5 + 0) / 2)  # frame 1 is a miss of one and a false other
    assert double.vpq_thing == 100.0


def test_no_thing_anywhere():
    (case,) = (c for c in FAILING if c["name"] == NO_THING)
    report = evaluate_vpq(*panoptic(case), windows=(1, 2))
    for window in report.windows.values():
        assert window.vpq_thing is None
        assert window.vpq == window.vpq_stuff
    assert report.means()["VPQ_thing_1_2"] is None
    assert report.means()["VPQ_1_2"] == report.means()["VPQ_stuff_1_2"] is not None
    assert "have a segment of a thing" in report.notes[-1]


def test_windows_longer_than_every_video():
    case = load("vpq_case_perfect")  # videos of 8 and 9 frames
    report = evaluate_vpq(*panoptic(case, "vpq_case_perfect"), windows=(1, 10))
    assert (report.windows[1].vpq, report.windows[10].vpq, report.windows[10].sq) == (100.0, None, None)
    assert report.means()["VPQ_1_10"] is None
    assert report.means()["VPQ_1"] == 100.0  # of what fits
    assert "no video has 10 frames" in report.notes[0]


def test_things_only(capsys, tmp_path):
    """No stuff at all: worked out by hand, two cars and persons found in all of three frames."""
    case = CASES / "panoptic_things_only"
    files = ["--ground-truth", str(case / "gt.json"), "--ground-truth-maps", str(case / "gt")]
    assert vpq.main([*files, "--results", str(case / "res"), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["VPQ_1_2"], found["VPQ_thing_1_2"], found["VPQ_stuff_1_2"]) == (100.0, 100.0, None)
    assert (found["windows"]["1"]["VPQ_stuff"], found["windows"]["4"]["VPQ"]) == (None, None)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["1", "100.00", "100.00", "n/a"]
    assert "segment of stuff, so its VPQ is undefined" in printed.err


def test_stuff_that_is_never_drawn():
    truth = json.loads((CASES / "panoptic_things_only" / "gt.json").read_text())
    truth["categories"].append({"id": 3, "name": "sky", "isthing": 0})
    case = CASES / "panoptic_things_only"
    report = evaluate_vpq(truth, case / "gt", case / "res" / "pred.json", case / "res" / "pan_pred", windows=(1,))
    assert (report.windows[1].vpq, report.windows[1].vpq_stuff) == (100.0, None)


# What is drawn in truth and prediction (the left half is a thing, the right half stuff, the rest void), and VPQ of all,
# of things and of stuff by counting: a class that is neither annotated nor counted against anybody has none.
DRAWN = [
    ("both", "both", (100, 100, 100)),
    ("both", "things", (50, 100, 0)),
    ("both", "stuff", (50, 0, 100)),
    ("both", "nothing", (0, 0, 0)),
    ("things", "things", (100, 100, None)),
    ("things", "both", (100, 100, None)),  # on void nothing is wrong
    ("things", "stuff", (0, 0, None)),
    ("things", "nothing", (0, 0, None)),
    ("stuff", "stuff", (100, None, 100)),
    ("stuff", "both", (100, None, 100)),
    ("stuff", "things", (0, None, 0)),
    ("stuff", "nothing", (0, None, 0)),
]


@pytest.mark.parametrize("listed", ["both", "what is drawn"])
@pytest.mark.parametrize(("truth", "found", "expected"), DRAWN)
def test_things_and_stuff_that_lack(listed, truth, found, expected):
    kinds = {"both": (11, 21), "things": (11,), "stuff": (21,), "nothing": ()}
    drawn = {11, 21} if listed == "both" else {*kinds[truth], *kinds[found]}
    classes = [{"id": n // 10, "name": f"class {n}", "isthing": int(n == 11)} for n in sorted(drawn)]
    videos = [{"video_id": "v", "images": [{"id": str(t), "file_name": f"{t}.png"} for t in range(3)]}]

    def side(segments):
        ids = np.zeros((3, 4, 8), np.int64)
        for n in segments:
            ids[..., :4] = n if n == 11 else ids[..., :4]
            ids[..., 4:] = n if n == 21 else ids[..., 4:]
        info = [{"id": n, "category_id": n // 10, "iscrowd": 0, "area": 16} for n in segments]
        frames = [{"file_name": f"{t}.png", "segments_info": info} for t in range(3)]
        return [{"video_id": "v", "annotations": frames}], {"v": ids}

    marks, maps = side(kinds[truth])
    answers, answer_maps = side(kinds[found])
    gt = {"categories": classes, "videos": videos, "annotations": marks}
    report = evaluate_vpq(gt, maps, {"annotations": answers}, answer_maps, windows=(1, 2)).windows[1]
    scores = report.vpq, report.vpq_thing, report.vpq_stuff
    assert scores == pytest.approx(expected)


def test_first_listed_thing_is_noted():
    name = "stq_first_listed_gt_thing_is_treated_as_crowd"
    case = next(case for case in quirks("pan_quirks", failing=False) if case["name"] == name)
    (note,) = evaluate_stq(*panoptic(case)).notes
    assert "video 'v'" in note
    assert "thing 21" in note


# --- files --------------------------------------------------------------------------------------------------------


def write_maps(folder, maps, annotations):
    for entry in annotations:
        video = folder / str(entry["video_id"])
        video.mkdir(parents=True)
        for frame, ids in zip(entry["annotations"], maps[entry["video_id"]], strict=True):
            red, green, blue = ids & 255, ids >> 8 & 255, ids >> 16
            cv2.imwrite(str(video / frame["file_name"]), np.stack([blue, green, red], axis=-1).astype(np.uint8))


@pytest.fixture
def layout(tmp_path):
    """Arguments of the commands for one case written in the official layout."""
    case = load("vpq_case_b")
    truth, truth_maps, results, result_maps = panoptic(case, "vpq_case_b")
    write_maps(tmp_path / "masks", truth_maps, truth["annotations"])
    write_maps(tmp_path / "submit" / "pan_pred", result_maps, results["annotations"])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "submit" / "pred.json").write_text(json.dumps(results))
    arguments = ["--ground-truth", str(tmp_path / "truth.json"), "--ground-truth-maps", str(tmp_path / "masks")]
    return tmp_path, [*arguments, "--results", str(tmp_path / "submit")], case["expected"]


def test_commands_read_the_official_layout(layout, capsys):
    folder, arguments, expected = layout
    out = folder / "report.json"
    assert vpq.main([*arguments, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["VPQ_1_2_4_6"] == pytest.approx(expected["vpq"]["mean_1_2_4_6"]["VPQ"], abs=TOLERANCE)
    window = expected["vpq"]["per_window"]["4"]
    assert report["windows"]["4"]["VPQ_thing"] == pytest.approx(window["VPQ_thing"], abs=TOLERANCE)
    assert f"{window['VPQ']:.2f}" in capsys.readouterr().out

    assert stq.main([*arguments, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["STQ"] == pytest.approx(100 * expected["stq"]["STQ"], abs=100 * TOLERANCE)
    assert f"{100 * expected['stq']['STQ']:.2f}" in capsys.readouterr().out

    assert vpq.main([*arguments, "--windows", "1", "3"]) == 0
    assert "mean 1,3" in capsys.readouterr().out


def test_broken_files_are_named(layout, capsys):
    folder, arguments, _ = layout
    video = next((folder / "submit" / "pan_pred").iterdir())
    frames = sorted(video.iterdir())
    whole = frames[0].read_bytes()

    def message():
        assert stq.main(arguments) == 2
        assert vpq.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == lines[1]
        assert f"video '{video.name}', frame 0" in lines[0]
        return lines[0]

    frames[0].write_bytes(whole[:50])
    assert "cannot be decoded" in message()
    cv2.imwrite(str(frames[0]), np.zeros((72, 128), np.uint8))
    assert "expected 8-bit RGB" in message()
    cv2.imwrite(str(frames[0]), np.zeros((36, 64, 3), np.uint8))
    assert "[36, 64], that of the ground truth [72, 128]" in message()
    frames[0].unlink()
    assert "there is no" in message()

    (folder / "submit" / "pred.json").unlink()
    assert vpq.main(arguments) == 2
    assert "expected a folder that holds pred.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: r["annotations"].pop(), "video '3_vid[0-9]+' is missing"),
        (lambda t, r: r["annotations"].append(r["annotations"][0]), "video '0_vid01': is there twice"),
        (lambda t, r: r["annotations"][0]["annotations"].pop(), "video '0_vid01': has 7 frames, the ground truth 8"),
        (lambda t, r: segments(r).append(segments(r)[0]), "frame 2: segment [0-9]+ is listed 2 times"),
        (lambda t, r: segments(r)[0].update(category_id=77), "frame 2, segment [0-9]+: category 77"),
        (lambda t, r: segments(r)[0].update(id="7"), "results, video '0_vid01', frame 2, a segment: 'id' is '7'"),
        (lambda t, r: r["annotations"][0]["annotations"][2].pop("segments_info"), "frame 2: has no 'segments_info'"),
        (lambda t, r: t["categories"][0].pop("isthing"), "ground truth category 0: has no 'isthing'"),
        (lambda t, r: segments(t)[0].update(category_id=77), "ground truth, .* frame 2, segment [0-9]+: category 77"),
        (lambda t, r: segments(t)[0].pop("area"), "ground truth, .* frame 2, segment [0-9]+: has no 'area'"),
        (lambda t, r: segments(t)[0].pop("iscrowd"), "ground truth, .* frame 2, segment [0-9]+: has no 'iscrowd'"),
        (lambda t, r: t.update(annotations=[]), "ground truth: 'annotations' is empty"),
        (lambda t, r: r.update(videos=2.5), "results: 'videos' is float, expected a list"),
        (lambda t, r: r.update(videos=[7]), "results, video 0 of 'videos': 7 found"),
        (lambda t, r: r.update(videos=[{"video_id": ["a"]}]), r"results, video 0 of 'videos': .*\['a'\].* found"),
        (lambda t, r: r.update(videos=[{"video_id": "a", "images": 2.5}]), "'images' is float, expected a list"),
        (lambda t, r: t["annotations"][0]["annotations"][2].update(file_name=7), "frame 2: 'file_name' is 7"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    truth, truth_maps, results, result_maps = panoptic(load("vpq_case_a"), "vpq_case_a")
    change(truth, results)
    with pytest.raises(DataError, match=message):
        evaluate_vpq(truth, truth_maps, results, result_maps)


def segments(side):
    return side["annotations"][0]["annotations"][2]["segments_info"]


def test_missing_maps_are_named():
    truth, truth_maps, results, result_maps = panoptic(load("vpq_case_a"), "vpq_case_a")
    short = result_maps | {"0_vid01": result_maps["0_vid01"][:5]}
    with pytest.raises(DataError, match="results, video '0_vid01', frame 0: found 5 maps of its video, expected 8"):
        evaluate_stq(truth, truth_maps, results, short)


# --- an independent count -----------------------------------------------------------------------------------------

THINGS = {1: False, 2: False, 3: True, 4: True}


def random_case(rng):
    """A case as `panoptic` gives it, of two tiny videos; most of the predicted pixels equal the annotated ones.

    Ids 1 (stuff) and 2 (thing) are in every first frame and no crowds, so that both groups are scored.
    """
    truth = {"categories": [{"id": id_, "isthing": int(thing)} for id_, thing in THINGS.items()], "annotations": []}
    results, truth_maps, result_maps = {"annotations": []}, {}, {}
    for video_id in ("b", "a"):
        blocks = rng.integers(0, 6, (int(rng.integers(2, 6)), 2, 3))
        blocks[0] = rng.permutation(6).reshape(2, 3)
        annotated = np.kron(blocks, np.ones((1, 3, 2), int))
        kept = rng.random(annotated.shape) < rng.choice([0.7, 0.9])
        predicted = np.where(kept, annotated, rng.integers(0, 6, annotated.shape))
        truth_maps[video_id], result_maps[video_id] = annotated, predicted * 1000
        category = {1: 1, 2: 3} | {id_: int(rng.integers(1, 5)) for id_ in (3, 4, 5)}
        crowd = {1: 0, 2: 0} | {id_: int(rng.random() < 0.4) for id_ in (3, 4, 5)}
        truth["annotations"].append(listed(rng, video_id, annotated, category, crowd))
        category = {id_ * 1000: int(rng.integers(1, 5)) if rng.random() < 0.2 else c for id_, c in category.items()}
        results["annotations"].append(listed(rng, video_id, predicted * 1000, category, dict.fromkeys(category, 0)))
    return truth, truth_maps, results, result_maps


def listed(rng, video_id, maps, category, crowd):
    """One video's annotations, segments in random order."""
    frames = [
        [
            {"id": int(i), "category_id": category[i], "iscrowd": crowd[i], "area": int((frame == i).sum())}
            for i in rng.permutation(np.unique(frame))
            if i
        ]
        for frame in maps
    ]
    return {"video_id": video_id, "annotations": [{"segments_info": segments} for segments in frames]}


def categories_of(side, video):
    """id -> (category, crowd) of one video; in these cases they do not change."""
    listed = [s for frame in side["annotations"][video]["annotations"] for s in frame["segments_info"]]
    return {s["id"]: (s["category_id"], s["iscrowd"]) for s in listed}


def vpq_by_hand(truth, truth_maps, results, result_maps, length):
    """VPQ of one window length in percent over all categories, from bool volumes."""
    iou, tp, weight = dict.fromkeys(THINGS, 0.0), dict.fromkeys(THINGS, 0), dict.fromkeys(THINGS, 0.0)
    for video, video_id in enumerate(("b", "a")):
        truths, predictions = categories_of(truth, video), categories_of(results, video)
        for start in range(len(truth_maps[video_id]) - length + 1):
            annotated, predicted = (maps[video_id][start : start + length] for maps in (truth_maps, result_maps))
            ids, predicted_ids = set(np.unique(annotated)) - {0}, set(np.unique(predicted)) - {0}
            for g, p in itertools.product(sorted(ids), sorted(predicted_ids)):
                if truths[g][0] != predictions[p][0] or truths[g][1]:
                    continue
                inter = ((annotated == g) & (predicted == p)).sum()
                union = ((annotated == g) | ((predicted == p) & (annotated != 0))).sum()
                if inter / union > 0.5:
                    iou[truths[g][0]] += inter / union
                    tp[truths[g][0]] += 1
                    weight[truths[g][0]] += 1
                    ids.discard(g)
                    predicted_ids.discard(p)
            for g in ids:
                weight[truths[g][0]] += 0 if truths[g][1] else 0.5
            for p in predicted_ids:
                excused = (annotated == 0) & (predicted == p)
                order = [s["id"] for f in truth["annotations"][video]["annotations"][start : start + length]
                         for s in f["segments_info"]]  # fmt: skip
                crowds = [g for g in dict.fromkeys(order) if truths[g] == (predictions[p][0], 1)]
                for g in crowds[-1:]:
                    excused |= (annotated == g) & (predicted == p)
                weight[predictions[p][0]] += 0 if excused.sum() / (predicted == p).sum() > 0.5 else 0.5
    scores = [iou[id_] / weight[id_] for id_ in THINGS if weight[id_]]
    return 100 * sum(scores) / len(scores)


def stq_by_hand(truth, truth_maps, results, result_maps):
    """(AQ, SQ) from maps of categories and of tubes."""
    annotated_classes, predicted_classes, terms = [], [], []
    for video, video_id in enumerate(("b", "a")):
        truths, predictions = categories_of(truth, video), categories_of(results, video)
        annotated, predicted = truth_maps[video_id], result_maps[video_id]
        annotated_classes += [truths[id_][0] if id_ else 0 for id_ in annotated.ravel()]
        predicted_classes += [predictions[id_][0] if id_ else 0 for id_ in predicted.ravel()]
        first = truth["annotations"][video]["annotations"][0]["segments_info"][0]["id"]
        crowd = (annotated == first) & THINGS[truths[first][0]]
        for g in set(np.unique(annotated)) - {0}:
            if not THINGS[truths[g][0]] or g == first:
                continue
            parts = []
            for p in set(np.unique(predicted)) - {0}:
                if THINGS[predictions[p][0]]:
                    both = ((annotated == g) & (predicted == p)).sum()
                    union = ((annotated == g) | ((predicted == p) & ~crowd)).sum()
                    parts.append(both * both / union)
            terms.append(sum(parts) / (annotated == g).sum())
    a, p = np.array(annotated_classes), np.array(predicted_classes)
    a, p = a[a > 0], p[a > 0]
    ious = [((a == c) & (p == c)).sum() / ((a == c) | (p == c)).sum() for c in range(5) if ((a == c) | (p == c)).any()]
    return (sum(terms) / len(terms) if terms else 0.0), sum(ious) / len(ious)


@pytest.mark.parametrize("seed", range(30))
def test_equals_counting_pixels_by_hand(seed):
    case = random_case(np.random.default_rng(seed))
    report = evaluate_stq(*case)
    aq, sq = stq_by_hand(*case)
    assert (report.total.aq, report.total.sq) == pytest.approx((aq, sq), abs=TOLERANCE)
    assert report.total.stq == pytest.approx(math.sqrt(aq * sq), abs=TOLERANCE)
    for length, quality in evaluate_vpq(*case, windows=(1, 2)).windows.items():
        assert quality.vpq == pytest.approx(vpq_by_hand(*case, length), abs=TOLERANCE)
