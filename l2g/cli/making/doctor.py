"""Say why no engine should be built from an ONNX file, or what to look out for. Needs no GPU and no TensorRT.

Exit code: 0 it may be built, 1 a finding refuses it, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from l2g.errors import L2GError
from l2g.runtime.backends.tensorrt.library import LIBRARIES, installed_version


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--library", choices=LIBRARIES, default="tensorrt", help="(default tensorrt)")
    parser.add_argument("--library-version", help="such as 10.3 (default: the installed one)")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), help="to be found in it (default: the graph's)"
    )
    parser.add_argument("--min-share", type=float, default=0.95, help="of the FLOPs, in FP16 (default 0.95)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        from l2g.engines.doctor import Circumstances, available_memory, examine

        asked = Circumstances(
            library=options.library,
            version=options.library_version or installed_version(options.library),
            precision=options.precision,
            min_share=options.min_share,
            # Another version is another machine's.
            memory=None if options.library_version else available_memory(),
        )
        findings = examine(options.model, asked)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: '{error.name}' is not installed; pip install 'l2g[export]'", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        print("\n".join(map(str, findings)) or f"{options.model}: nothing found")
    return 1 if any(finding.severity == "refuse" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
