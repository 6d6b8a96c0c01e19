"""Is it the model? Teacher-forced and free over drawn videos, and AP, against PyTorch in FP32 on the processor."""

from __future__ import annotations

from contextlib import ExitStack, closing

import torch

from l2g.data.classes import match_classes
from l2g.data.registry import load_dataset
from l2g.errors import DataError
from l2g.evaluation.parity.report import ParityReport
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.gpucheck.notebook import Context
from l2g.gpucheck.report import Figure
from l2g.gpucheck.steps.opening import open_way
from l2g.gpucheck.ways import PYTORCH, WAYS, Way

# Data sets of the plan, in the order of worth: AP needs several videos, drift needs a long one.
DATASETS = ("val", "long")
REFERENCE = next(way for way in WAYS if (way.library, way.precision) == (PYTORCH, "fp32"))


def run(context: Context) -> None:
    way = context.step.way
    assert way is not None  # of a step of this kind
    with ExitStack() as stack:
        reference = stack.enter_context(closing(open_way(context, REFERENCE, torch.device("cpu"))))
        candidate, forced = (stack.enter_context(closing(open_way(context, way))) for _ in range(2))
        for name in DATASETS:
            dataset = load_dataset(context.folder / "data" / name)
            try:
                match_classes(dataset, reference.contract.class_names)
                scored = True
            except DataError:  # another model's classes: the rest is compared all the same
                scored = False
            options = ParityOptions(ap=scored, pictures=0)
            report = run_parity(reference, candidate, forced, dataset, options=options, progress=False)
            context.notebook.add(*_figures(report, f"{context.subject}, {name}", way))


def _figures(report: ParityReport, subject: str, way: Way) -> list[Figure]:
    frames = sum(len(video.free) for video in report.videos)
    found = [
        Figure(
            subject, way.name, check.name, "", check.value, limit=check.limit,
            passed=None if check.limit is None else check.passed, note=check.detail,
        )
        for check in report.checks
    ]  # fmt: skip
    found.append(Figure(subject, way.name, "frames compared", "frames", float(frames)))
    if report.ap_candidate is not None:
        found.append(Figure(subject, way.name, "AP", "percent", report.ap_candidate["AP"]))
    return found
