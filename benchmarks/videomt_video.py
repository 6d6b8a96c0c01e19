"""VidEoMT over real videos, fed back: what a graph differs by from the model, or from the FP32 graph.

    python benchmarks/videomt.py --make outputs/vits
    l2g export --ckpt outputs/vits --output outputs/vits.onnx
    python benchmarks/videomt_video.py --reference outputs/vits --candidate outputs/vits.onnx --videos vtest.avi
    python benchmarks/videomt_video.py --reference outputs/vits.onnx --candidate outputs/int8.onnx --videos vtest.avi

The same with a public checkpoint in place of the random one: --reference videomt-s-ytvis2019 --confidence 0.5. A video
has no truth, so there is no AP; agreement of masks and identities stands in for it. Exit code: that of l2g parity.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from l2g.cli.running.parity import open_models, parse_tolerances, write_report
from l2g.data.dataset import Category, Clip, Video, VideoDataset
from l2g.evaluation.parity.report import ParityReport
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.video.source import open_source


class PlainVideo(Video):
    """The first frames of a video file, which has no truth; they are kept in memory."""

    def __init__(self, number: int, path: Path, frames: int):
        with open_source(path) as source:
            self._frames = [frame.image.copy() for frame in itertools.islice(source, frames)]
        self.id, self.name, self.length = number, path.name, len(self._frames)
        self.height, self.width = self._frames[0].shape[:2]

    def frame(self, t: int) -> np.ndarray:
        return self._frames[t]

    def annotated_frames(self) -> np.ndarray:
        return np.zeros(0, np.int64)

    def read(self, times, rng=None) -> Clip:
        raise NotImplementedError("a video without truth has no clips to learn from")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="a checkpoint, or its FP32 graph")
    parser.add_argument("--candidate", required=True, help="what is to be judged")
    parser.add_argument("--library", choices=("onnxruntime", "openvino"), default="onnxruntime", help="the candidate's")
    parser.add_argument("--videos", nargs="+", required=True, type=Path)
    parser.add_argument("--frames", type=int, default=100, help="of each video")
    parser.add_argument("--confidence", type=float, default=0.8, help="slots of this score are objects")
    parser.add_argument("--tolerance", nargs="+", default=[], metavar="NAME=VALUE", help="as of l2g parity")
    parser.add_argument("--report", type=Path, help="a folder for parity.json and parity.html")
    options = parser.parse_args(argv)
    videos = [PlainVideo(number, path, options.frames) for number, path in enumerate(options.videos)]
    with ExitStack() as stack:
        models = open_models(options.reference, options.candidate, stack, {"library": options.library})
        spread = _spread(models[0], videos[0])
        names = models[0].contract.class_names
        dataset = VideoDataset("videos", tuple(Category(i + 1, name) for i, name in enumerate(names)), videos)
        report = run_parity(
            *models,
            dataset,
            options=ParityOptions(streams=len(videos), confidence=options.confidence, ap=False),
            tolerances=parse_tolerances(options.tolerance),
            names=(options.reference, options.candidate),
        )
    if options.report:
        write_report(report, options.report)
    print(report.table())
    for line in _lines(report, spread):
        print(line)
    return 0 if report.passed else 1


def _spread(backend: Backend, video: Video) -> float:
    """The standard deviation of the mask logits of a first frame, the unit of their differences."""
    canvas = letterbox_of(backend.contract, video.height, video.width).to_canvas(video.frame(0))
    outputs = backend.step(canvas[None], np.ones(1, bool))
    state = backend.read_state()
    assert state is not None
    backend.write_state(state.rows([]))
    return float(np.std(outputs.mask_logits))


def _lines(report: ParityReport, spread: float) -> list[str]:
    lines = []
    for video in report.videos:
        forced = video.forced
        lines += [
            "",
            f"{video.name}: {len(forced)} frames, {np.mean([d.counting for d in forced]):.0f} slots count in a frame",
            f"  from the same state, largest of all frames: queries {max(d.queries.max for d in forced):.2g}, logits "
            f"{max(d.logits.max for d in forced):.2g}, mask logits {max(d.mask_logits.max for d in forced):.2g}, "
            f"{max(d.mask_logits.max for d in forced) / spread:.2g} of their spread",
            f"  from the same state: mask IoU {_mean(d.mask_iou for d in forced):.4f}, identities "
            f"{_share(forced):.2f} %",
        ]
        for quarter in np.array_split(np.arange(len(video.free)), 4):
            free = [video.free[i] for i in quarter]
            lines.append(
                f"  free run, frames {quarter[0]:3d}..{quarter[-1]:3d}: mask logits "
                f"{max(d.mask_logits.max for d in free):.2g}, mask IoU {_mean(d.mask_iou for d in free):.4f}, "
                f"identities {_share(free):.2f} %"
            )
    return lines


def _mean(values) -> float:
    found = [value for value in values if math.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def _share(differences) -> float:
    """Percent of the counting slots that hold the same object."""
    counting = sum(d.counting for d in differences)
    return 100 * sum(d.agreeing for d in differences) / counting if counting else float("nan")


if __name__ == "__main__":
    sys.exit(main())
