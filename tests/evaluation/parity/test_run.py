"""Two backends over a data set: what a fault of the candidate looks like in the teacher-forced and the free run."""

import dataclasses
import json
import math

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.errors import ContractError, DataError, L2GError
from l2g.evaluation.parity.page import render_page
from l2g.evaluation.parity.report import Tolerances
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.evaluation.run import evaluate_backend
from l2g.provenance import BuildFacts
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import RawOutputs
from tests.evaluation.swapping import BlankAndSwapping, BlankAndSwappingUnseen, Elsewhere, Swapping
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import SLOTS, BlobBackend

ORDER = np.array([2, 5, 0, 1, 4, 3])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(write_blob_dataset(tmp_path_factory.mktemp("blobs")), "valid")


class Carrying(BlobBackend):
    """Slot i goes on with what the prior's slot i was; a first frame's slots come in `order`. As a real model does."""

    order = np.arange(SLOTS)

    def step(self, frames, reset):
        identities = np.tile(self.order, (len(frames), 1))
        rows = np.arange(len(frames))[:, None]
        if self.state is not None:
            running = self.state.valid & ~np.asarray(reset)
            identities[running] = self.state.tensors["prior_queries"][running, :, :SLOTS].argmax(2)
            by_color = identities.argsort(1)
            queries, boxes = (self.state.tensors[name][rows, by_color] for name in ("prior_queries", "prior_boxes"))
            self.state = HostState({"prior_queries": queries, "prior_boxes": boxes}, self.state.valid)
        raw = super().step(frames, reset)
        raw = RawOutputs(**{name: array[rows, identities] for name, array in vars(raw).items()})
        tensors = {"prior_queries": raw.queries.copy(), "prior_boxes": raw.boxes.copy()}
        self.state = HostState(tensors, self.state.valid)
        return raw


class Shuffled(Carrying):
    """Equal but for the order of the first frame's slots, which near-ties decide."""

    order = ORDER


class Drifting(BlobBackend):
    """Right from any state that it is given, but what it keeps for itself goes bad: its objects fade and move."""

    kept = 0

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        bad = self.kept >= 2
        self.kept += 1
        masks = np.roll(raw.mask_logits, 8, axis=3) if bad else raw.mask_logits
        return dataclasses.replace(raw, mask_logits=masks)

    def write_state(self, state):
        self.kept = 0
        super().write_state(state)


class Forgetful(BlobBackend):
    """Sees what it should from any state that it is given, but hands on a state without its history."""

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        raw.queries[:, :, SLOTS + 1] = 0
        self.state.tensors["prior_queries"][:, :, SLOTS + 1] = 0
        return raw


class Offset(BlobBackend):
    """Mask logits off by 0.01 in every frame."""

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        return dataclasses.replace(raw, mask_logits=raw.mask_logits + np.float32(0.01))


class Stumbling(BlobBackend):
    """Mask logits off by 1 in its 71st step."""

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        return dataclasses.replace(raw, mask_logits=raw.mask_logits + np.float32(self.steps == 71))


class Poisoned(BlobBackend):
    """NaN in the fourth frame that it steps."""

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        if self.steps == 4:
            raw.logits[0, 0, 0] = np.nan
        return raw


def compare(candidate, dataset, reference=BlobBackend, **settings):
    tolerances = settings.pop("tolerances", None)
    return run_parity(
        reference(),
        candidate(),
        candidate(),
        dataset,
        options=ParityOptions(**settings),
        tolerances=tolerances,
        progress=False,
    )


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_a_backend_equals_itself(dataset, streams):
    report = compare(BlobBackend, dataset, streams=streams)
    assert report.passed
    assert report.findings == ()
    assert [len(video.free) for video in report.videos] == [6, 4, 7]
    assert all(d.mask_logits.max == 0 and d.mask_iou == 1 for video in report.videos for d in video.free)
    assert report.first_divergence("forced") is None
    assert report.first_divergence("free") is None
    assert all(quarter["identity"] == 100 for quarter in report.drift())


