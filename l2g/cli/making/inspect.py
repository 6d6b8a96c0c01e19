"""Say what is in an ONNX file: tensors, contract, operators, parameters, FLOPs and findings.

Exit code: 0 fine, 1 a finding says that the file should not be used, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys

from l2g.errors import L2GError
from l2g.export.inspection import format_report, inspect_graph


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="inspect_graph", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an ONNX file")
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole contract")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        report = inspect_graph(options.model)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_dict(), indent=1) if options.json else format_report(report))
    return 0 if report.usable else 1


if __name__ == "__main__":
    sys.exit(main())
