"""A backend over a panoptic data set: outputs frame by frame -> merged maps -> files in VIPSeg's layout -> VPQ and STQ.

The maps are those of `l2g run`, and what is scored is what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from l2g.contract import GraphContract
from l2g.data.classes import ClassMatch, match_classes
from l2g.data.dataset import Problem, VideoDataset
from l2g.data.vipseg import PanopticVideo
from l2g.errors import DataError
from l2g.evaluation.lanes import frames_of
from l2g.evaluation.run import Board, ScoringOptions, evaluate_backend, score_dataset
from l2g.metrics.stq import StqReport, evaluate_stq
from l2g.metrics.vpq import NAMED_WINDOWS, WINDOWS, VpqReport, evaluate_vpq
from l2g.runtime.backends.base import Backend
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.outputs import FrameOutputs
from l2g.runtime.panoptic.assembler import PanopticAssembler
from l2g.runtime.panoptic.files import MAPS, RESULTS, Categories, VideoMaps, write_results
from l2g.runtime.panoptic.options import PanopticOptions
from l2g.runtime.panoptic.segmentation import Segmentation
from l2g.runtime.picture.letterbox import Letterbox

PARTIAL = "pred.partial.json"


def is_panoptic(dataset: VideoDataset) -> bool:
    """Whether it has a map of things and stuff for each frame."""
    return bool(len(dataset.videos)) and isinstance(dataset.videos[0], PanopticVideo)


def metric_of(dataset: VideoDataset) -> str:
    """What a data set is scored by in one number: "VPQ" where it has maps of things and stuff, else "AP"."""
    return "VPQ" if is_panoptic(dataset) else "AP"


def score(backend: Backend, dataset: VideoDataset, streams: int, progress: bool = True) -> float:
    """`metric_of` the data set in percent; DataError where nothing is annotated."""
    if is_panoptic(dataset):
        value = evaluate_panoptic(backend, dataset, streams=streams, progress=progress).stats()["VPQ"]
    else:
        share = evaluate_backend(backend, dataset, streams=streams, progress=progress).report.stats["AP"]
        value = None if share < 0 else 100 * share
    if value is None:
        raise DataError(
            f"data set '{dataset.name}' holds no annotation that counts, so there is no {metric_of(dataset)}; "
            "use another"
        )
    return value


@dataclass(frozen=True)
class PanopticEvaluation:
    """What a backend did on a panoptic data set.

    vpq, stq: the official evaluators' numbers. names: of the classes, by the data set's id. notes: how the two sides'
    classes were matched, where there is something to say. left_out: what could not be read.
    """

    vpq: VpqReport
    stq: StqReport
    names: dict[int, str]
    things: dict[int, bool]
    notes: tuple[str, ...] = ()
    left_out: tuple[Problem, ...] = ()

    @property
    def windows(self) -> tuple[int, ...]:
        """The lengths that VPQ is the mean over: those of the paper, or of them those that some video is as long as."""
        return tuple(length for length in NAMED_WINDOWS[0] if self.vpq.windows[length].vpq is not None)

    def stats(self) -> dict[str, float | None]:
        """VPQ, of things and of stuff, STQ, SQ and AQ in percent; None where there is nothing to count."""
        means = self.vpq.mean(self.windows)
        quality = self.stq.total
        return {
            "VPQ": means["VPQ"],
            "VPQ_things": means["VPQ_thing"],
            "VPQ_stuff": means["VPQ_stuff"],
            "STQ": 100 * quality.stq,
            "SQ": 100 * quality.sq,
            "AQ": 100 * quality.aq,
        }

    def per_category(self) -> list[dict[str, Any]]:
        """Of each class that occurs VPQ in percent, the mean over those of `windows` in which it does."""
        rows = []
        for id_, name in self.names.items():
            every = [self.vpq.windows[length].per_category[id_] for length in self.windows]
            if found := [quality for quality in every if quality.tp + quality.fp + quality.fn]:
                mean = 100 * sum(quality.pq for quality in found) / len(found)
                rows.append({"id": id_, "name": name, "isthing": self.things[id_], "VPQ": mean})
        return rows

    def to_json(self) -> dict[str, Any]:
        windows = {
            str(length): {"VPQ": window.vpq, "VPQ_things": window.vpq_thing, "VPQ_stuff": window.vpq_stuff}
            for length, window in self.vpq.windows.items()
        }
        return {
            **self.stats(),
            "mean_over": list(self.windows),
            "windows": windows,
            "per_category": self.per_category(),
            "notes": [*self.notes, *self.report_notes],
            "left_out": [str(problem) for problem in self.left_out],
        }

    @property
    def report_notes(self) -> tuple[str, ...]:
        """What the evaluators had to overlook, each said once."""
        return tuple(dict.fromkeys((*self.vpq.notes, *self.stq.notes)))

    def table(self) -> str:
        return f"{self.vpq.table()}\n{self.stq.table()}"


class Merging:
    """One video's outputs, whose slots are identities, merged frame after frame. segmentation: of the last frame."""

    segmentation: Segmentation

    def __init__(self, letterbox: Letterbox, contract: GraphContract, options: PanopticOptions | None = None):
        self._assembler = PanopticAssembler(letterbox, contract, options=options, handover=False)
        self._frames = 0

    def add(self, outputs: FrameOutputs) -> None:
        """The next frame's outputs, B = 1."""
        result = self._assembler.assemble(outputs, self._frames, 0.0)
        assert result.panoptic is not None
        self.segmentation = result.panoptic
        self._keep(result)
        self._frames += 1

    def cut(self) -> None:
        """A new scene begins with the next frame: its slots are other things."""
        self._assembler.reset()

    def _keep(self, result: FrameResult) -> None:
        """Nothing is kept of a frame."""