def test_ap_is_that_of_evaluation_and_is_worth_something(dataset):
    report = compare(BlobBackend, dataset)
    expected = evaluate_backend(BlobBackend(), dataset, progress=False).report
    assert report.ap_reference["AP"] == report.ap_candidate["AP"] == 100 * expected.stats["AP"]
    assert report.ap_reference["AP"] > 50


def test_slots_in_another_order_are_the_same_and_stay_so(dataset):
    report = compare(Shuffled, dataset, reference=Carrying)
    assert report.passed, report.table()
    assert all(d.queries.max == 0 for video in report.videos for d in (*video.free, *video.forced))
    assert report.ap_candidate == report.ap_reference


def test_slots_that_trade_their_objects_are_no_lost_identities_but_other_numbers(dataset):
    """Identities follow their objects through a trade; from the same state, every slot has to stay what it is."""
    report = compare(Swapping, dataset, streams=8)
    assert not report.passed
    # The first three steps are the first three frames of all three videos.
    assert [report.diverged(video, "forced") for video in report.videos] == [3, 3, 3]
    assert [report.diverged(video, "free") for video in report.videos] == [None, None, None]
    assert report.ap_candidate == report.ap_reference


def test_the_free_run_keeps_the_first_frames_order_and_looks_for_no_better_one(dataset):
    """Slots that have changed places behind a blank frame, and look as they did, are identities lost, however alike
    the frames are."""
    report = compare(BlankAndSwappingUnseen, dataset, streams=8)
    assert not report.passed
    assert [report.diverged(video, "free") for video in report.videos] == [3, 3, 3]
    identity = next(check for check in report.checks if check.name.startswith("identity"))
    counting = [[d.counting for d in video.free] for video in report.videos]
    lost = sum(sum(video[3:4]) + 2 * len(video[4:]) for video in counting)
    assert identity.value == pytest.approx(100 * (1 - lost / sum(map(sum, counting))))
    assert report.ap_candidate["AP"] < report.ap_reference["AP"]


def test_slots_that_have_changed_places_unseen_are_known_by_their_looks(dataset):
    """Only the blank frame is lost."""
    report = compare(BlankAndSwapping, dataset, streams=8)
    assert all([d.counting == d.agreeing for d in video.free].count(False) == 1 for video in report.videos)
    assert all(video.free[3].agreeing == 0 for video in report.videos)


def test_an_object_that_comes_in_later_may_take_another_slot(dataset):
    report = compare(Elsewhere, dataset, streams=8)
    assert [report.diverged(video, "forced") for video in report.videos] == [1, 1, 1]
    assert [report.diverged(video, "free") for video in report.videos] == [None, None, None]
    # Three objects agree from the frame on in which the blue one comes in; its numbers are those of one name.
    assert [d.agreeing for d in report.videos[0].free] == [2, 2, 2, 3, 3, 3]
    assert [d.logits.max for d in report.videos[0].free[3:]] == [0, 0, 0]
    assert report.ap_candidate == report.ap_reference


def test_drift_shows_in_the_free_run_only(tmp_path):
    # Of one length: as streams leave, a session writes the state anew, and this drift would be healed.
    dataset = load_dataset(write_blob_dataset(tmp_path, (8, 8, 8)), "valid")
    report = compare(Drifting, dataset, streams=8)
    assert not report.passed
    assert report.first_divergence("forced") is None
    assert report.first_divergence("free").frame == 2
    assert report.findings == (
        "every frame agrees from the same state, but the free run drifts: small errors add up over frames "
        "(benchmarks/state.py --only nudged tells how much of that the model does by itself)",
    )
    first, *_, last = report.drift()
    assert first["mask_iou"] == 1
    assert last["mask_iou"] < 0.8
    assert {check.name: check.passed for check in report.checks} == {
        "AP difference, percent points": False,
        "teacher-forced mask logits after the first frame": True,
        "first-frame mask logits of the typical slot": True,
        "identity agreement of the free run, percent": False,
        "frames with NaN or infinity": True,
    }
    # The worst frames are of the bad part, each with a picture.
    assert len(report.worst) == 6
    assert all(frame.frame >= 2 and frame.png.startswith(b"\x89PNG") for frame in report.worst)
    assert [frame.severity for frame in report.worst] == sorted((f.severity for f in report.worst), reverse=True)


