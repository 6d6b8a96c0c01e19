"""Say what is in an ONNX file: tensors, contract, operators, parameters, FLOPs and findings.

With --library openvino also what that library computes its products in on this machine, weighed by FLOPs. Of a
checkpoint, with --compile, what each part of it computes in as it is compiled here.
Exit code: 0 fine, 1 a finding says that the file should not be used, or less is in its precision than --min-share, or
the device does not tell what it computes in, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from l2g.cli.arguments import UNTOLD, add_compile, add_untold, refuse_idle, share, untold
from l2g.cli.entry import main_of
from l2g.errors import EngineError

if TYPE_CHECKING:
    from l2g.artifacts.records import Audit
    from l2g.runtime.backends.compiled.backend import CompiledBackend
    from l2g.runtime.backends.openvino.backend import OpenVinoBackend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file; with --compile a checkpoint")
    parser.add_argument("--library", choices=("openvino",), help="audit what it computes in here (default: none)")
    parser.add_argument("--device", help="of that library, or of --compile (default: the CPU; of --compile a GPU)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="for it (default: the graph's own types; of --compile fp32)",
    )
    add_compile(parser)
    add_untold(parser)
    parser.add_argument(
        "--min-share", type=share, default=0.95, help="least part of the FLOPs in the precision, 0 to 1"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole contract")


def run(options: argparse.Namespace) -> int:
    if options.compile:
        refuse_idle(options, add_arguments, ("library",), "--compile audits a checkpoint in PyTorch")
        return audit_checkpoint(options)
    refuse_idle(options, add_arguments, ("fp32_blocks", *UNTOLD), "it is of --compile")
    if not options.library:
        refuse_idle(options, add_arguments, ("device", "precision", "min_share"), "an audit is of --library openvino")
    from l2g.export.inspection import format_report, inspect_graph

    report = inspect_graph(options.model)
    audit, why = audited(options) if options.library else (None, "")
    if options.json:
        more = {"audit": audit.to_json()} if audit else {"audit": None, "no_audit": why} if why else {}
        print(json.dumps({**report.to_dict(), **more}, indent=1))
    else:
        print(format_report(report))
        if audit or why:
            print(*(audit_lines(audit, options) if audit else ["", why]), sep="\n")
    met = not why and (audit is None or audit.share >= options.min_share)
    return 0 if report.usable and met else 1


def audited(options: argparse.Namespace) -> tuple[Audit | None, str]:
    """(what the library computes the graph in on this machine, or why that is not known)."""
    from contextlib import closing

    from l2g.runtime.backends.open import open_backend

    opened = open_backend(options.model, library=options.library, device=options.device, precision=options.precision)
    with closing(cast("OpenVinoBackend", opened)) as backend:
        try:
            return backend.audit(), ""
        except EngineError as error:
            return None, str(error)


def audit_checkpoint(options: argparse.Namespace) -> int:
    """Print what the compiled backend computes a checkpoint in."""
    from contextlib import closing
    from dataclasses import asdict

    from l2g.runtime.backends.open import open_backend

    opened = open_backend(
        options.model,
        top_k=None,
        device=options.device,
        precision=options.precision,
        compile=True,
        fp32_blocks=options.fp32_blocks,
        **untold(options),
    )
    with closing(cast("CompiledBackend", opened)) as backend:
        audit, parts, facts, device = backend.audit(), backend.parts(), backend.facts(), str(backend.device)
    if options.json:
        found = {"device": device, "audit": audit.to_json(), "parts": [asdict(part) for part in parts], "runs": facts}
        print(json.dumps(found, indent=1))
    else:
        print(f"{options.model}: compiled, {audit.weight_bytes / 1e6:.1f} MB of weights" if audit.weight_bytes else "")
        print(*audit_lines(audit, options, f"PyTorch     on {device}"), sep="\n")
        print(f"  {audit.fused_attention} attentions are one operator each")
        print(*(f"  {name}: {text}" for name, text in facts.items()), "\npart", sep="\n")
        for part in parts:
            shares = ", ".join(f"{name.upper()} {count / 1e9:.3f}" for name, count in sorted(part.flops.items()))
            print(f"  {part.name:<28}{shares} GFLOP")
    return 0 if audit.share >= options.min_share else 1


def audit_lines(audit: Audit, options: argparse.Namespace, where: str = "") -> Iterator[str]:
    where = where or f"OpenVINO    on {options.device or 'CPU'}"
    total = sum(audit.flops.values()) or 1
    shares = ", ".join(f"{name.upper()} {100 * count / total:.1f} %" for name, count in audit.flops.items() if count)
    yield f"\n{where}: {shares} of the FLOPs of convolutions and products"
    verdict = "" if audit.share >= options.min_share else f"; FAIL, {100 * options.min_share:.0f} % asked for"
    yield f"  {100 * audit.share:.1f} % of what is to be in {audit.asked.upper()} is{verdict}"
    for name, precision in audit.wider:
        yield f"  not so    {name}, in {precision.upper()}"


main = main_of("inspect")
