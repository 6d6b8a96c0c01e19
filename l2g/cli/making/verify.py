"""Compare an engine with the graph that it was built from, on this machine's GPU, and note the result in its sidecar.

Exit code: 0 they agree (the sidecar says verified), 1 they do not, 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import add_quiet, note
from l2g.cli.entry import main_of
from l2g.cli.stages import Stages
from l2g.cli.table import Row, table

if TYPE_CHECKING:
    from l2g.artifacts.records import EngineVerification

# Of the record: what is measured, and in what.
_QUANTITIES = {
    "score": ("class probability, mean difference", "probability"),
    "mask_pixels": ("mask pixels that differ", "share"),
    "queries": ("state: queries, difference", "share of their length"),
    "slots": ("slots that one chose and the other did not", "share"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", required=True, type=Path, help="an engine that l2g build wrote")
    parser.add_argument("--onnx", required=True, type=Path, help="the graph that it was built from")
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.artifacts.sidecar import read_sidecar, record_verification
    from l2g.engines.verification import DisagreementError, verify_engine

    read_sidecar(options.engine)
    try:
        with Stages(options.quiet) as stages:
            stages.plan({"run engine and graph side by side": 1})
            stages.stage("run engine and graph side by side")
            record = verify_engine(options.onnx, options.engine)
    except DisagreementError as error:
        note(f"error: {error}")
        return 1
    record_verification(options.engine, record)
    print(f"{options.engine}: verified on {record.gpu}")
    print(record_table(record))
    return 0


def record_table(record: EngineVerification) -> str:
    """The table of a sidecar's verification that has numbers."""
    found, limits = (side.to_json() if side else {} for side in (record.found, record.limits))
    return table(Row(*_QUANTITIES.get(name, (name, "")), value, limits[name]) for name, value in found.items())


main = main_of("verify")
