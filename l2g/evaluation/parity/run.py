"""Two backends over a data set, frame by frame: kernel error (teacher-forced), drift (free-running) and AP of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np

from l2g.contract import GraphContract
from l2g.data.classes import made_up, match_classes, same_names
from l2g.data.dataset import Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import ContractError, DataError, L2GError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.evaluation.panoptic import Merging, PanopticBoard, is_panoptic
from l2g.evaluation.parity.frame import (
    FrameDifference,
    NewcomerNames,
    SegmentAgreement,
    compare_frame,
    compare_segments,
)
from l2g.evaluation.parity.pictures import WorstFrames
from l2g.evaluation.parity.report import ParityReport, Tolerances, VideoParity
from l2g.evaluation.run import Rollout, ScoringOptions, VideoScorer, scorable
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.identity.slots import slot_order
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import VideoSession


@dataclass(frozen=True)
class ParityOptions:
    """How to compare.

    streams: videos that share a step; with one alone, state that leaks between streams could not show. confidence:
    slots whose best class reaches it count as objects. pictures: worst frames kept. ap: score both. scoring: how.
    task: "instances" (AP), "panoptic" (maps are compared, and VPQ), None: the latter for a data set with maps of things
    and stuff. panoptic: how slots become segments.
    """

    streams: int = 4
    confidence: float = 0.5
    pictures: int = 6
    ap: bool = True
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    task: str | None = None
    panoptic: PanopticOptions = field(default_factory=PanopticOptions)

    def __post_init__(self):
        if self.streams < 1:
            raise L2GError(f"{self.streams} streams asked for, at least 1 expected")
        if not 0 <= self.confidence < 1:
            raise L2GError(f"confidence {self.confidence} found, a probability in 0..1 expected")


def run_parity(
    reference: Backend,
    candidate: Backend,
    forced: Backend,
    dataset: VideoDataset,
    *,
    options: ParityOptions | None = None,
    tolerances: Tolerances | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    progress: bool = True,
) -> ParityReport:
    """Compare `candidate` with `reference` over every video of `dataset`, in one pass.

    forced: a second instance of the candidate, which is given the reference's state before every frame, while
    `candidate` feeds back its own and keeps it on its device. All three have raw outputs. Memory does not grow with
    the length of a video, but for a few numbers per frame. No backend is closed. tolerances: None for those of the
    candidate's precision.

    The first frame's slots are brought into the reference's order by their embeddings, and the free run keeps that
    order for the rest of the video. What the free run compares are identities, as whoever uses the model sees them:
    both sides' slots go through a `Handover`, and an object that comes in later may take any slot (`NewcomerNames`).

    Raises ContractError where the two cannot be compared, DataError where AP is asked for and the data set's classes
    have other names than the model's (`match_classes`).
    """
    options = options or ParityOptions()
    _check_comparable(reference.contract, candidate.contract)
    notes: tuple[str, ...] = ()
    maps = options.task == "panoptic" or (options.task is None and is_panoptic(dataset))
    _check_judged(tolerances or Tolerances(), maps, options.ap)
    boards: tuple[PanopticBoard, ...] = ()
    if options.ap:
        try:
            match = match_classes(dataset, reference.contract.class_names)
        except DataError as error:
            raise DataError(f"{error}, or compare without AP (--no-ap)") from None
        dataset, notes = match.dataset, (match.note,) if match.note else ()
        options = replace(options, scoring=replace(options.scoring, columns=match.columns))
        # A data set that cannot be scored is refused before anything runs.
        if maps:
            boards = tuple(
                PanopticBoard(match, side.contract, options=options.panoptic) for side in (reference, candidate)
            )
            notes = boards[0].notes
        else:
            ground_truth(dataset)
    with ExitStack() as stack:
        for board in boards:
            stack.enter_context(board)
        run = _ParityRun(reference, candidate, forced, dataset, options, maps, boards)
        return _report(run, tolerances, names, notes, progress)


def _check_judged(tolerances: Tolerances, maps: bool, ap: bool) -> None:
    """L2GError for a tolerance of what this comparison does not look at."""
    judged = ["mask_logits", "identity", *(["segments"] if maps else [])]
    judged += [] if not ap else ["vpq"] if maps else ["ap"]
    for name, value in asdict(tolerances).items():
        if value is not None and name not in judged:
            raise L2GError(f"tolerance of {name} given, but judged are {', '.join(sorted(judged))} here; leave it out")


def _report(
    run: _ParityRun,
    tolerances: Tolerances | None,
    names: tuple[str, str],
    notes: tuple[str, ...],
    progress: bool,
) -> ParityReport:
    """Run it, and what it found."""
    options, dataset = run.options, run.dataset
    sessions = [run.reference, run.candidate]
    lanes = (_Lane(place, video, run.contract, options, run.scorers) for place, video in enumerate(dataset.videos))
    frames = frames_of(dataset)
    for round_ in rounds(lanes, sessions, frames=frames, streams=options.streams, progress=progress):
        run.step(round_)
    ap_reference, ap_candidate = run.scores() if options.ap else (None, None)
    return ParityReport(
        reference=names[0],
        candidate=names[1],
        dataset=dataset.name,
        confidence=options.confidence,
        limits=(tolerances or Tolerances()).limits(run.candidate.backend.contract),
        carries_state=run.carries_state,
        videos=tuple(run.finished[index] for index in sorted(run.finished)),
        ap_reference=ap_reference,
        ap_candidate=ap_candidate,
        worst=run.pictures.worst(),
        notes=notes,
        metric="VPQ" if run.maps else "AP",
    )


class _Lane(Lane):
    """One video on its way through the three runs; rollouts: the reference's and the candidate's own."""

    def __init__(
        self,
        place: int,
        video: Video,
        contract: GraphContract,
        options: ParityOptions,
        scorers_of: Callable[[int, Letterbox], Sequence[Any]],
    ):
        super().__init__(place, video, contract)
        self.rollouts = tuple(Rollout(scorer, contract) for scorer in scorers_of(place, self.letterbox))
        self.segments: list[SegmentAgreement] = []
        self.names = NewcomerNames(options.confidence)
        self.forced: list[FrameDifference] = []
        self.free: list[FrameDifference] = []


class _ParityRun:
    """maps: whether maps of things and stuff are compared. boards: what scores them, of each side, where that is asked
    for."""

    def __init__(
        self,
        reference: Backend,
        candidate: Backend,
        forced: Backend,
        dataset: VideoDataset,
        options: ParityOptions,
        maps: bool,
        boards: tuple[PanopticBoard, ...],
    ):
        self.maps, self.boards = maps, boards
        self.dataset, self.options = dataset, options
        self.contract = reference.contract
        self.carries_state = self.contract.association == "propagate"
        self.reference, self.candidate, self.forced = VideoSession(reference), VideoSession(candidate), forced
        self.finished: dict[int, VideoParity] = {}
        self.results: dict[int, tuple[list[dict], list[dict]]] = {}
        self.pictures = WorstFrames(options.pictures, options.confidence, self.contract.class_names)

    def step(self, round_: list[_Lane]) -> None:
        """Compare the frame that every lane is at."""
        # Before the reference steps, from the state that it starts from.
        given = self.forced_outputs(round_) if self.carries_state else None
        expected, found = step(self.reference, round_), step(self.candidate, round_)
        for lane in round_:
            place = lane.place
            self._compare(lane, expected[place], found[place], given[place] if given else None)
            if lane.last:
                self._finish(lane)

    def forced_outputs(self, round_: list[_Lane]) -> dict[int, RawOutputs]:
        """The candidate's outputs from the reference's state."""
        states = self.reference.states()
        state = HostState.stacked([states[lane.place] for lane in round_])
        self.forced.write_state(state)
        outputs = cast(RawOutputs, self.forced.step(np.stack([lane.canvas for lane in round_]), ~state.valid))
        return {lane.place: outputs.stream(row) for row, lane in enumerate(round_)}

    def scorers(self, place: int, letterbox: Letterbox) -> Sequence[Any]:
        """Of each side, for a video."""
        if self.boards:
            return [board.scorer(place, letterbox) for board in self.boards]
        if self.maps:
            return [Merging(letterbox, self.contract, self.options.panoptic) for _ in range(2)]
        return [VideoScorer(letterbox, self.options.scoring) for _ in range(2)]

    def scores(self) -> tuple[dict, dict]:
        """The evaluator's statistics in percent."""
        if self.boards:
            one, other = (board.evaluation().stats() for board in self.boards)
            return one, other
        truth = ground_truth(self.dataset)
        found = []
        for side in range(2):
            results = [entry for index in sorted(self.results) for entry in self.results[index][side]]
            stats = evaluate_vis(truth, results, allow_empty=True).stats
            found.append({name: None if value < 0 else 100 * value for name, value in stats.items()})
        return found[0], found[1]

    def _compare(self, lane: _Lane, expected: RawOutputs, found: RawOutputs, given: RawOutputs | None) -> None:
        confidence = self.options.confidence
        # From the same state slots agree by themselves; a first frame has none, nor has an image model ever.
        alone = lane.time == 0 or not self.carries_state
        given = found if given is None else given
        given = given.permuted(slot_order(expected, given)) if alone else given
        lane.forced.append(compare_frame(expected, given, confidence, alone))
        one, other = lane.rollouts
        found = other.link(found, reference=expected)
        expected = one.link(expected)
        named = lane.names.rename(expected, found) if self.carries_state else found
        lane.free.append(compare_frame(expected, named, confidence, alone))
        if self.options.ap or self.maps:
            one.scorer.add(scorable(expected))
            other.scorer.add(scorable(found))
        if self.maps:
            lane.segments.append(compare_segments(one.scorer.segmentation, other.scorer.segmentation))
        self.pictures.offer(
            (lane.place, lane.video.name, lane.length),
            lane.time,
            lane.image,
            lane.letterbox,
            (expected, named),
            lane.free[-1],
            lane.forced[-1],
        )

    def _finish(self, lane: _Lane) -> None:
        video = lane.video
        curves = tuple(lane.forced), tuple(lane.free), tuple(lane.segments)
        self.finished[lane.place] = VideoParity(video.id, video.name, *curves)
        if self.boards:
            for board, rollout in zip(self.boards, lane.rollouts, strict=True):
                board.add(lane.place, rollout.scorer)
        elif self.options.ap:
            categories = [category.id for category in self.dataset.categories]
            one, other = (rollout.scorer.results(video.id, categories) for rollout in lane.rollouts)
            self.results[lane.place] = one, other


def _check_comparable(reference: GraphContract, candidate: GraphContract) -> None:
    def facts(contract: GraphContract) -> dict[str, object]:
        return {
            "canvas": (contract.height, contract.width),
            "number of classes": len(contract.class_names),
            "state": {state.input: contract.input(state.input).shape[1:] for state in contract.states},
            "association": contract.association,
        }

    for name, contract in (("reference", reference), ("candidate", candidate)):
        if contract.output_kind != "raw":
            raise ContractError(
                f"the {name} gives chosen detections, but parity compares raw outputs; export it with --outputs raw"
            )

    for name, expected in facts(reference).items():
        found = facts(candidate)[name]
        if found != expected:
            raise ContractError(
                f"{name}: the candidate has {found}, the reference {expected}; export the candidate from the reference"
            )
    ours, theirs = reference.class_names, candidate.class_names
    if not (made_up(ours) or made_up(theirs)) and same_names(theirs, ours) != tuple(range(len(ours))):
        one, other = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise ContractError(
            f"class names: the candidate has '{other}' where the reference has '{one}'; export the candidate from the "
            "reference"
        )
