"""The command lines of the libraries' own tools that build the same engine: for a device without Python."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from l2g.contract import GraphContract, TensorSpec
from l2g.engines.builder import CURRENT, RTX_CAPABILITIES, BuildOptions

TOOLS = {"10": "trtexec of TensorRT 10.x", "11": "trtexec of TensorRT 11.x", "rtx": "tensorrt_rtx of TensorRT-RTX"}


def trtexec_command(
    tool: str,
    onnx_file: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    contract: GraphContract,
    options: BuildOptions,
) -> str:
    """One shell command. tool: "10", "11" or "rtx".

    10.x has to be told that the network is strongly typed; 11 and TensorRT-RTX know nothing else. Precision stands
    in the graph for all of them, so there is no --fp16 and no --int8.
    """
    words = [
        "tensorrt_rtx" if tool == "rtx" else "trtexec",
        f"--onnx={Path(onnx_file)}",
        f"--saveEngine={Path(engine)}",
    ]
    if tool == "10":
        words.append("--stronglyTyped")
    for name, streams in zip(("min", "opt", "max"), options.streams(contract), strict=True):
        words.append(f"--{name}Shapes=" + ",".join(_shape(spec, streams) for spec in contract.inputs))
    if options.workspace is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace >> 20}M")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if not options.tf32:
        words.append("--noTF32")
    if tool == "rtx":
        words.append("--skipInference")
        if options.compute_capabilities:
            numbers = [text.replace(".", "") for text in options.compute_capabilities if text != CURRENT]
            words.append("--computeCapabilities=" + ",".join(numbers) if numbers else "--useGpu")
    else:
        if options.version_compatible:
            words.append("--versionCompatible")
        if options.exclude_lean_runtime:
            words.append("--excludeLeanRuntime")
        if options.timing_cache is not None:
            words.append(f"--timingCacheFile={options.timing_cache}")
        words.append("--skipInference")
    words.append("--profilingVerbosity=detailed")
    return " \\\n  ".join(shlex.quote(word) for word in words)


def trtexec_commands(
    onnx_file: str | os.PathLike[str], engine: str | os.PathLike[str], contract: GraphContract, options: BuildOptions
) -> str:
    """The commands for the library of `options`, each under a comment that names its tool."""
    tools = ("rtx",) if options.library == "tensorrt-rtx" else ("10", "11")
    return "\n\n".join(
        f"# {TOOLS[tool]}{_targets(options)}\n{trtexec_command(tool, onnx_file, engine, contract, options)}"
        for tool in tools
    )


def _targets(options: BuildOptions) -> str:
    """What a command that names no compute capability builds for. Naming those of the portable set is another build:
    1.7.1 gives other bytes, and refuses FP8 and FP4, of which a portable engine leaves some GPUs out in silence."""
    if options.library != "tensorrt-rtx" or options.compute_capabilities:
        return ""
    return f", for the portable set as l2g build: compute capability {', '.join(RTX_CAPABILITIES)} and later"


def _shape(spec: TensorSpec, streams: int) -> str:
    return f"{spec.name}:" + "x".join(str(streams if isinstance(dim, str) else dim) for dim in spec.shape)
