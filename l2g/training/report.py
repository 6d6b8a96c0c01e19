"""What a trained model is worth, for a person: AP by class, what is taken for what, and the worst videos."""

from __future__ import annotations

import base64
import html
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from l2g.data.dataset import AnnotatedVideo, VideoDataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import L2GError
from l2g.evaluation.run import Evaluation
from l2g.files import write_atomically, write_json
from l2g.metrics.rle import Rle, compress
from l2g.metrics.vis_ap import evaluate_vis
from l2g.training.examine import side_by_side
from l2g.training.journal import CURVES, png

# An object counts as found, and a result as a claim, from these on.
FOUND_IOU, CLAIM_SCORE = 0.5, 0.5
WORST = 5  # videos that are named and drawn
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:960px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%;display:block;margin:.3rem 0}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.hit{font-weight:600;color:#1b7a3d}.note{color:#555;font-size:.9rem}
"""


@dataclass(frozen=True)
class ClassScore:
    """AP and AP50 of a class in percent, None where no object counts, and how many objects there are."""

    name: str
    AP: float | None
    AP50: float | None
    objects: int


@dataclass(frozen=True)
class VideoScore:
    """A video: its number in the data set, its AP in percent, and how many of its objects were found."""

    place: int
    name: str
    AP: float | None
    objects: int
    found: int


@dataclass(frozen=True)
class TrainingReport:
    """Scores of the final weights on the data set of the evaluation.

    AP, AP50, AR10: percent. confusion: a row for each class of the truth and one for no object, a column for each class
    that was claimed and one for none; numbers of objects. worst: videos, the lowest AP first.
    """

    dataset: str
    videos: int
    AP: float | None
    AP50: float | None
    AR10: float | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[VideoScore, ...]

    def summary(self) -> str:
        """A few lines."""
        rows = [f"AP {_shown(self.AP)}, AP50 {_shown(self.AP50)}, AR10 {_shown(self.AR10)} on {self.videos} videos"]
        rows += [f"  {found.name}: AP {_shown(found.AP)} ({found.objects} objects)" for found in self.classes]
        return "\n".join(rows)


def build_report(dataset: VideoDataset, evaluation: Evaluation) -> TrainingReport:
    """dataset: that of `evaluation`, of videos with objects."""
    report, results = evaluation.report, evaluation.results
    objects = np.zeros(len(dataset.categories), int)
    confusion = np.zeros((len(dataset.categories) + 1,) * 2, int)
    videos = []
    for place, video in enumerate(dataset.videos):
        own = [entry for entry in results if entry["video_id"] == video.id]
        labels, claims = _compared(cast(AnnotatedVideo, video), own, dataset)
        np.add.at(objects, labels[labels >= 0], 1)
        np.add.at(confusion, (labels, claims), 1)
        truth = ground_truth(replace(dataset, videos=[video]))
        score = _percent(evaluate_vis(truth, own, allow_empty=True).stats["AP"])
        found = int(((labels >= 0) & (claims >= 0)).sum())
        videos.append(VideoScore(place, video.name, score, int((labels >= 0).sum()), found))
    scored = sorted((video for video in videos if video.AP is not None), key=lambda video: video.AP or 0.0)
    classes = []
    for category, count in zip(dataset.categories, objects.tolist(), strict=True):
        found_of = report.per_category[category.id]
        classes.append(ClassScore(category.name, _percent(found_of["AP"]), _percent(found_of["AP50"]), count))
    ap, ap50, ar10 = (_percent(report.stats[name]) for name in ("AP", "AP50", "AR10"))
    rows = tuple(tuple(row) for row in confusion.tolist())
    return TrainingReport(dataset.name, len(dataset), ap, ap50, ar10, tuple(classes), rows, tuple(scored[:WORST]))


def _compared(video: AnnotatedVideo, results: list[dict], dataset: VideoDataset) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (label of the truth, claimed label), int64 [P] each: -1 where there is no object, or no claim.

    The best claims choose first, each the object that it covers best.
    """
    places = {category.id: label for label, category in enumerate(dataset.categories)}
    truth = [o for o in video.objects if not o.iscrowd]
    tubes = [compress(list(o.segmentations), video.height, video.width) for o in truth]
    taken: dict[int, int] = {}
    pairs = []
    for entry in sorted((e for e in results if e["score"] >= CLAIM_SCORE), key=lambda e: -e["score"]):
        claim = places[entry["category_id"]]
        ious = [-1.0 if i in taken else _tube_iou(entry["segmentations"], tube) for i, tube in enumerate(tubes)]
        best = int(np.argmax(ious)) if ious else -1
        if ious and ious[best] >= FOUND_IOU:
            taken[best] = claim
        else:
            pairs.append((-1, claim))
    pairs += [(found.label, taken.get(i, -1)) for i, found in enumerate(truth)]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _tube_iou(one: list[Rle | None], other: list[Rle | None]) -> float:
    from pycocotools import mask as coco

    common = union = 0.0
    for a, b in zip(one, other, strict=True):
        codes = [code for code in (a, b) if code]
        if codes:
            area = float(coco.area(coco.merge(codes)))
            union += area
            common += sum(float(coco.area(code)) for code in codes) - area
    return common / union if union else 0.0


def write_report(report: TrainingReport, dataset: VideoDataset, results: list[dict], folder: Path) -> None:
    """report.json and report.html, which needs nothing else."""
    write_json(folder / "report.json", asdict(report))
    with write_atomically(folder / "report.html", L2GError) as temporary:
        Path(temporary).write_text(_page(report, dataset, results, folder), encoding="utf-8")


def _page(report: TrainingReport, dataset: VideoDataset, results: list[dict], folder: Path) -> str:
    names = [found.name for found in report.classes]
    classes = _table(
        ("class", "AP", "AP50", "objects"),
        [(c.name, _shown(c.AP), _shown(c.AP50), str(c.objects)) for c in report.classes],
    )
    heads = ("truth", *names, "not found")
    rows = [(name, *map(str, row)) for name, row in zip([*names, "no object"], report.confusion, strict=True)]
    worst = "".join(
        f"<h3>{html.escape(video.name)}: AP {_shown(video.AP)}, {video.found} of {video.objects} objects found</h3>"
        f"{_image(png(side_by_side(dataset, video.place, results)))}"
        for video in report.worst
    )
    curves = folder / CURVES
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Training</title><style>{_STYLE}</style>'
        f"</head><body><h1>AP {_shown(report.AP)} on {html.escape(report.dataset)}</h1>"
        f'<p class="note">{report.videos} videos; AP50 {_shown(report.AP50)}, AR10 {_shown(report.AR10)}</p>'
        f"<h2>By class</h2>{classes}<h2>What was taken for what</h2>{_table(heads, rows, diagonal=True)}"
        f'<p class="note">Numbers of objects. Rows are the truth, columns what was claimed with a score of '
        f"{CLAIM_SCORE:g} or more, at an overlap of {FOUND_IOU:g} or more over the whole video.</p>"
        f"<h2>The worst videos</h2><p class=note>Left: the truth. Right: what was found.</p>{worst}"
        + (f"<h2>The run</h2>{_image(curves.read_bytes())}" if curves.is_file() else "")
        + "</body></html>\n"
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], diagonal: bool = False) -> str:
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    for number, row in enumerate(rows, 1):
        marks = [" class=hit" if diagonal and column == number else "" for column in range(len(row))]
        lines.append("".join(f"<td{m}>{html.escape(cell)}</td>" for m, cell in zip(marks, row, strict=True)))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _image(data: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _percent(fraction: float) -> float | None:
    return None if fraction < 0 else round(100 * fraction, 2)


def _shown(percent: float | None) -> str:
    return "n/a" if percent is None else f"{percent:.1f}"
