"""Build an engine from an ONNX file, with the sidecar that says what it is.

    l2g build --onnx MODEL.onnx --library tensorrt-rtx --output MODEL.engine

The graph is judged first (l2g doctor does that alone), the engine's layers afterwards: an engine that does not
compute in the precision of its graph is not written. Exit code: 0 written, 2 bad input or refused, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.cli.arguments import add_library, add_quiet
from l2g.cli.commands import BY_NAME
from l2g.cli.entry import INTERRUPTED, main_of
from l2g.cli.interruption import leave
from l2g.cli.table import Row, table
from l2g.errors import EngineError

if TYPE_CHECKING:
    from l2g.engines.build import EngineBuild
    from l2g.engines.builder import BuildOptions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--onnx", required=True, type=Path, help="a graph that l2g export wrote")
    parser.add_argument("--output", required=True, type=Path, help="the engine to write; its sidecar is OUTPUT.json")
    add_library(parser)
    parser.add_argument("--max-streams", type=int, help="most streams in one batch (default: the graph's)")
    parser.add_argument("--opt-streams", type=int, help="how many streams to tune for (default: 1)")
    parser.add_argument(
        "--workspace", help="scratch memory that a layer may take, such as 2GiB (default: all there is)"
    )
    parser.add_argument(
        "--timing-cache", type=Path, help="TensorRT: a file of measured kernels, read and written (default: none)"
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        default=[],
        metavar="CC",
        help="TensorRT-RTX: GPUs to build for, such as 8.9 12.0, or current (default: 8.0, 8.6, 8.9, 12.0 and later)",
    )
    parser.add_argument("--optimization-level", type=int, choices=range(6), help="0 to 5 (default: the library's)")
    parser.add_argument("--tf32", action="store_true", help="let FP32 products use TF32 (10 bits of mantissa)")
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="TensorRT: also for its lean runtime (tensorrt-lean) and for later versions; may be slower",
    )
    parser.add_argument(
        "--exclude-lean-runtime",
        action="store_true",
        help="with --version-compatible: a smaller engine that holds no host code; the same version runs it",
    )
    parser.add_argument(
        "--verbose-log", type=Path, metavar="FILE", help="write the library's whole log there (default: nowhere)"
    )
    parser.add_argument("--no-cache", action="store_true", help="build also what was built before")
    parser.add_argument("--no-verify", action="store_true", help="do not run the engine beside the graph (needs a GPU)")
    parser.add_argument(
        "--print-trtexec", action="store_true", help="print the equal trtexec commands and build nothing"
    )
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    print(trtexec(options) if options.print_trtexec else summary(build(options), options.min_share))
    return 0


def build(options: argparse.Namespace) -> EngineBuild:
    from l2g.engines.build import build_engine
    from l2g.engines.cache import engines_root
    from l2g.engines.verification import verify_engine

    return build_engine(
        options.onnx,
        options.output,
        build_options(options),
        precision=options.precision,
        min_share=options.min_share,
        cache=None if options.no_cache else engines_root(),
        log_file=options.verbose_log,
        verify=None if options.no_verify else verify_engine,
        progress=not options.quiet,
        # TensorRT-RTX 1.7 that is asked to stop in the middle of a build ends one process in four by a crash.
        interrupted=partial(leave, BY_NAME["build"].stopped, INTERRUPTED),
    )


def trtexec(options: argparse.Namespace) -> str:
    from l2g.artifacts.onnx_file import read_contract, read_model
    from l2g.engines.trtexec import trtexec_commands

    contract = read_contract(read_model(options.onnx), options.onnx)
    return trtexec_commands(options.onnx, options.output, contract, build_options(options))


def build_options(options: argparse.Namespace) -> BuildOptions:
    from l2g.engines.builder import BuildOptions

    return BuildOptions(
        library=options.library,
        max_streams=options.max_streams,
        opt_streams=options.opt_streams,
        workspace=parse_size(options.workspace) if options.workspace else None,
        timing_cache=options.timing_cache,
        compute_capabilities=tuple(options.compute_capability),
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        version_compatible=options.version_compatible,
        exclude_lean_runtime=options.exclude_lean_runtime,
    )


def parse_size(text: str) -> int:
    """ "512M", "2GiB", "1073741824" -> bytes; EngineError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise EngineError(f"size '{text}' found, a number of bytes or such as 512M or 2GiB expected")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def summary(build: EngineBuild, min_share: float) -> str:
    """What was built, as a table; what the doctor said before it."""
    from l2g.cli.making.verify import record_table

    facts = build.sidecar.engine
    audit, built = facts.audit, facts.options
    assert audit  # of an engine that was built just now
    assert built
    total = sum(audit.flops.values()) or 1
    memory = audit.activation_bytes
    rows = [Row(f"arithmetic in {audit.asked} where due", "%", 100 * audit.share, 100 * min_share, least=True)]
    rows += [Row(f"  all in {name}", "%", 100 * flops / total) for name, flops in audit.flops.items() if flops]
    rows += [
        Row("arithmetic of a frame", "GFLOP", total / 1e9),
        Row("fused attention kernels", "kernels", audit.fused_attention),
        Row("engine file", "MB", facts.engine_bytes / 1e6),
    ]
    if memory is not None:
        rows.append(Row(f"activations, {built.streams[2]} streams", "MB", memory / 1e6))
    if not build.cached:
        rows.append(Row("build time", "s", facts.build_seconds))
    target = facts.gpu or "compute capability " + ", ".join(facts.compute_capabilities)
    status = facts.verification.status + (f": {facts.verification.reason}" if not facts.verified else "")
    lines = [
        *map(str, build.findings),
        f"{build.path}: for {facts.library} {facts.library_version}, {target}{', from the cache' * build.cached}",
        table(rows),
        status,
    ]
    if facts.verified and facts.verification.found:
        lines.append(record_table(facts.verification))
    return "\n".join(lines)


main = main_of("build")
