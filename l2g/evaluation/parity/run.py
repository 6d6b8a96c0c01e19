"""Two backends over a data set, frame by frame: kernel error (teacher-forced), drift (free-running) and AP of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from l2g.contract import GraphContract
from l2g.data.dataset import Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import ContractError, DataError, L2GError
from l2g.evaluation.parity.frame import FrameDifference, NewcomerNames, compare_frame, is_finite, slot_order
from l2g.evaluation.parity.pictures import WorstFrames
from l2g.evaluation.parity.report import ParityReport, Tolerances, VideoParity
from l2g.evaluation.run import ScoringOptions, VideoScorer
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend, HostState, RawOutputs
from l2g.runtime.identity.handover import Handover, permute_slots
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import VideoSession


@dataclass(frozen=True)
class ParityOptions:
    """How to compare.

    streams: videos that share a step; with one alone, state that leaks between streams could not show. confidence:
    slots whose best class reaches it count as objects. pictures: worst frames kept. ap: score both. scoring: how.
    """

    streams: int = 4
    confidence: float = 0.5
    pictures: int = 6
    ap: bool = True
    scoring: ScoringOptions = field(default_factory=ScoringOptions)

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

    Raises ContractError where the two cannot be compared, DataError where AP is asked for and the data set has other
    classes than the model.
    """
    options = options or ParityOptions()
    _check_comparable(reference.contract, candidate.contract)
    if options.ap and len(reference.contract.class_names) != len(dataset.categories):
        raise DataError(
            f"the model has {len(reference.contract.class_names)} classes, data set '{dataset.name}' has "
            f"{len(dataset.categories)}: there is no AP; give the data set that the model was trained for, or --no-ap"
        )
    if not len(dataset.videos):
        raise DataError(f"data set '{dataset.name}' holds no video; choose another split")
    run = _ParityRun(reference, candidate, forced, dataset, options)
    bar = tqdm(total=sum(v.length for v in dataset.videos), desc="frames", disable=None if progress else True)
    with bar:
        while run.start_and_step(bar.update):
            pass
    ap_reference, ap_candidate = run.average_precision() if options.ap else (None, None)
    return ParityReport(
        reference=names[0],
        candidate=names[1],
        dataset=dataset.name,
        confidence=options.confidence,
        limits=(tolerances or Tolerances()).limits(candidate.contract),
        carries_state=run.carries_state,
        videos=tuple(run.finished[index] for index in sorted(run.finished)),
        ap_reference=ap_reference,
        ap_candidate=ap_candidate,
        worst=run.pictures.worst(),
    )


@dataclass
class _Pair:
    """One video on its way through the three runs."""

    video: Video
    letterbox: Letterbox
    scorers: tuple[VideoScorer, VideoScorer]
    handovers: tuple[Handover, Handover]
    names: NewcomerNames
    image: np.ndarray | None = None
    canvas: np.ndarray | None = None
    # The reference's state after the last frame, [1, N, C] and [1, N, 4].
    queries: np.ndarray | None = None
    boxes: np.ndarray | None = None
    order: np.ndarray | None = None
    forced: list[FrameDifference] = field(default_factory=list)
    free: list[FrameDifference] = field(default_factory=list)

    def read(self) -> None:
        self.image = self.video.frame(len(self.free))
        self.canvas = self.letterbox.to_canvas(self.image)