class PanopticScorer(Merging):
    """The same, and each frame's map is written at once. name_of: the map's name, by the frame's number."""

    def __init__(
        self,
        letterbox: Letterbox,
        contract: GraphContract,
        options: PanopticOptions | None,
        maps: VideoMaps,
        name_of: Callable[[int], str],
    ):
        super().__init__(letterbox, contract, options)
        self.maps, self._name_of = maps, name_of

    def _keep(self, result: FrameResult) -> None:
        self.maps.write(result, self._name_of(result.index))


class PanopticBoard(Board[str]):
    """What one model found in the videos of a data set; a context manager.

    match: the data set as the model can be scored on it. contract: of the model; where it knows no stuff the data set
    says what is. folder: for `pred.json` and `pan_pred/`; None is one that is removed in the end.

    Raises DataError for a data set without maps of things and stuff, or without what VPQ asks of their segments.
    """

    def __init__(
        self,
        match: ClassMatch,
        contract: GraphContract,
        folder: str | Path | None = None,
        options: PanopticOptions | None = None,
    ):
        super().__init__(match)
        dataset = match.dataset
        frames_of(dataset)
        for video in dataset.videos:
            if not isinstance(video, PanopticVideo):
                raise DataError(
                    f"data set '{dataset.name}' has no maps of things and stuff; give one in VIPSeg's layout "
                    "(vipseg:DIR, synthetic_panoptic:val), or score instances with --task instances"
                )
            _check_segments(video)
        columns = match.columns or tuple(range(len(dataset.categories)))
        labels = {column: label for label, column in enumerate(columns)}
        categories = [dataset.categories[labels[label]] for label in range(len(columns))]
        stuff = contract.stuff_classes or tuple(
            label for label, category in enumerate(categories) if not category.is_thing
        )
        self.contract = replace(contract, stuff_classes=stuff)
        self.categories = Categories(
            tuple(category.id for category in categories),
            tuple(category.name for category in categories),
            tuple(category.is_thing for category in categories),
        )
        self.notes: tuple[str, ...] = (match.note,) if match.note else ()
        odd = [c.name for label, c in enumerate(categories) if c.is_thing == (label in stuff)]
        if odd:
            self.notes += (
                f"of {len(odd)} classes the data set has it otherwise than the model what is stuff: {odd[0]}",
            )
        self._options = options
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory()) if folder is None else folder)

    def scorer(self, place: int, letterbox: Letterbox) -> PanopticScorer:
        """Of a video, by its place in the data set and the letterbox of its frames."""
        video: Any = self.match.dataset.videos[place]
        maps = VideoMaps(self.folder, video.id, self.categories)
        return PanopticScorer(letterbox, self.contract, self._options, maps, video.map_name)

    def add(self, place: int, scorer: PanopticScorer) -> None:
        """A video that is done."""
        self._found[place] = "".join(scorer.maps.entry())
        scorer.maps.close()

    def write(self) -> Path:
        """`pred.json` of the videos that are done; before all are, it is named `PARTIAL`."""
        path = self.folder / (RESULTS if self.complete else PARTIAL)
        write_results(path, ([entry] for entry in self.found), self.categories)
        if self.complete:
            (self.folder / PARTIAL).unlink(missing_ok=True)  # of an earlier run
        return path

    def evaluation(self) -> PanopticEvaluation:
        """What the official evaluators say of what was written. DataError where no video was read to its end."""
        dataset = self.match.dataset
        truth, maps = panoptic_truth(self.readable())
        files = truth, maps, self.write(), self.folder / MAPS
        broken = tuple(problem for problem in dataset.problems if problem.fatal)
        return PanopticEvaluation(
            evaluate_vpq(*files, WINDOWS),
            evaluate_stq(*files),
            {category.id: category.name for category in dataset.categories},
            {category.id: category.is_thing for category in dataset.categories},
            self.notes,
            broken + self.left_out,
        )

    def __enter__(self) -> PanopticBoard:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _check_segments(video: PanopticVideo) -> None:
    for time, segments in enumerate(video.segments):
        for segment in segments:
            if missing := [key for key in ("area", "iscrowd") if key not in segment]:
                raise DataError(
                    f"video '{video.name}', frame {time}, segment {segment['id']}: has no '{missing[0]}', which VPQ "
                    "needs; add it to the annotation's segments_info"
                )


