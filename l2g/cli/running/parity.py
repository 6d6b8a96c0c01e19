"""Is an artifact the model it was made from? Two models over whole videos, with the state fed back.

    python runtime/parity.py --reference l2g_tiny --candidate tiny.onnx --dataset synthetic:val --report outputs/parity

Writes parity.json and parity.html into the report's folder. Exit code: 0 within tolerance, 1 beyond it, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from pathlib import Path

from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.parity.page import render_page
from l2g.evaluation.parity.report import ParityReport, Tolerances
from l2g.evaluation.parity.run import ParityOptions, run_parity
from l2g.files import write_json, write_text
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import ARTIFACT_SUFFIXES, open_backend


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", required=True, help="what is right: a checkpoint, a shipped name or an .onnx")
    parser.add_argument("--candidate", required=True, help="what is to be judged, likewise")
    parser.add_argument(
        "--dataset", required=True, help="directory in YouTube-VIS layout, FORMAT:DIR, or synthetic:{val,occluded,long}"
    )
    parser.add_argument("--report", required=True, type=Path, help="the folder for parity.json and parity.html")
    parser.add_argument("--split", default="valid", help="split of a directory (default valid)")
    parser.add_argument("--seed", type=int, default=0, help="seed of a synthetic split (default 0)")
    parser.add_argument("--videos", type=int, metavar="N", help="only the first N videos")
    parser.add_argument("--streams", type=int, default=4, help="videos that share a step (default 4)")
    parser.add_argument("--confidence", type=float, default=0.5, help="slots of this score are objects (default 0.5)")
    parser.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="ap (percent points), mask_logits, identity (percent); default: those of the candidate's precision, "
        "FP32 0.02, 0.001, 99.9; FP16 0.2, none, 95; INT8 0.5, none, 95",
    )
    parser.add_argument("--no-ap", action="store_true", help="do not score: the data set has other classes or no truth")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        report = compare(options)
        write_report(report, options.report)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.table())
    print(f"report: {options.report / 'parity.html'}")
    return 0 if report.passed else 1


def compare(options: argparse.Namespace) -> ParityReport:
    """Open what `options` name and run the comparison."""
    tolerances = parse_tolerances(options.tolerance)
    settings = ParityOptions(streams=options.streams, confidence=options.confidence, ap=not options.no_ap)
    make_folder(options.report)
    dataset = load_dataset(options.dataset, options.split, seed=options.seed)
    if options.videos is not None:
        if options.videos < 1:
            raise L2GError(f"--videos {options.videos} found, at least 1 expected")
        dataset = replace(dataset, videos=dataset.videos[: options.videos])
    with ExitStack() as stack:
        reference, candidate, forced = open_models(options.reference, options.candidate, stack)
        return run_parity(
            reference,
            candidate,
            forced,
            dataset,
            options=settings,
            tolerances=tolerances,
            names=(options.reference, options.candidate),
        )


def open_models(reference: str, candidate: str, stack: ExitStack) -> list[Backend]:
    """The reference, and the candidate twice: one is fed the reference's state, the other keeps its own."""
    models = [reference, candidate, candidate]
    opened: dict[int, Backend] = {}
    canvas = None
    # An artifact's canvas is fixed, a checkpoint takes any: artifacts first.
    for index in sorted(range(3), key=lambda i: Path(models[i]).suffix.lower() not in ARTIFACT_SUFFIXES):
        backend = opened[index] = stack.enter_context(closing(open_backend(models[index], top_k=None, canvas=canvas)))
        canvas = (backend.contract.height, backend.contract.width)
    return [opened[index] for index in range(3)]


def parse_tolerances(texts: list[str]) -> Tolerances:
    """NAME=VALUE each; L2GError for an unknown name or a value that is no number from 0 up."""
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


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise L2GError(f"{folder}: cannot be made ({error.strerror}); give another --report folder") from None


def write_report(report: ParityReport, folder: str | Path) -> None:
    """parity.json and parity.html, each replaced when it is complete."""
    folder = Path(folder)
    make_folder(folder)
    write_json(folder / "parity.json", report.to_json())
    write_text(folder / "parity.html", render_page(report))


if __name__ == "__main__":
    sys.exit(main())
