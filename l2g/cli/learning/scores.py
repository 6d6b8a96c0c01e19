"""What the commands of the metrics share: their files, and how a report is shown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import note

if TYPE_CHECKING:
    from l2g.metrics.files import Report


def add_panoptic(parser: argparse.ArgumentParser) -> None:
    """The files of VIPSeg's layout."""
    parser.add_argument("--ground-truth", required=True, metavar="GT", help="annotations JSON, VIPSeg panoptic")
    parser.add_argument("--ground-truth-maps", required=True, metavar="DIR", help="DIR/<video_id>/*.png, RGB id maps")
    parser.add_argument("--results", required=True, metavar="DIR", help="folder with pred.json and pan_pred/")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="OUT", help="also write all numbers to this file (default: nowhere)")


def keep_inputs(json_path: str | None, *inputs: str | Path) -> None:
    """DataError where the numbers would be written over what they are measured on."""
    from l2g.errors import DataError
    from l2g.files import expect_writable, refuse_overwriting

    if json_path is not None:
        expect_writable(json_path, DataError)
    refuse_overwriting([json_path], inputs, DataError)


def show(report: Report, json_path: str | None) -> int:
    """Write the report's `to_json()` where asked for, then print its `table()`, and its notes on stderr."""
    from l2g.errors import DataError
    from l2g.files import write_json

    if json_path is not None:
        write_json(json_path, report.to_json(), DataError)
    for text in report.notes:
        note(f"note: {text}")
    print(report.table())
    return 0