class _Maps(Sequence[np.ndarray]):
    """A video's annotated maps, uint32 [H, W] each, read when they are asked for."""

    def __init__(self, video: PanopticVideo):
        self._video = video

    def __len__(self) -> int:
        return self._video.length

    def __getitem__(self, t: Any) -> Any:
        return self._video.panoptic(t)


def panoptic_truth(dataset: VideoDataset) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The annotation for `evaluate_vpq` and `evaluate_stq`: the JSON object, and the maps by video id."""
    videos: list[Any] = list(dataset.videos)
    return {
        "categories": [{"id": category.id, "isthing": int(category.is_thing)} for category in dataset.categories],
        "annotations": [
            {"video_id": video.id, "annotations": [{"segments_info": segments} for segments in video.segments]}
            for video in videos
        ],
    }, {video.id: _Maps(video) for video in videos}


def evaluate_panoptic(
    backend: Backend,
    dataset: VideoDataset,
    *,
    streams: int = 4,
    scoring: ScoringOptions | None = None,
    options: PanopticOptions | None = None,
    progress: bool = True,
    skip_broken: bool = False,
    folder: str | Path | None = None,
    keep: Callable[[PanopticBoard], None] | None = None,
) -> PanopticEvaluation:
    """Run every video from its first frame, and score what was written.

    backend: with outputs of any kind. dataset: with maps of things and stuff. scoring: of it `handover` and `cuts`.
    options: how slots become segments. skip_broken: a video with a frame that cannot be read is left out and named in
    place of ending the run. folder: for `pred.json` and `pan_pred/`, which is what a submission holds; None keeps none.
    keep: called with the board when all has run or something ended the run.

    Raises DataError where the classes of model and data set have different names (`match_classes`), for a data set
    without maps, and for a frame that cannot be read.
    """
    match = match_classes(dataset, backend.contract.class_names)
    with PanopticBoard(match, backend.contract, folder, options) as board:
        try:
            for place, scorer in score_dataset(
                backend,
                match.dataset,
                board.scorer,
                streams=streams,
                options=scoring or ScoringOptions(),
                progress=progress,
                leave_out=board.leave_out if skip_broken else None,
            ):
                board.add(place, scorer)
        except DataError as error:
            raise DataError(f"{error}, or leave broken videos out with --skip-broken") from None
        finally:
            if keep is not None:
                keep(board)
        return board.evaluation()
