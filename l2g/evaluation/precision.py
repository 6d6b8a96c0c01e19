"""What a precision costs over videos: AP, identities and drift of several graphs beside their float32 original.

All run in one pass, each from its own state. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from l2g.contract import GraphContract
from l2g.data.classes import ClassMatch, match_classes
from l2g.data.dataset import Video, VideoDataset
from l2g.errors import ContractError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.evaluation.parity.frame import FrameDifference, NewcomerNames, compare_frame
from l2g.evaluation.run import Rollout, Scoreboard, ScoringOptions, VideoScorer, scorable
from l2g.runtime.backends.base import Backend
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.session import VideoSession

QUARTERS = 4


@dataclass(frozen=True)
class Measured:
    """One model over a data set.

    ap: in percent, None where nothing is annotated. switches: identity switches per object and 100 frames. For a
    candidate, against the reference: mask_iou and identity (percent of the counting slots that hold the same object),
    a number for each quarter of the videos' length; None for a quarter without a counting slot. finite: no NaN, no
    infinity.
    """

    ap: float | None
    switches: float
    mask_iou: tuple[float | None, ...] = ()
    identity: tuple[float | None, ...] = ()
    finite: bool = True

    def to_dict(self) -> dict:
        return asdict(self)


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
    tallies = [_Tally(match) for _ in backends]
    options = ScoringOptions(columns=match.columns)
    lanes = (
        _Lane(place, video, reference.contract, len(backends), confidence, options)
        for place, video in enumerate(match.dataset.videos)
    )
    for round_ in rounds(lanes, sessions, frames=frames_of(dataset), streams=streams, progress=progress):
        outputs = [step(session, round_) for session in sessions]
        for lane in round_:
            lane.take([found[lane.place] for found in outputs], tallies)
    truth = tallies[0].board.truth()
    first, *rest = [tally.measured(truth) for tally in tallies]
    return first, dict(zip(candidates, rest, strict=True))


class _Lane(Lane):
    """One video on its way through all models; rollouts: each model's own, the reference's first."""

    def __init__(
        self,
        place: int,
        video: Video,
        contract: GraphContract,
        models: int,
        confidence: float,
        options: ScoringOptions,
    ):
        super().__init__(place, video, contract)
        self.confidence = confidence
        self.rollouts = [Rollout(VideoScorer(self.letterbox, options), contract) for _ in range(models)]
        self.names = [NewcomerNames(confidence) for _ in range(models)]
        self.differences: list[list[FrameDifference]] = [[] for _ in range(models)]

    def take(self, outputs: list[RawOutputs], tallies: list[_Tally]) -> None:
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
                tally.board.add(self.place, rollout.scorer)
                for time, difference in enumerate(self.differences[model]):
                    tally.quarters[time * QUARTERS // self.length].append(difference)


class _Tally:
    """What one model has shown so far. quarters: of the videos, how its frames differ from the reference's."""

    def __init__(self, match: ClassMatch):
        self.board = Scoreboard(match)
        self.quarters: list[list[FrameDifference]] = [[] for _ in range(QUARTERS)]
        self.finite = True

    def measured(self, truth: dict) -> Measured:
        evaluation = self.board.evaluation(truth)
        ap = evaluation.report.stats["AP"]
        drift = [quarter for quarter in self.quarters if quarter]
        return Measured(
            ap=None if ap < 0 else 100 * ap,
            switches=evaluation.identities.switches_per_100_frames,
            mask_iou=tuple(_mean([d.mask_iou for d in quarter]) for quarter in drift),
            identity=tuple(_agreement(quarter) for quarter in drift),
            finite=self.finite,
        )


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
