"""What a precision costs over videos: AP, identities and drift of several graphs beside their float32 original.

All run in one pass, each from its own state. Needs no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2g.contract import GraphContract
from l2g.data.classes import ClassMatch, match_classes
from l2g.data.dataset import Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import ContractError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.evaluation.panoptic import PanopticBoard, PanopticScorer, is_panoptic
from l2g.evaluation.parity.frame import FrameDifference, NewcomerNames, compare_frame
from l2g.evaluation.run import Rollout, Scoreboard, ScoringOptions, VideoScorer, scorable
from l2g.records import Record
from l2g.runtime.backends.base import Backend
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import VideoSession

QUARTERS = 4


@dataclass(frozen=True)
class Measured(Record):
    """One model over a data set.

    ap: in percent, None where nothing is annotated; of a data set with maps of things and stuff VPQ. switches: identity
    switches per object and 100 frames, None of such maps. For a
    candidate, against the reference: mask_iou and identity (percent of the counting slots that hold the same object),
    a number for each quarter of the videos' length; None for a quarter without a counting slot. finite: no NaN, no
    infinity.
    """

    ap: float | None
    switches: float | None
    mask_iou: tuple[float | None, ...] = ()
    identity: tuple[float | None, ...] = ()
    finite: bool = True


def measure(
    reference: Backend,
    candidates: Mapping[str, Backend],
    dataset: VideoDataset,
    *,
    streams: int = 4,
    confidence: float = 0.5,
    progress: bool = True,
) -> tuple[Measured, dict[str, Measured]]:
    """Run all over every video of `dataset`; the reference's result, and each candidate's by name.

    All have raw outputs and one canvas. No backend is closed. Raises ContractError where they cannot be compared,
    DataError where the data set's classes have other names (`match_classes`).
    """
    _check(reference, candidates)
    match = match_classes(dataset, reference.contract.class_names)
    backends = [reference, *candidates.values()]
    # Each run forgets what an earlier one left: a session's first step resets its streams.
    sessions = [VideoSession(backend) for backend in backends]
    maps = is_panoptic(dataset)
    truth = None if maps else ground_truth(match.dataset)  # what cannot be scored is not run
    with ExitStack() as stack:
        tallies = [
            _MapTally(stack.enter_context(PanopticBoard(match, backend.contract))) if maps else _ObjectTally(match)
            for backend in backends
        ]
        lanes = (
            _Lane(place, video, reference.contract, tallies, confidence)
            for place, video in enumerate(match.dataset.videos)
        )
        for round_ in rounds(lanes, sessions, frames=frames_of(dataset), streams=streams, progress=progress):
            outputs = [step(session, round_) for session in sessions]
            for lane in round_:
                lane.take([found[lane.place] for found in outputs], tallies)
        first, *rest = [tally.measured(truth) for tally in tallies]
    return first, dict(zip(candidates, rest, strict=True))


class _Lane(Lane):
    """One video on its way through all models; rollouts: each model's own, the reference's first."""

    def __init__(
        self,
        place: int,
        video: Video,
        contract: GraphContract,
        tallies: Sequence[_Tally],
        confidence: float,
    ):
        super().__init__(place, video, contract)
        self.confidence = confidence
        self.rollouts = [Rollout(tally.scorer(place, self.letterbox), contract) for tally in tallies]
        self.names = [NewcomerNames(confidence) for _ in tallies]
        self.differences: list[list[FrameDifference]] = [[] for _ in tallies]

    def take(self, outputs: list[RawOutputs], tallies: Sequence[_Tally]) -> None:
        """What the models give for the frame that the lane is at."""
        expected = self.rollouts[0].link(outputs[0])
        for model, (found, rollout, tally) in enumerate(zip(outputs, self.rollouts, tallies, strict=True)):
            tally.finite &= found.finite()
            linked = rollout.link(found, outputs[0]) if model else expected
            rollout.scorer.add(scorable(linked))
            if model:
                named = self.names[model].rename(expected, linked)
                self.differences[model].append(compare_frame(expected, named, self.confidence, self.time == 0))
            if self.last:
                tally.add(self.place, rollout.scorer)
                for time, difference in enumerate(self.differences[model]):
                    tally.quarters[time * QUARTERS // self.length].append(difference)


class _Tally(ABC):
    """What one model has shown so far. quarters: of the videos, how its frames differ from the reference's."""

    def __init__(self) -> None:
        self.quarters: list[list[FrameDifference]] = [[] for _ in range(QUARTERS)]
        self.finite = True

    @abstractmethod
    def scorer(self, place: int, letterbox: Letterbox) -> Any:
        """Of a video, by its place in the data set."""

    @abstractmethod
    def add(self, place: int, scorer: Any) -> None:
        """A video that is done."""

    @abstractmethod
    def scores(self, truth: dict | None) -> tuple[float | None, float | None]:
        """The data set's metric in percent, and identity switches."""

    def measured(self, truth: dict | None) -> Measured:
        ap, switches = self.scores(truth)
        drift = [quarter for quarter in self.quarters if quarter]
        return Measured(
            ap=ap,
            switches=switches,
            mask_iou=tuple(_mean([d.mask_iou for d in quarter]) for quarter in drift),
            identity=tuple(_agreement(quarter) for quarter in drift),
            finite=self.finite,
        )


class _ObjectTally(_Tally):
    def __init__(self, match: ClassMatch):
        super().__init__()
        self._board, self._options = Scoreboard(match), ScoringOptions(columns=match.columns)

    def scorer(self, place: int, letterbox: Letterbox) -> VideoScorer:
        return VideoScorer(letterbox, self._options)

    def add(self, place: int, scorer: VideoScorer) -> None:
        self._board.add(place, scorer)

    def scores(self, truth: dict | None) -> tuple[float | None, float | None]:
        evaluation = self._board.evaluation(truth)
        ap = evaluation.report.stats["AP"]
        return None if ap < 0 else 100 * ap, evaluation.identities.switches_per_100_frames


class _MapTally(_Tally):
    def __init__(self, board: PanopticBoard):
        super().__init__()
        self._board = board

    def scorer(self, place: int, letterbox: Letterbox) -> PanopticScorer:
        return self._board.scorer(place, letterbox)

    def add(self, place: int, scorer: PanopticScorer) -> None:
        self._board.add(place, scorer)

    def scores(self, truth: dict | None) -> tuple[float | None, float | None]:
        return self._board.evaluation().stats()["VPQ"], None


def _check(reference: Backend, candidates: Mapping[str, Backend]) -> None:
    contract = reference.contract
    for name, backend in candidates.items():
        if backend.contract.outputs != contract.outputs or backend.contract.inputs != contract.inputs:
            raise ContractError(f"{name}: other inputs or outputs than the reference; export both from one checkpoint")
    if contract.output_kind != "raw":
        raise ContractError("AP needs raw outputs, found chosen detections; export with --outputs raw")


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _agreement(quarter: list[FrameDifference]) -> float | None:
    counting = sum(difference.counting for difference in quarter)
    return 100 * sum(difference.agreeing for difference in quarter) / counting if counting else None
