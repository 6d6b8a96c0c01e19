"""A backend over a whole data set: raw outputs frame by frame -> YouTube-VIS results -> AP.

The scoring is that of the public VIS models: a slot's score for a class is its mean probability over the video, and the
best (slot, class) pairs are the results. Training, evaluation and parity all come through here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from l2g.contract import GraphContract
from l2g.data.classes import ClassMatch, match_classes
from l2g.data.dataset import AnnotatedVideo, Problem, Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import DataError, L2GError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.metrics.identities import IdentityReport, identity_switches
from l2g.metrics.rle import Rle, compress
from l2g.metrics.vis_ap import VisReport, evaluate_vis
from l2g.runtime.arrays import FloatArray, IntArray
from l2g.runtime.backends.base import Backend
from l2g.runtime.identity.handover import Handover
from l2g.runtime.identity.slots import slot_order
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import VideoSession
from l2g.runtime.video.cuts import cut_finder


@dataclass(frozen=True)
class ScoringOptions:
    """How a video's outputs become results.

    top_k: results per video, the best (slot, class) pairs. slots_per_frame: a frame's masks are kept for this many of
    its best slots (a slot that is not among them has no mask there); the number of queries or more keeps all.
    min_frame_score: a slot whose best class stays below this in a frame has no mask there (0 keeps all).
    identity_score: a slot counts as seen in a frame, for identities, from this best class probability on.
    handover: whether identities may move from slot to slot and shadows are left out (`Handover`);
    False: a slot is an identity, as the paper has it. columns: of each of the data set's classes, the model's
    (`match_classes`); None where they are the same.
    cuts: "auto": where a hard cut is found a video's state and identities start anew, and a (slot, class) pair is one
    of a scene; "off": a video is one scene.
    """

    top_k: int = 100
    slots_per_frame: int = 100
    min_frame_score: float = 0.0
    identity_score: float = 0.5
    handover: bool = True
    columns: tuple[int, ...] | None = None
    cuts: str = "off"

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise L2GError(f"top-k {self.top_k} found, at least 1 result per video expected")


class VideoScorer:
    """Gathers one video's raw outputs, whose slots are identities; masks become run-length codes at once."""

    def __init__(self, letterbox: Letterbox, options: ScoringOptions):
        self.letterbox, self.options = letterbox, options
        self._probabilities: list[FloatArray] = []
        self._codes: list[dict[int, Rle]] = []
        self._scenes = [0]  # the first frame of each

    def add(self, outputs: RawOutputs) -> None:
        """The next frame's outputs, B = 1."""
        probabilities = outputs.probabilities()[0]
        if self.options.columns is not None:
            probabilities = probabilities[:, list(self.options.columns)]
        best = probabilities.max(axis=1)
        kept = np.argsort(-best, kind="stable")[: self.options.slots_per_frame]
        codes = {}
        for slot in kept[best[kept] >= self.options.min_frame_score]:
            mask = self.letterbox.mask_to_source(outputs.mask_logits[0, slot])
            if mask.patch.size:
                codes[int(slot)] = cast(Rle, mask.rle())
        self._probabilities.append(probabilities)
        self._codes.append(codes)

    def cut(self) -> None:
        """A new scene begins with the next frame: its slots are other objects."""
        self._scenes.append(len(self._probabilities))

    def results(self, video_id: int | str, category_ids: Sequence[int]) -> list[dict]:
        """YouTube-VIS result entries, best first; equal scores in the order of category, then slot."""
        ends = [*self._scenes[1:], len(self._probabilities)]
        pairs = [
            (-float(score), category_ids[k], slot, start, end)
            for start, end in zip(self._scenes, ends, strict=True)
            for slot, row in enumerate(np.mean(self._probabilities[start:end], axis=0))
            for k, score in enumerate(row)
        ]
        return [
            {
                "video_id": video_id,
                "category_id": category,
                "score": -negative,
                "segmentations": [codes.get(slot) if start <= t < end else None for t, codes in enumerate(self._codes)],
            }
            for negative, category, slot, start, end in sorted(pairs)[: self.options.top_k]
        ]

    def frames(self) -> list[tuple[dict[int, Rle], FloatArray]]:
        """Per frame ({slot: compressed RLE}, class probabilities float32 [N, K])."""
        return list(zip(self._codes, self._probabilities, strict=True))

    def seen(self) -> list[dict[int, Rle]]:
        """Per frame {identity: compressed RLE} of the slots that count as seen; in the first scene they are slots."""
        seen = []
        for t, (codes, probabilities) in enumerate(self.frames()):
            best, scene = probabilities.max(axis=1), bisect_right(self._scenes, t) - 1
            shown = {slot: code for slot, code in codes.items() if best[slot] >= self.options.identity_score}
            seen.append({scene * len(best) + slot: code for slot, code in shown.items()})
        return seen


