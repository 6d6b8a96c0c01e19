"""What a precision costs over videos: AP, identities and drift of several graphs beside their float32 original.

All run in one pass, each from its own state. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from tqdm import tqdm

from l2g.data.dataset import Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import ContractError, DataError
from l2g.evaluation.parity.frame import FrameDifference, NewcomerNames, compare_frame, is_finite, slot_order
from l2g.evaluation.run import ScoringOptions, VideoScorer
from l2g.metrics.identities import IdentityReport, identity_switches
from l2g.metrics.rle import compress
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend, RawOutputs
from l2g.runtime.identity.handover import Handover, permute_slots
from l2g.runtime.picture.letterbox import Letterbox
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
    DataError where the data set has other classes.
    """
    _check(reference, candidates, dataset)
    # Each run forgets what an earlier one left: a session's first step resets its streams.
    runs = [_Run(reference, confidence), *(_Run(backend, confidence) for backend in candidates.values())]
    waiting = iter(enumerate(dataset.videos))
    running: dict[int, _Clip] = {}
    with tqdm(total=sum(v.length for v in dataset.videos), desc="frames", disable=None if progress else True) as bar:
        while True:
            while len(running) < streams and (item := next(waiting, None)) is not None:
                index, video = item
                running[index] = _Clip(video, letterbox_of(reference.contract, video.height, video.width))
                for run in runs:
                    run.join(index, running[index])
            if not running:
                break
            canvases = {index: clip.canvas() for index, clip in running.items()}
            expected = runs[0].step(canvases, None)
            for run in runs[1:]:
                run.step(canvases, expected)
            bar.update(len(canvases))
            for index, clip in list(running.items()):
                clip.frame += 1
                if clip.frame == clip.video.length:
                    for run in runs:
                        run.leave(index, clip, dataset)
                    del running[index]
    truth = ground_truth(dataset)
    first, *rest = [run.result(truth) for run in runs]
    return first, dict(zip(candidates, rest, strict=True))


@dataclass
class _Clip:
    """One video on its way."""

    video: Video
    letterbox: Letterbox
    frame: int = 0

    def canvas(self) -> np.ndarray:
        return self.letterbox.to_canvas(self.video.frame(self.frame))


@dataclass
class _Run:
    """One model on its way through the data set."""

    backend: Backend
    confidence: float
    scorers: dict[int, VideoScorer] = field(default_factory=dict)
    handovers: dict[int, Handover] = field(default_factory=dict)
    names: dict[int, NewcomerNames] = field(default_factory=dict)
    orders: dict[int, np.ndarray] = field(default_factory=dict)
    results: dict[int, list[dict]] = field(default_factory=dict)
    differences: dict[int, list[FrameDifference]] = field(default_factory=dict)
    quarters: list[list[FrameDifference]] = field(default_factory=lambda: [[] for _ in range(QUARTERS)])
    identities: IdentityReport = field(default_factory=IdentityReport)
    finite: bool = True

    def __post_init__(self):
        self.session = VideoSession(self.backend)

    def join(self, index: int, clip: _Clip) -> None:
        self.session.join(index)
        self.scorers[index] = VideoScorer(clip.letterbox, ScoringOptions())
        contract = self.backend.contract
        self.handovers[index] = Handover(contract)
        self.names[index] = NewcomerNames(contract.input("prior_queries").shape[1], self.confidence)
        self.differences[index] = []

    def step(self, canvases: dict[int, np.ndarray], expected: dict[int, RawOutputs] | None) -> dict[int, RawOutputs]:
        """expected: what this gave for the reference, None for the reference itself. Slots come back as identities."""
        linked = {}
        for index, found in self.session.step(canvases).items():
            finite = is_finite(found)
            self.finite &= finite
            first = index not in self.orders
            if first:
                self.orders[index] = slot_order(found if expected is None else expected[index], found)
            linked[index] = found = self.handovers[index].link(permute_slots(found, self.orders[index]))
            self.scorers[index].add(found if finite else _nothing_seen(found))
            if expected is not None:
                named = self.names[index].rename(expected[index], found)
                self.differences[index].append(compare_frame(expected[index], named, self.confidence, first))
        return linked

    def leave(self, index: int, clip: _Clip, dataset: VideoDataset) -> None:
        video, scorer = clip.video, self.scorers.pop(index)
        del self.handovers[index], self.names[index]
        self.results[index] = scorer.results(video.id, [category.id for category in dataset.categories])
        tubes = [compress(o.segmentations, video.height, video.width) for o in video.objects if not o.iscrowd]
        self.identities += identity_switches(tubes, scorer.seen())
        for number, difference in enumerate(self.differences.pop(index)):
            self.quarters[number * QUARTERS // video.length].append(difference)
        self.session.leave(index)

    def result(self, truth: dict) -> Measured:
        entries = [entry for index in sorted(self.results) for entry in self.results[index]]
        ap = evaluate_vis(truth, entries, allow_empty=True).stats["AP"]
        drift = [quarter for quarter in self.quarters if quarter]
        return Measured(
            ap=None if ap < 0 else 100 * ap,
            switches=self.identities.switches_per_100_frames,
            mask_iou=tuple(_mean([d.mask_iou for d in quarter]) for quarter in drift),
            identity=tuple(_agreement(quarter) for quarter in drift),
            finite=self.finite,
        )


def _check(reference: Backend, candidates: Mapping[str, Backend], dataset: VideoDataset) -> None:
    contract = reference.contract
    for name, backend in candidates.items():
        if backend.contract.outputs != contract.outputs or backend.contract.inputs != contract.inputs:
            raise ContractError(f"{name}: other inputs or outputs than the reference; export both from one checkpoint")
    if contract.output_kind != "raw":
        raise ContractError("AP needs raw outputs, found chosen detections; export with --outputs raw")
    if len(contract.class_names) != len(dataset.categories):
        raise DataError(
            f"the model has {len(contract.class_names)} classes, data set '{dataset.name}' has "
            f"{len(dataset.categories)}; measure on the data set that the model was trained for"
        )
    if not len(dataset.videos):
        raise DataError(f"data set '{dataset.name}' holds no video; choose another split")


def _nothing_seen(outputs: RawOutputs) -> RawOutputs:
    """NaN, which no evaluator ranks, as an empty frame."""
    arrays = {name: np.nan_to_num(array, nan=-80.0, posinf=80.0, neginf=-80.0) for name, array in vars(outputs).items()}
    return RawOutputs(**arrays)


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _agreement(quarter: list[FrameDifference]) -> float | None:
    counting = sum(difference.counting for difference in quarter)
    return 100 * sum(difference.agreeing for difference in quarter) / counting if counting else None
