"""Is an object found, and is it called by its name? Two things that AP mixes, apart.

    python benchmarks/naming.py --models l2g_tiny runs/tiny/phase0.safetensors --dataset synthetic:val

In every frame in which an annotated object is visible: whether some slot's mask stands for it (IoU of at least 0.5,
with any confidence), and of those the most confident one's best class. Once with the state carried, and once with every
frame a first frame, which is what the image segmenter alone knows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco

from l2g.data.classes import match_classes
from l2g.data.dataset import AnnotatedVideo, VideoDataset
from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.run import ScoringOptions, VideoScorer, run_dataset
from l2g.metrics.identities import SAME_OBJECT
from l2g.metrics.rle import compress
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.outputs import RawOutputs


class Forgetful:
    """A backend to which every frame is a first frame."""

    def __init__(self, backend: Backend):
        self.backend, self.contract = backend, backend.contract
        self.read_state, self.write_state, self.close = backend.read_state, backend.write_state, backend.close

    def step(self, frames: np.ndarray, reset: np.ndarray) -> RawOutputs:
        return self.backend.step(frames, np.ones_like(reset))


@dataclass(frozen=True)
class Naming:
    """Counts over object-frames: visible, found, and found and called right. named[k, j]: found ones of class k that
    were called j, int64 [K, K]. probability: sum of what the found ones' slots gave the right class."""

    visible: int
    named: np.ndarray
    probability: float

    def __add__(self, other: Naming) -> Naming:
        return Naming(self.visible + other.visible, self.named + other.named, self.probability + other.probability)

    @property
    def found(self) -> float:
        """Share of the visible, 0..1."""
        return self.named.sum() / max(1, self.visible)

    @property
    def right(self) -> float:
        """Share of the found, 0..1."""
        return np.trace(self.named) / max(1, self.named.sum())


def measure(backend: Backend, dataset: VideoDataset, streams: int = 4) -> Naming:
    """Slots as they are: identities play no part."""
    classes = len(dataset.categories)
    total = Naming(0, np.zeros((classes, classes), np.int64), 0.0)
    for index, scorer in run_dataset(
        backend,
        match_classes(dataset, backend.contract.class_names),
        streams=streams,
        options=ScoringOptions(handover=False),
    ):
        total += name_objects(dataset.videos[index], scorer, classes)
    return total


def name_objects(video: AnnotatedVideo, scorer: VideoScorer, classes: int) -> Naming:
    """One video's counts."""
    objects = [o for o in video.objects if not o.iscrowd]
    tubes = [compress(o.segmentations, video.height, video.width) for o in objects]
    named, visible, probability = np.zeros((classes, classes), np.int64), 0, 0.0
    for t, (codes, probabilities) in enumerate(scorer.frames()):
        shown = [k for k, tube in enumerate(tubes) if tube[t]]
        visible += len(shown)
        slots = list(codes)
        if not shown or not slots:
            continue
        ious = coco.iou([codes[slot] for slot in slots], [tubes[k][t] for k in shown], [0] * len(shown))
        for k, overlap in zip(shown, ious.T, strict=True):
            standing = [slot for slot, iou in zip(slots, overlap, strict=True) if iou >= SAME_OBJECT]
            if standing:
                scores = probabilities[max(standing, key=lambda slot: probabilities[slot].max())]
                named[objects[k].label, scores.argmax()] += 1
                probability += float(scores[objects[k].label])
    return Naming(visible, named, probability)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["l2g_tiny"], help="checkpoints, .onnx files, shipped models")
    parser.add_argument("--dataset", default="synthetic:val")
    parser.add_argument("--videos", type=int, metavar="N", help="only the first N videos")
    parser.add_argument("--confusion", action="store_true", help="print which class was called which, too")
    options = parser.parse_args(argv)
    try:
        dataset = load_dataset(options.dataset, "valid")
        dataset = replace(dataset, videos=dataset.videos[: options.videos])
        print("| model | frames | found, % | called right, % | probability of the right class |")
        print("|---|---|---|---|---|")
        for model in options.models:
            with closing(open_backend(model, top_k=None)) as backend:
                for how, driven in (("with state", backend), ("each a first frame", Forgetful(backend))):
                    one = measure(driven, dataset)
                    mean = one.probability / max(1, one.named.sum())
                    print(
                        f"| {model} | {how} | {100 * one.found:.1f} | {100 * one.right:.1f} | {mean:.3f} |", flush=True
                    )
                    if options.confusion:
                        print_confusion(one.named, [category.name for category in dataset.categories])
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_confusion(named: np.ndarray, names: Sequence[str]) -> None:
    """A row per true class, a column per class that it was called, in percent of the row."""
    wide = max(map(len, names))
    for name, row in zip(names, named, strict=True):
        print(f"  {name:{wide}} " + " ".join(f"{100 * n / max(1, row.sum()):5.1f}" for n in row))


if __name__ == "__main__":
    sys.exit(main())
