"""Build an engine from an ONNX file, with the sidecar that says what it is.

    python export/build_engine.py --onnx MODEL.onnx --library tensorrt-rtx --output MODEL.engine

The graph is judged first (export/doctor.py does that alone), the engine's layers afterwards: an engine that does not
compute in the precision of its graph is not written. Exit code: 0 written, 2 bad input or refused, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from l2g.errors import EngineError, ExportError, L2GError
from l2g.runtime.backends.tensorrt.library import LIBRARIES

if TYPE_CHECKING:
    from l2g.engines.build import EngineBuild

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--onnx", required=True, type=Path, help="a graph that export/to_onnx.py wrote")
    parser.add_argument("--output", required=True, type=Path, help="the engine to write; its sidecar is OUTPUT.json")
    parser.add_argument("--library", choices=LIBRARIES, default="tensorrt", help="(default tensorrt)")
    parser.add_argument("--max-streams", type=int, help="most streams in one batch (default: the graph's)")
    parser.add_argument("--opt-streams", type=int, help="how many streams to tune for (default 1)")
    parser.add_argument(
        "--workspace", help="scratch memory that a layer may take, such as 2GiB (default: all there is)"
    )
    parser.add_argument("--timing-cache", type=Path, help="TensorRT: a file of measured kernels, read and written")
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
        "--precision", choices=("fp32", "fp16", "int8"), help="to be found in it (default: the graph's)"
    )
    parser.add_argument("--min-share", type=float, default=0.95, help="of the FLOPs, in that precision (default 0.95)")
    parser.add_argument("--verbose-log", type=Path, metavar="FILE", help="write the library's whole log there")
    parser.add_argument("--no-cache", action="store_true", help="build also what was built before")
    parser.add_argument("--no-verify", action="store_true", help="do not run the engine beside the graph (needs a GPU)")
    parser.add_argument(
        "--print-trtexec", action="store_true", help="print the equal trtexec commands and build nothing"
    )
    options = parser.parse_args(argv)
    if not 0 <= options.min_share <= 1:
        parser.error(f"--min-share {options.min_share} found, 0 to 1 expected")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        if options.print_trtexec:
            print(trtexec(options))
            return 0
        build = run(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(summary(build))
    return 0


def run(options: argparse.Namespace) -> EngineBuild:
    try:
        from l2g.engines.build import build_engine
        from l2g.engines.cache import engines_root
        from l2g.engines.verification import verify_engine
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise ExportError(f"'{error.name}' is not installed; pip install 'l2g[export]'") from None
    return build_engine(
        options.onnx,
        options.output,
        build_options(options),
        precision=options.precision,
        min_share=options.min_share,
        cache=None if options.no_cache else engines_root(),
        log_file=options.verbose_log,
        verify=None if options.no_verify else verify_engine,
    )


def trtexec(options: argparse.Namespace) -> str:
    from l2g.artifacts.onnx_file import read_contract, read_model
    from l2g.engines.trtexec import trtexec_commands

    contract = read_contract(read_model(options.onnx), options.onnx)
    return trtexec_commands(options.onnx, options.output, contract, build_options(options))


def build_options(options: argparse.Namespace):
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
    )


def parse_size(text: str) -> int:
    """ "512M", "2GiB", "1073741824" -> bytes; EngineError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise EngineError(f"size '{text}' found, a number of bytes or such as 512M or 2GiB expected")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def summary(build: EngineBuild) -> str:
    facts = build.sidecar.engine
    audit = facts.audit
    total = sum(audit.flops.values()) or 1
    parts = ", ".join(f"{name} {100 * flops / total:.1f} %" for name, flops in audit.flops.items() if flops)
    memory = audit.activation_bytes
    where = "from the cache" if build.cached else f"built in {facts.build_seconds:.1f} s"
    target = facts.gpu or "compute capability " + ", ".join(facts.compute_capabilities)
    lines = [str(finding) for finding in build.findings] + [
        f"{build.path}: {facts.engine_bytes / 1e6:.1f} MB, {where}",
        f"  for          {facts.library} {facts.library_version}, {target}",
        f"  products     {parts} of {total / 1e9:.2f} GFLOP",
        f"  share        {100 * audit.share:.1f} % of what should be in {audit.asked}",
        f"  attention    {audit.fused_attention} fused kernels",
        "  activations  " + ("unknown" if memory is None else f"{memory / 1e6:.1f} MB")
        + f" for up to {facts.options.streams[2]} streams",
        f"  {facts.verification.status}" + (f": {facts.verification.reason}" if not facts.verified else ""),
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
