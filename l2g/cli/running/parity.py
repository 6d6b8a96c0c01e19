"""Is an artifact the model it was made from? Two models over whole videos, with the state fed back.

    l2g parity --reference l2g_tiny --candidate tiny.onnx --dataset synthetic:val --report outputs/parity
    l2g parity --reference tiny.onnx --candidate tiny.onnx --library openvino --dataset synthetic:val \\
        --report outputs/openvino
    l2g parity --reference l2g_tiny --candidate l2g_tiny --compile --precision fp16 --dataset synthetic:val \\
        --report outputs/compiled

--library, --device, --precision and --compile are the candidate's, --num-queries, --num-heads and --box-init every
checkpoint's. Writes parity.json and parity.html into the
report's folder.
Exit code: 0 within tolerance, 1 beyond it, 2 bad input.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2g.cli.arguments import (
    MERGING,
    UNTOLD,
    add_dataset,
    add_model,
    add_quiet,
    add_running,
    add_streams,
    add_task,
    add_untold,
    note,
    open_dataset,
    panoptic_options,
    refuse_idle,
    running,
    untold,
    warm_up,
)
from l2g.cli.entry import main_of
from l2g.errors import L2GError
from l2g.files import expect_writable, made_folder

if TYPE_CHECKING:
    from l2g.evaluation.parity.report import ParityReport, Tolerances
    from l2g.runtime.backends.base import Backend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "--reference", "what is right: ")
    add_model(parser, "--candidate", "what is to be judged: ")
    add_dataset(parser, seed=True)
    parser.add_argument("--report", required=True, type=Path, help="the folder for parity.json and parity.html")
    add_streams(parser)
    parser.add_argument("--confidence", type=float, default=0.5, help="slots of this score are objects")
    parser.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="what may differ: ap (percent points), mask_logits, identity (percent) (default: by the candidate's "
        "precision: FP32 0.02, 0.001, 99.9; FP16, BF16 0.2, none, 95; INT8 0.5, none, 95); of things and stuff vpq "
        "(percent points: 0.05, 0.2, 0.5) and segments (percent that are the same: 99.9, 95, 95) in place of ap",
    )
    parser.add_argument("--no-ap", action="store_true", help="do not score: the data set has other classes or no truth")
    add_task(parser, semantic=False, panoptic_where="the data set has maps of things and stuff")
    add_untold(parser)
    add_running(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    report = compare(options)
    write_report(report, options.report)
    for line in report.notes:
        note(f"note: {line}")
    print(report.table())
    print(f"report: {options.report / 'parity.html'}")
    return 0 if report.passed else 1


def compare(options: argparse.Namespace) -> ParityReport:
    """Open what `options` name and run the comparison."""
    from l2g.evaluation.panoptic import is_panoptic
    from l2g.evaluation.parity.run import ParityOptions, run_parity

    if _is_artifact(options.reference) and _is_artifact(options.candidate):
        refuse_idle(options, add_arguments, UNTOLD, "it is of checkpoints, and none is given")
    tolerances = parse_tolerances(options.tolerance)
    settings = ParityOptions(
        streams=options.streams,
        confidence=options.confidence,
        ap=not options.no_ap,
        task=options.task,
        panoptic=panoptic_options(options),
    )
    with ExitStack() as stack:
        expect_writable(stack.enter_context(made_folder(options.report)) / "report")
        dataset = open_dataset(options)
        if not (options.task == "panoptic" or (options.task is None and is_panoptic(dataset))):
            refuse_idle(options, add_arguments, MERGING, "it is of things and stuff, --task panoptic")
        reference, candidate, forced = open_models(options, stack)
        for backend in (candidate, forced):
            warm_up(backend, min(options.streams, len(dataset.videos)), options)
        return run_parity(
            reference,
            candidate,
            forced,
            dataset,
            options=settings,
            tolerances=tolerances,
            names=(options.reference, options.candidate),
            progress=not options.quiet,
        )


def open_models(options: argparse.Namespace, stack: ExitStack) -> list[Backend]:
    """The reference, and the candidate twice: one is fed the reference's state, the other keeps its own."""
    from l2g.runtime.backends.open import open_backend

    models = [options.reference, options.candidate, options.candidate]
    opened: dict[int, Backend] = {}
    canvas = None
    # An artifact's canvas is fixed, a checkpoint takes any: artifacts first.
    for index in sorted(range(3), key=lambda i: not _is_artifact(models[i])):
        how: dict[str, Any] = {} if _is_artifact(models[index]) else untold(options)
        if index:
            how |= running(options)
        opening = open_backend(models[index], top_k=None, canvas=canvas, **how)
        backend = opened[index] = stack.enter_context(closing(opening))
        canvas = (backend.contract.height, backend.contract.width)
    return [opened[index] for index in range(3)]


def _is_artifact(model: str) -> bool:
    from l2g.runtime.backends.open import ARTIFACT_SUFFIXES

    return Path(model).suffix.lower() in ARTIFACT_SUFFIXES


def parse_tolerances(texts: list[str]) -> Tolerances:
    """NAME=VALUE each; L2GError for an unknown name or a value that is no number from 0 up."""
    from l2g.evaluation.parity.report import Tolerances

    known = [item.name for item in fields(Tolerances)]
    given = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            given[name] = -1.0
        if name not in known or not given[name] >= 0:
            raise L2GError(f"tolerance '{text}' found, NAME=VALUE expected with NAME one of {', '.join(known)}")
    return Tolerances(**given)


def write_report(report: ParityReport, folder: str | Path) -> None:
    """parity.json and parity.html, each replaced when it is complete."""
    from l2g.evaluation.parity.page import render_page
    from l2g.files import write_json, write_text

    with made_folder(folder) as folder:
        write_json(folder / "parity.json", report.to_json())
        write_text(folder / "parity.html", render_page(report))


main = main_of("parity")