@dataclass(frozen=True)
class Evaluation:
    """What a backend did on a data set: its scores, how its slots held the objects, and the YouTube-VIS results.

    notes: how the two sides' classes were matched, where there is something to say. left_out: what could not be read,
    neither in the results nor in the scores.
    """

    report: VisReport
    identities: IdentityReport
    results: list[dict]
    notes: tuple[str, ...] = ()
    left_out: tuple[Problem, ...] = ()

    def to_json(self) -> dict:
        """AP and friends in percent, and the identities."""
        identities = {
            "switches_per_object_per_100_frames": round(self.identities.switches_per_100_frames, 3),
            "object_frames": self.identities.object_frames,
            "covered": round(100 * self.identities.coverage, 2),
        }
        return {
            **self.report.to_json(),
            "identities": identities,
            "notes": [*self.notes, *self.report.notes],
            "left_out": [str(problem) for problem in self.left_out],
        }


class Scorer(Protocol):
    """Gathers one video's raw outputs, whose slots are identities, frame after frame."""

    def add(self, outputs: RawOutputs) -> None: ...
    def cut(self) -> None: ...


AnyScorer = TypeVar("AnyScorer", bound=Scorer)


class Rollout(Generic[AnyScorer]):
    """One model's own run over one video: its outputs as identities, in the order of a reference's slots, and what they
    score."""

    def __init__(self, scorer: AnyScorer, contract: GraphContract):
        self.scorer = scorer
        self._handover = Handover(contract)
        self._order: IntArray | None = None

    def cut(self) -> None:
        """A new scene begins with the next frame."""
        self._handover.reset()
        self.scorer.cut()

    def link(self, outputs: RawOutputs, reference: RawOutputs | None = None) -> RawOutputs:
        """The next frame's outputs, B = 1, with identities in place of slots.

        reference: the reference's outputs of the same frame; those of the first frame bring the slots in their order,
        which stays.
        """
        if self._order is None and reference is not None:
            self._order = slot_order(reference, outputs)
        return self._handover.link(outputs if self._order is None else outputs.permuted(self._order))


Found = TypeVar("Found")


class Board(Generic[Found]):
    """What one model found in the videos of a data set that are done, and which of them cannot be read.

    match: the data set as the model can be scored on it.
    """

    def __init__(self, match: ClassMatch):
        self.match = match
        self._found: dict[int, Found] = {}
        self._unreadable: dict[int, Problem] = {}

    def leave_out(self, place: int, error: DataError) -> None:
        """A video that cannot be read to its end: it is not scored."""
        self._unreadable[place] = Problem("unreadable frame", self.match.dataset.videos[place].name, str(error))

    @property
    def videos(self) -> int:
        """How many are done."""
        return len(self._found)

    @property
    def complete(self) -> bool:
        """Whether every video is done or was left out."""
        return len(self._found) + len(self._unreadable) == len(self.match.dataset)

    @property
    def left_out(self) -> tuple[Problem, ...]:
        """The videos that cannot be read to their end."""
        return tuple(self._unreadable[place] for place in sorted(self._unreadable))

    @property
    def found(self) -> list[Found]:
        """Of the videos that are done, in the order of the data set."""
        return [self._found[place] for place in sorted(self._found)]

    def readable(self) -> VideoDataset:
        """The data set without the videos that were left out. DataError where none is left."""
        dataset = self.match.dataset
        if not self._unreadable:
            return dataset
        videos = [video for place, video in enumerate(dataset.videos) if place not in self._unreadable]
        if not videos:
            raise DataError(f"data set '{dataset.name}': no video can be read to its end; unpack the frames again")
        return replace(dataset, videos=videos)


class Scoreboard(Board[list[dict]]):
    """Instances: results and identities, in the order of the videos."""

    def __init__(self, match: ClassMatch):
        super().__init__(match)
        self._identities = IdentityReport()

    def add(self, place: int, scorer: VideoScorer) -> None:
        """A video that is done."""
        dataset = self.match.dataset
        video = cast(AnnotatedVideo, dataset.videos[place])  # else there is no ground truth
        self._found[place] = scorer.results(video.id, [category.id for category in dataset.categories])
        tubes = [compress(list(o.segmentations), video.height, video.width) for o in video.objects if not o.iscrowd]
        self._identities += identity_switches(tubes, scorer.seen())

    @property
    def results(self) -> list[dict]:
        """YouTube-VIS result entries of the videos that are done."""
        return [entry for found in self.found for entry in found]

    def truth(self) -> dict:
        """`ground_truth` of the videos that were not left out. DataError where none is left."""
        return ground_truth(self.readable())

    def evaluation(self, truth: dict | None = None) -> Evaluation:
        """truth: what `truth()` gives, where it was made already."""
        results = self.results
        report = evaluate_vis(self.truth() if truth is None else truth, results, allow_empty=True)
        notes = (self.match.note,) if self.match.note else ()
        broken = tuple(problem for problem in self.match.dataset.problems if problem.fatal)
        return Evaluation(report, self._identities, results, notes, broken + self.left_out)