def test_the_teacher_is_the_reference(dataset):
    """A state that goes wrong shows in the class scores of the free run, and in none of the teacher-forced."""
    report = compare(Forgetful, dataset)
    for video in report.videos:
        assert all(d.logits.max == 0 and d.queries.max > 0 for d in video.forced)
        assert video.free[0].logits.max == 0
        assert all(d.logits.max > 0 for d in video.free[1:])


def test_an_error_of_the_kernels_shows_in_every_frame(dataset):
    report = compare(Offset, dataset)
    mask = next(check for check in report.checks if check.name.startswith("teacher-forced"))
    assert mask.value == pytest.approx(0.01, rel=1e-3)
    assert not mask.passed
    assert report.first_divergence("forced").frame == 0
    assert "first and later frames differ" in report.findings[0]
    loose = compare(Offset, dataset, tolerances=Tolerances(mask_logits=0.02))
    assert loose.passed, loose.table()


def of_precision(backend, precision):
    def make():
        made = backend()
        made.contract = dataclasses.replace(made.contract, build=BuildFacts(precision=precision))
        return made

    return make


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "int8"])
def test_a_reduced_precision_is_judged_by_what_it_costs(dataset, precision):
    """Mask logits that differ while every object and AP stay are no failure there, and are shown."""
    report = compare(of_precision(Offset, precision), dataset)
    assert report.passed, report.table()
    assert report.limits.precision == precision
    checks = {check.name: check for check in report.checks}
    mask = checks["teacher-forced mask logits after the first frame"]
    assert (mask.limit, mask.mark) == (None, "info")
    assert mask.value == pytest.approx(0.01, rel=1e-3)
    assert checks["AP loss, percent points"].limit == {"fp16": 0.2, "bf16": 0.2, "tf32": 0.2, "int8": 0.5}[precision]
    assert checks["identity agreement of the free run, percent"].limit == 95
    table = report.table()
    assert f"limits for {precision.upper()}: what it may cost" in table
    assert "teacher-forced: not judged" in table
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["precision"] == precision
    assert written["tolerances"]["mask_logits"] is None


@pytest.mark.parametrize("precision", ["fp32", None])
def test_fp32_and_what_is_unknown_is_held_to_rounding(dataset, precision):
    report = compare(of_precision(Offset, precision), dataset)
    assert not report.passed
    assert report.to_json()["tolerances"] == {"ap": 0.02, "mask_logits": 1e-3, "identity": 99.9}
    assert "limits for FP32: the same arithmetic" in report.table()


def test_a_limit_that_is_asked_for_goes_before_the_precisions(dataset):
    tolerances = Tolerances(mask_logits=0.005)
    report = compare(of_precision(Offset, "fp16"), dataset, tolerances=tolerances)
    assert not report.passed
    assert report.first_divergence("forced").frame == 0
    assert report.to_json()["tolerances"] == {"ap": 0.2, "mask_logits": 0.005, "identity": 95}
    assert "asked for: mask_logits 0.005" in report.table()


@pytest.mark.parametrize("limit", [0.0, float("inf")])
def test_every_limit_can_be_drawn_and_written(dataset, limit):
    report = compare(BlobBackend, dataset, tolerances=Tolerances(mask_logits=limit))
    assert report.passed
    assert "<svg" in render_page(report)
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["tolerances"]["mask_logits"] == (0 if limit == 0 else None)


@pytest.mark.parametrize(("asked", "options"), [("vpq", {}), ("segments", {}), ("ap", {"ap": False})])
def test_a_limit_of_what_is_not_compared_is_refused(dataset, asked, options):
    with pytest.raises(L2GError, match=f"tolerance of {asked} given, but judged are"):
        compare(BlobBackend, dataset, tolerances=Tolerances(**{asked: 5.0}), **options)


def test_a_reduced_precision_that_loses_identities_fails(tmp_path):
    dataset = load_dataset(write_blob_dataset(tmp_path, (8, 8, 8)), "valid")
    report = compare(of_precision(Drifting, "int8"), dataset, streams=8)
    assert not report.passed
    failed = [check.name for check in report.checks if not check.passed]
    assert "identity agreement of the free run, percent" in failed
    assert "compare the FP32 file" in report.findings[0]