class _ParityRun:
    def __init__(
        self, reference: Backend, candidate: Backend, forced: Backend, dataset: VideoDataset, options: ParityOptions
    ):
        self.dataset, self.options = dataset, options
        self.contract = reference.contract
        self.carries_state = self.contract.association == "propagate"
        self.reference, self.candidate, self.forced = VideoSession(reference), VideoSession(candidate), forced
        self.running: dict[int, _Pair] = {}
        self.finished: dict[int, VideoParity] = {}
        self.results: dict[int, tuple[list[dict], list[dict]]] = {}
        self.pictures = WorstFrames(options.pictures, options.confidence, self.contract.class_names)
        self._waiting: Iterator[tuple[int, Video]] = iter(enumerate(dataset.videos))

    def start_and_step(self, count) -> bool:
        """Advance every running video by one frame; False when all are done."""
        self._start()
        if not self.running:
            return False
        for pair in self.running.values():
            pair.read()
        canvases = {index: pair.canvas for index, pair in self.running.items()}
        given = self.forced_outputs() if self.carries_state else None
        expected, found = self.reference.step(canvases), self.candidate.step(canvases)
        for index, pair in list(self.running.items()):
            self._compare(index, pair, expected[index], found[index], given[index] if given else None)
            if len(pair.free) == pair.video.length:
                self._finish(index, pair)
        count(len(canvases))
        return True

    def forced_outputs(self) -> dict[int, RawOutputs]:
        """The candidate's outputs from the reference's state."""
        pairs = list(self.running.values())
        valid = np.array([pair.queries is not None for pair in pairs])
        _, slots, width = self.contract.input("prior_queries").shape
        fresh = np.zeros((1, slots, width), np.float32), np.zeros((1, slots, 4), np.float32)
        queries = np.concatenate([fresh[0] if pair.queries is None else pair.queries for pair in pairs])
        boxes = np.concatenate([fresh[1] if pair.boxes is None else pair.boxes for pair in pairs])
        self.forced.write_state(HostState(queries, boxes, valid))
        outputs = self.forced.step(np.stack([pair.canvas for pair in pairs]), ~valid)
        return {
            index: RawOutputs(**{name: array[row : row + 1] for name, array in vars(outputs).items()})
            for row, index in enumerate(self.running)
        }

    def average_precision(self) -> tuple[dict, dict]:
        truth = ground_truth(self.dataset)
        found = []
        for side in range(2):
            results = [entry for index in sorted(self.results) for entry in self.results[index][side]]
            stats = evaluate_vis(truth, results, allow_empty=True).stats
            found.append({name: None if value < 0 else 100 * value for name, value in stats.items()})
        return found[0], found[1]

    def _compare(
        self, index: int, pair: _Pair, expected: RawOutputs, found: RawOutputs, given: RawOutputs | None
    ) -> None:
        confidence, first = self.options.confidence, not pair.free
        if first:
            pair.order = slot_order(expected, found)
        # From the same state slots agree by themselves; a first frame has none, nor has an image model ever.
        alone = first or not self.carries_state
        given = found if given is None else given
        given = permute_slots(given, slot_order(expected, given)) if alone else given
        pair.forced.append(compare_frame(expected, given, confidence, alone))
        # Copies: the batch that these are rows of need not be kept.
        pair.queries, pair.boxes = expected.queries.copy(), expected.boxes.copy()
        expected, found = pair.handovers[0].link(expected), pair.handovers[1].link(permute_slots(found, pair.order))
        named = pair.names.rename(expected, found) if self.carries_state else found
        pair.free.append(compare_frame(expected, named, confidence, alone))
        if self.options.ap:
            pair.scorers[0].add(_scorable(expected))
            pair.scorers[1].add(_scorable(found))
        self.pictures.offer(
            (index, pair.video.name, pair.video.length),
            len(pair.free) - 1,
            pair.image,
            pair.letterbox,
            (expected, named),
            pair.free[-1],
            pair.forced[-1],
        )

    def _start(self) -> None:
        while len(self.running) < self.options.streams:
            index, video = next(self._waiting, (None, None))
            if video is None:
                return
            letterbox = letterbox_of(self.contract, video.height, video.width)
            scorers = tuple(VideoScorer(letterbox, self.options.scoring) for _ in range(2))
            handovers = tuple(Handover(self.contract) for _ in range(2))
            names = NewcomerNames(self.contract.input("prior_queries").shape[1], self.options.confidence)
            self.running[index] = _Pair(video, letterbox, scorers, handovers, names)
            self.reference.join(index)
            self.candidate.join(index)

    def _finish(self, index: int, pair: _Pair) -> None:
        self.finished[index] = VideoParity(pair.video.id, pair.video.name, tuple(pair.forced), tuple(pair.free))
        if self.options.ap:
            categories = [category.id for category in self.dataset.categories]
            one, other = (scorer.results(pair.video.id, categories) for scorer in pair.scorers)
            self.results[index] = one, other
        self.reference.leave(index)
        self.candidate.leave(index)
        del self.running[index]


def _scorable(outputs: RawOutputs) -> RawOutputs:
    """Outputs with NaN, which no evaluator ranks, see nothing there."""
    if is_finite(outputs):
        return outputs
    logits, masks = (np.nan_to_num(array, nan=-80.0) for array in (outputs.logits, outputs.mask_logits))
    return replace(outputs, logits=logits, mask_logits=masks)


def _check_comparable(reference: GraphContract, candidate: GraphContract) -> None:
    def facts(contract: GraphContract) -> dict[str, object]:
        return {
            "canvas": (contract.height, contract.width),
            "number of classes": len(contract.class_names),
            "state": contract.input("prior_queries").shape[1:],
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
