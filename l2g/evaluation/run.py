"""A backend over a whole data set: raw outputs frame by frame -> YouTube-VIS results -> AP.

The scoring is that of the public VIS models: a slot's score for a class is its mean probability over the video, and the
best (slot, class) pairs are the results. Training, evaluation and parity all come through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from l2g.data.dataset import Video, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import DataError
from l2g.metrics.identities import IdentityReport, identity_switches
from l2g.metrics.rle import compress
from l2g.metrics.vis_ap import VisReport, evaluate_vis
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend, RawOutputs
from l2g.runtime.identity.handover import Handover
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.picture.postprocess import sigmoid
from l2g.runtime.session import VideoSession


@dataclass(frozen=True)
class ScoringOptions:
    """How a video's outputs become results.

    top_k: results per video, the best (slot, class) pairs. slots_per_frame: a frame's masks are kept for this many of
    its best slots (a slot that is not among them has no mask there); the number of queries or more keeps all.
    min_frame_score: a slot whose best class stays below this in a frame has no mask there (0 keeps all).
    identity_score: a slot counts as seen in a frame, for identities, from this best class probability on.
    handover: whether identities may move from slot to slot and shadows are left out (`Handover`);
    False: a slot is an identity, as the paper has it.
    """

    top_k: int = 100
    slots_per_frame: int = 100
    min_frame_score: float = 0.0
    identity_score: float = 0.5
    handover: bool = True


class VideoScorer:
    """Gathers one video's raw outputs, whose slots are identities; masks become run-length codes at once."""

    def __init__(self, letterbox: Letterbox, options: ScoringOptions):
        self.letterbox, self.options = letterbox, options
        self._probabilities: list[np.ndarray] = []
        self._codes: list[dict[int, dict]] = []

    def add(self, outputs: RawOutputs) -> None:
        """The next frame's outputs, B = 1."""
        probabilities = sigmoid(outputs.logits[0])
        best = probabilities.max(axis=1)
        kept = np.argsort(-best, kind="stable")[: self.options.slots_per_frame]
        codes = {}
        for slot in kept[best[kept] >= self.options.min_frame_score]:
            mask = self.letterbox.mask_to_source(outputs.mask_logits[0, slot])
            if mask.patch.size:
                codes[int(slot)] = mask.rle()
        self._probabilities.append(probabilities)
        self._codes.append(codes)

    def results(self, video_id: int, category_ids: Sequence[int]) -> list[dict]:
        """YouTube-VIS result entries, best first; equal scores in the order of category, then slot."""
        scores = np.mean(self._probabilities, axis=0)
        pairs = [
            (-float(score), category_ids[k], slot) for slot, row in enumerate(scores) for k, score in enumerate(row)
        ]
        return [
            {
                "video_id": video_id,
                "category_id": category,
                "score": -negative,
                "segmentations": [codes.get(slot) for codes in self._codes],
            }
            for negative, category, slot in sorted(pairs)[: self.options.top_k]
        ]

    def frames(self) -> list[tuple[dict[int, dict], np.ndarray]]:
        """Per frame ({slot: compressed RLE}, class probabilities float32 [N, K])."""
        return list(zip(self._codes, self._probabilities, strict=True))

    def seen(self) -> list[dict[int, dict]]:
        """Per frame {slot: compressed RLE} of the slots that count as seen."""
        return [
            {slot: code for slot, code in codes.items() if best[slot] >= self.options.identity_score}
            for codes, best in ((codes, probabilities.max(axis=1)) for codes, probabilities in self.frames())
        ]


@dataclass(frozen=True)
class Evaluation:
    """What a backend did on a data set: its scores, how its slots held the objects, and the YouTube-VIS results."""

    report: VisReport
    identities: IdentityReport
    results: list[dict]

    def to_json(self) -> dict:
        """AP and friends in percent, and the identities."""
        identities = {
            "switches_per_object_per_100_frames": round(self.identities.switches_per_100_frames, 3),
            "object_frames": self.identities.object_frames,
            "covered": round(100 * self.identities.coverage, 2),
        }
        return {**self.report.to_json(), "identities": identities}


def run_dataset(
    backend: Backend,
    dataset: VideoDataset,
    *,
    streams: int = 4,
    options: ScoringOptions | None = None,
    progress: bool = True,
) -> Iterator[tuple[int, VideoScorer]]:
    """Run every video from its first frame; gives (place in the data set, its scorer) as they finish.

    backend: with raw outputs. streams: videos that share a step; each gives what it would give alone (to rounding).

    Raises DataError when the data set's classes are not as many as the model's.
    """
    options = options or ScoringOptions()
    contract = backend.contract
    if len(contract.class_names) != len(dataset.categories):
        raise DataError(
            f"the model has {len(contract.class_names)} classes, "
            f"data set '{dataset.name}' has {len(dataset.categories)}; "
            "evaluate on the data set that the model was trained for"
        )
    if contract.output_kind != "raw":
        raise DataError(
            "the model's outputs are chosen detections, but AP needs all of them; export with --outputs raw"
        )
    waiting = iter(enumerate(dataset.videos))
    running: dict[int, _Run] = {}
    # Not closed: the backend is the caller's.
    session = VideoSession(backend)
    with tqdm(total=sum(v.length for v in dataset.videos), desc="frames", disable=not progress, mininterval=2) as bar:
        while True:
            _start(waiting, running, streams, session, options)
            if not running:
                return
            outputs = session.step({index: run.next_canvas() for index, run in running.items()})
            bar.update(len(running))
            for index, out in outputs.items():
                run = running[index]
                run.scorer.add(run.handover.link(out) if options.handover else out)
                if run.done:
                    session.leave(index)
                    del running[index]
                    yield index, run.scorer


def evaluate_backend(backend: Backend, dataset: VideoDataset, **how) -> Evaluation:
    """`run_dataset`, what the official evaluator says of its results, and whether identities held."""
    truth = ground_truth(dataset)
    category_ids = [category.id for category in dataset.categories]
    found: dict[int, list[dict]] = {}
    identities = IdentityReport()
    for index, scorer in run_dataset(backend, dataset, **how):
        video = dataset.videos[index]
        found[index] = scorer.results(video.id, category_ids)
        tubes = [compress(o.segmentations, video.height, video.width) for o in video.objects if not o.iscrowd]
        identities += identity_switches(tubes, scorer.seen())
    results = [entry for index in sorted(found) for entry in found[index]]
    return Evaluation(evaluate_vis(truth, results, allow_empty=True), identities, results)


class _Run:
    """One video on its way through a session."""

    def __init__(self, video: Video, scorer: VideoScorer, handover: Handover):
        self.video, self.scorer, self.handover, self._next = video, scorer, handover, 0

    @property
    def done(self) -> bool:
        return self._next >= self.video.length

    def next_canvas(self) -> np.ndarray:
        frame = self.video.frame(self._next)
        self._next += 1
        return self.scorer.letterbox.to_canvas(frame)


def _start(
    waiting: Iterator[tuple[int, Video]],
    running: dict[int, _Run],
    streams: int,
    session: VideoSession,
    options: ScoringOptions,
) -> None:
    while len(running) < streams:
        index, video = next(waiting, (None, None))
        if video is None:
            return
        contract = session.backend.contract
        scorer = VideoScorer(letterbox_of(contract, video.height, video.width), options)
        running[index] = _Run(video, scorer, Handover(contract))
        session.join(index)
