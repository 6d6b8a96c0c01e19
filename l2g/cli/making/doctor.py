"""Without a file: what this machine has (processor, memory, GPUs, libraries), and what is missing for which extra.

With an ONNX file: why no engine should be built from it, or what to look out for. Needs no GPU and no TensorRT. With
--library openvino or onnxruntime: whether that library runs it on this machine, and in which precision.

Exit code: 0 reported, or the file may be used; 1 a finding refuses it; 2 bad input.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.artifacts import GRAPH_LIBRARIES
from l2g.cli.arguments import add_library, refuse_idle
from l2g.cli.entry import main_of

if TYPE_CHECKING:
    from l2g.engines.findings import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="ONNX", help="an ONNX file (default: none, report the machine)"
    )
    add_library(parser, also=tuple(GRAPH_LIBRARIES))
    parser.add_argument("--library-version", help="of TensorRT, such as 10.3 (default: the installed one)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    if options.model is None:
        idle = ("library", "library_version", "precision", "min_share")
        refuse_idle(options, add_arguments, idle, "it is of a file that is to be examined; name one")
        from l2g.cli.machine import look_at_machine

        machine = look_at_machine()
        print(json.dumps(machine.to_dict(), indent=1) if options.json else machine.text())
        return 0
    findings = findings_of(options)
    if options.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        print("\n".join(map(str, findings)) or f"{options.model}: nothing found")
    return 1 if any(finding.severity == "refuse" for finding in findings) else 0


def findings_of(options: argparse.Namespace) -> tuple[Finding, ...]:
    """The doctor's findings on a file."""
    if options.library in GRAPH_LIBRARIES:
        refuse_idle(options, add_arguments, ("library_version",), f"{options.library} is asked itself, as installed")
        from l2g.engines.graph_doctor import examine_graph

        return examine_graph(options.model, options.library, options.precision, options.min_share)
    from l2g.engines.doctor import available_memory, examine
    from l2g.engines.findings import Circumstances
    from l2g.runtime.backends.tensorrt.library import installed_version

    asked = Circumstances(
        library=options.library,
        version=options.library_version or installed_version(options.library),
        precision=options.precision,
        min_share=options.min_share,
        # Another version is another machine's.
        memory=None if options.library_version else available_memory(),
    )
    return examine(options.model, asked)


main = main_of("doctor")