def test_a_reduced_precision_may_gain_ap_and_fp32_may_not(dataset):
    def ap_check(precision, change):
        report = compare(of_precision(BlobBackend, precision), dataset)
        report = dataclasses.replace(report, ap_candidate={"AP": report.ap_reference["AP"] + change})
        return next(check for check in report.checks if check.name.startswith("AP"))

    for precision, change, passed in [
        ("fp16", 0.6, True),
        ("fp16", -0.19, True),
        ("fp16", -0.21, False),
        ("int8", -0.49, True),
        ("int8", -0.51, False),
        ("fp32", 0.03, False),
        ("fp32", -0.03, False),
        ("fp32", 0.01, True),
    ]:
        assert ap_check(precision, change).passed == passed, (precision, change)
    assert ap_check("fp16", -0.3).value == pytest.approx(0.3)


@pytest.mark.parametrize(("length", "rare"), [(101, True), (80, False)])
def test_a_single_frame_among_many_is_a_tie_and_not_the_state(tmp_path, length, rare):
    dataset = load_dataset(write_blob_dataset(tmp_path, (length,)), "valid")
    report = compare(Stumbling, dataset, ap=False, pictures=0)
    mask = next(check for check in report.checks if check.name.startswith("teacher-forced"))
    assert (mask.passed, mask.detail) == (False, f"1 of {length - 1} frames beyond")
    assert report.first_divergence("forced").frame == 70
    assert ("a decision on equal numbers fell otherwise" in report.findings[0]) == rare


def test_nan_fails_and_is_placed(dataset):
    report = compare(Poisoned, dataset, streams=1)
    assert not report.passed
    assert report.first_divergence("free").frame == 3
    finite = next(check for check in report.checks if check.name == "frames with NaN or infinity")
    assert finite.value == 2  # one of each run
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["videos"][0]["forced"]["logits_max"][3] is None


def test_an_image_model_is_compared_frame_by_frame(dataset):
    def image_model():
        return BlobBackend(association="embedding")

    report = compare(image_model, dataset, reference=image_model)
    assert report.passed, report.table()
    assert not report.carries_state
    assert all(d.first for video in report.videos for d in video.forced)


def test_videos_without_a_second_frame_prove_nothing(tmp_path):
    report = compare(BlobBackend, load_dataset(write_blob_dataset(tmp_path, (1, 1)), "valid"))
    assert not report.passed
    assert "no video has a second frame" in report.table()


def test_no_object_proves_nothing(dataset):
    report = compare(BlobBackend, dataset, confidence=0.999)
    assert not report.passed
    assert "no slot reaches confidence 0.999; lower it with --confidence" in report.table()
    assert math.isnan(report.videos[0].free[0].mask_iou)


def test_what_cannot_be_compared_is_refused(dataset):
    with pytest.raises(ContractError, match=r"canvas: the candidate has \(96, 64\), the reference \(64, 96\)"):
        compare(lambda: BlobBackend((96, 64)), dataset)
    with pytest.raises(ContractError, match="association"):
        compare(lambda: BlobBackend(association="embedding"), dataset)
    with pytest.raises(ContractError, match="the candidate gives chosen detections"):
        compare(lambda: BlobBackend(top_k=3), dataset)
    chosen = BlobBackend(top_k=3)
    with pytest.raises(ContractError, match=r"the reference gives .* --outputs raw"):
        run_parity(chosen, chosen, chosen, dataset, progress=False)
    other = dataclasses.replace(dataset, categories=dataset.categories[:2])
    with pytest.raises(DataError, match=r"the model has 3 classes, .* has 2, .*only the model has 'blue'.*--no-ap"):
        compare(BlobBackend, other)
    assert compare(BlobBackend, other, ap=False).passed
    with pytest.raises(DataError, match="holds no video"):
        compare(BlobBackend, dataclasses.replace(dataset, videos=[]))
    with pytest.raises(L2GError, match="0 streams"):
        ParityOptions(streams=0)
    with pytest.raises(L2GError, match="confidence 1 found"):
        ParityOptions(confidence=1)
