"""Compare an engine with the graph that it was built from, on this machine's GPU, and note the result in its sidecar.

    l2g verify --engine model.engine --onnx model.onnx
    l2g verify --library openvino --onnx model.onnx
    l2g verify --library openvino --onnx model.bf16.onnx --reference model.onnx

With --library openvino compare a graph as that library runs it here with what ONNX Runtime makes of it; of BF16, which
ONNX Runtime's CPU does not run, with what it makes of the float32 graph.
Exit code: 0 they agree (an engine's sidecar says verified), 1 they do not, 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2g.cli.arguments import add_quiet, note
from l2g.cli.entry import main_of
from l2g.cli.stages import Stages
from l2g.cli.table import Row, table
from l2g.errors import L2GError

if TYPE_CHECKING:
    from l2g.artifacts.records import EngineVerification

# Of the record: what is measured, and in what.
_QUANTITIES = {
    "score": ("class probabilities, difference", "share of their sum"),
    "mask_pixels": ("masks, 1 - IoU", "share"),
    "queries": ("state: queries, difference", "share of their length"),
    "slots": ("slots that one chose and the other did not", "share"),
    "state": ("state: all of it, boxes too, difference", "share of their sum"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", type=Path, help="an engine that l2g build wrote (default: none)")
    parser.add_argument("--onnx", required=True, type=Path, help="the graph that it was built from, or to be verified")
    parser.add_argument("--library", choices=("openvino",), help="verify the graph in it (default: none)")
    parser.add_argument("--reference", type=Path, help="what ONNX Runtime runs (default: the same file)")
    parser.add_argument("--device", help="of OpenVINO: CPU, GPU, NPU, AUTO (default: CPU)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="of OpenVINO (default: the graph's own types)"
    )
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    from l2g.engines.verification import DisagreementError

    if (options.engine is None) == (options.library is None):
        raise L2GError("give --engine with a file that l2g build wrote, or --library openvino; one of the two")
    of_openvino = {name: getattr(options, name) for name in ("reference", "device", "precision")}
    if options.engine and (given := [f"--{name}" for name, value in of_openvino.items() if value is not None]):
        raise L2GError(f"{given[0]} given, which --library openvino takes and no engine; leave it out")
    try:
        return _verify_engine(options) if options.engine else _verify_graph(options, of_openvino)
    except DisagreementError as error:
        note(f"error: {error}")
        return 1


def _verify_graph(options: argparse.Namespace, how: dict[str, Any]) -> int:
    from l2g.engines.verification import verify_graph

    with Stages(options.quiet) as stages:
        stages.plan({"run OpenVINO and ONNX Runtime side by side": 1})
        stages.stage("run OpenVINO and ONNX Runtime side by side")
        record = verify_graph(options.onnx, **how)
    print(f"{options.onnx}: verified in {record.gpu}, computed in {(record.precision or '').upper()}")
    print(record_table(record))
    return 0


def _verify_engine(options: argparse.Namespace) -> int:
    from l2g.artifacts.records import UNVERIFIED, EngineVerification
    from l2g.artifacts.sidecar import read_sidecar, record_verification
    from l2g.engines.verification import DisagreementError, verify_engine

    read_sidecar(options.engine)
    with Stages(options.quiet) as stages:
        stages.plan({"run engine and graph side by side": 1})
        stages.stage("run engine and graph side by side")
        try:
            record = verify_engine(options.onnx, options.engine)
        except DisagreementError as error:
            # It may have been another driver's or another GPU's answer that was verified before.
            record_verification(options.engine, EngineVerification(UNVERIFIED, str(error)))
            raise
    record_verification(options.engine, record)
    print(f"{options.engine}: verified on {record.gpu}")
    print(record_table(record))
    return 0


def record_table(record: EngineVerification) -> str:
    """The table of a sidecar's verification that has numbers."""
    found, limits = (side.to_json() if side else {} for side in (record.found, record.limits))
    return table(Row(*_QUANTITIES.get(name, (name, "")), value, limits[name]) for name, value in found.items())


main = main_of("verify")
