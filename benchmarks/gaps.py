"""What frames that are passed over cost: a live stream takes the newest one, and the model sees every n-th.

    python benchmarks/gaps.py --model l2g_tiny --datasets synthetic:val synthetic:long --videos 16

Scored are the same frames, every `--every`-th, however many of those between the model saw: AP in percent and the
changes of identity per object and 100 of the scored frames. The last line begins anew at every scored frame, which is
what a gap costs that resets a stream.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from typing import cast

from l2g.data.dataset import AnnotatedVideo, VideoDataset
from l2g.data.registry import load_dataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import L2GError
from l2g.evaluation.run import Rollout, ScoringOptions, VideoScorer
from l2g.metrics.identities import IdentityReport, identity_switches
from l2g.metrics.rle import compress
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.session import VideoSession


def thinned(truth: dict, every: int) -> dict:
    """The annotation of every `every`-th frame; objects that are in none of them are left out."""
    videos = [
        {**video, "length": len(video["file_names"][::every]), "file_names": video["file_names"][::every]}
        for video in truth["videos"]
    ]
    marks = [
        {**mark, **{key: mark[key][::every] for key in ("segmentations", "areas", "bboxes") if key in mark}}
        for mark in truth["annotations"]
    ]
    return {**truth, "videos": videos, "annotations": [mark for mark in marks if any(mark["segmentations"])]}


def measure(
    backend: Backend, dataset: VideoDataset, stride: int, every: int, resets: bool = False
) -> tuple[float, float]:
    """AP in percent and changes of identity, by a model that sees every `stride`-th frame."""
    results: list[dict] = []
    identities = IdentityReport()
    session = VideoSession(backend)
    for video in cast("list[AnnotatedVideo]", list(dataset.videos)):
        box = letterbox_of(backend.contract, video.height, video.width)
        rollout = Rollout(VideoScorer(box, ScoringOptions()), backend.contract)
        session.join(video.id)
        for t in range(0, video.length, stride):
            if resets and t:
                session.reset(video.id)
                rollout.cut()
            outputs = session.step({video.id: box.to_canvas(video.frame(t))})[video.id]
            linked = rollout.link(cast(RawOutputs, outputs))
            if t % every == 0:
                rollout.scorer.add(linked)
        session.leave(video.id)
        results += rollout.scorer.results(video.id, [category.id for category in dataset.categories])
        tubes = [
            compress(list(found.segmentations)[::every], video.height, video.width)
            for found in video.objects
            if not found.iscrowd and any(list(found.segmentations)[::every])
        ]
        identities += identity_switches(tubes, rollout.scorer.seen())
    report = evaluate_vis(thinned(ground_truth(dataset), every), results, allow_empty=True)
    return 100 * report.stats["AP"], identities.switches_per_100_frames


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny")
    parser.add_argument("--datasets", nargs="+", default=["synthetic:val", "synthetic:long"])
    parser.add_argument("--videos", type=int, default=16, help="the first N of each (default 16)")
    parser.add_argument("--every", type=int, default=8, help="frames that are scored (default every 8th)")
    args = parser.parse_args(argv)
    strides = [stride for stride in range(1, args.every + 1) if args.every % stride == 0]
    try:
        with closing(open_backend(args.model, top_k=None)) as backend:
            for name in args.datasets:
                whole = load_dataset(name)
                dataset = VideoDataset(whole.name, whole.categories, whole.videos[: args.videos])
                print(f"{name}, {len(dataset.videos)} videos: of every {args.every}th frame")
                for stride in strides:
                    ap, switches = measure(backend, dataset, stride, args.every)
                    print(f"  sees every {stride}: AP {ap:5.1f}, {switches:.2f} changes", flush=True)
                ap, switches = measure(backend, dataset, args.every, args.every, resets=True)
                print(f"  begins anew at each: AP {ap:5.1f}, {switches:.2f} changes", flush=True)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
