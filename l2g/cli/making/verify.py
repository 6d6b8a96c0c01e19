"""Compare an engine with the graph that it was built from, on this machine's GPU, and note the result in its sidecar.

Exit code: 0 they agree (the sidecar says verified), 1 they do not, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2g.artifacts.sidecar import read_sidecar, record_verification
from l2g.engines.verification import DisagreementError, verify_engine
from l2g.errors import L2GError


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", required=True, type=Path, help="an engine that export/build_engine.py wrote")
    parser.add_argument("--onnx", required=True, type=Path, help="the graph that it was built from")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        read_sidecar(options.engine)
        record = verify_engine(options.onnx, options.engine)
        record_verification(options.engine, record)
    except DisagreementError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.engine}: verified on {record.gpu}")
    limits = record.limits.to_json()
    print(
        "  "
        + ", ".join(f"{name} {value:.2g} (limit {limits[name]:g})" for name, value in record.found.to_json().items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
