"""Say what is in an ONNX file: tensors, contract, operators, parameters, FLOPs and findings.

Exit code: 0 fine, 1 a finding says that the file should not be used, 2 bad input.
"""

from __future__ import annotations

import argparse
import json

from l2g.cli.entry import main_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ONNX", help="an ONNX file")
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole contract")


def run(options: argparse.Namespace) -> int:
    from l2g.export.inspection import format_report, inspect_graph

    report = inspect_graph(options.model)
    print(json.dumps(report.to_dict(), indent=1) if options.json else format_report(report))
    return 0 if report.usable else 1


main = main_of("inspect")