class _Lane(Lane, Generic[AnyScorer]):
    def __init__(
        self,
        place: int,
        video: Video,
        contract: GraphContract,
        options: ScoringOptions,
        scorer_of: Callable[[int, Letterbox], AnyScorer],
    ):
        super().__init__(place, video, contract)
        self.rollout = Rollout(scorer_of(place, self.letterbox), contract)
        self._cuts = cut_finder(options.cuts)

    def at_cut(self) -> bool:
        """Whether a new scene begins with the frame that the lane is at; to be asked once a frame."""
        return self._cuts.is_cut(self.letterbox.content(self.canvas), 0.0)


def run_dataset(
    backend: Backend,
    match: ClassMatch,
    *,
    streams: int = 4,
    options: ScoringOptions | None = None,
    progress: bool = True,
    leave_out: Callable[[int, DataError], None] | None = None,
) -> Iterator[tuple[int, VideoScorer]]:
    """Run every video from its first frame; gives (place in the data set, its scorer) as they finish.

    backend: with raw outputs. match: `match_classes` of the data set and the backend's classes. streams: videos that
    share a step; each gives what it would give alone (to rounding). leave_out: called with the place of a video that
    has a frame which cannot be read, and why; without it that ends the run.
    """
    scoring = replace(options or ScoringOptions(), columns=match.columns)
    _check_outputs(backend)
    return score_dataset(
        backend,
        match.dataset,
        lambda _, letterbox: VideoScorer(letterbox, scoring),
        streams=streams,
        options=scoring,
        progress=progress,
        leave_out=leave_out,
    )


def score_dataset(
    backend: Backend,
    dataset: VideoDataset,
    scorer_of: Callable[[int, Letterbox], AnyScorer],
    *,
    streams: int,
    options: ScoringOptions,
    progress: bool = True,
    leave_out: Callable[[int, DataError], None] | None = None,
) -> Iterator[tuple[int, AnyScorer]]:
    """`run_dataset` with any scorers: scorer_of makes that of a video, by its place and the letterbox of its frames."""
    contract = backend.contract
    lanes = (_Lane(place, video, contract, options, scorer_of) for place, video in enumerate(dataset.videos))
    # Not closed: the backend is the caller's.
    session = VideoSession(backend)
    frames = frames_of(dataset)
    for round_ in rounds(lanes, [session], frames=frames, streams=streams, progress=progress, leave_out=leave_out):
        for lane in round_:
            if lane.at_cut():
                session.reset(lane.place)
                lane.rollout.cut()
        outputs = step(session, round_)
        for lane in round_:
            found = outputs[lane.place]
            lane.rollout.scorer.add(lane.rollout.link(found) if options.handover else found)
            if lane.last:
                yield lane.place, lane.rollout.scorer


def _check_outputs(backend: Backend) -> None:
    if backend.contract.output_kind != "raw":
        raise DataError(
            "the model's outputs are chosen detections, but AP needs all of them; export with --outputs raw"
        )


def evaluate_backend(
    backend: Backend,
    dataset: VideoDataset,
    *,
    streams: int = 4,
    options: ScoringOptions | None = None,
    progress: bool = True,
    skip_broken: bool = False,
    keep: Callable[[Scoreboard], None] | None = None,
) -> Evaluation:
    """`run_dataset`, what the official evaluator says of its results, and whether identities held.

    skip_broken: a video with a frame that cannot be read is left out and named in place of ending the run. keep: called
    with what was found before it is scored, and, where something ends the run, with what was found until then.

    Raises DataError where the classes of model and data set have different names (`match_classes`), and for a frame
    that cannot be read.
    """
    board = Scoreboard(match_classes(dataset, backend.contract.class_names))
    # What cannot be run or scored is refused before anything runs.
    _check_outputs(backend)
    frames_of(board.match.dataset)
    board.truth()
    leave_out = board.leave_out if skip_broken else None
    try:
        for place, scorer in run_dataset(
            backend, board.match, streams=streams, options=options, progress=progress, leave_out=leave_out
        ):
            board.add(place, scorer)
    except DataError as error:
        raise DataError(f"{error}, or leave broken videos out with --skip-broken") from None
    finally:
        if keep is not None:
            keep(board)
    return board.evaluation()


def scorable(outputs: RawOutputs) -> RawOutputs:
    """Outputs with NaN, which no evaluator ranks, see nothing there."""
    if outputs.finite():
        return outputs
    logits, masks = (
        np.nan_to_num(array, nan=-80.0, posinf=80.0, neginf=-80.0) for array in (outputs.logits, outputs.mask_logits)
    )
    return replace(outputs, logits=logits, mask_logits=masks)
