"""What OpenVINO or ONNX Runtime makes of a graph on this machine: it is opened, and asked what it runs in."""

from __future__ import annotations

import os
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

from l2g.artifacts import GRAPH_LIBRARIES
from l2g.artifacts.onnx_file import read_model
from l2g.engines.findings import Finding, Findings, by_gravity, names_of
from l2g.errors import EngineError, L2GError
from l2g.export.inspection import inspect_graph
from l2g.runtime.backends.contract_check import PLUGINS
from l2g.runtime.backends.open import open_backend

_NOTHING = "nothing to mend"


def examine_graph(
    path: str | os.PathLike[str], library: str, precision: str | None = None, min_share: float = 0.0
) -> tuple[Finding, ...]:
    """Judge an ONNX file for a library that runs it as it is, the gravest findings first; ExportError: a bad file.

    library: one of GRAPH_LIBRARIES. precision: what it is to run in ("int8" also with others around it); None for
    whatever it runs in. min_share: of the FLOPs that must be in it, 0 to 1, where the library tells.
    """
    found = list(_of_the_file(Path(path), GRAPH_LIBRARIES[library]))
    if not found:
        found = list(_opened(Path(path), library, precision, min_share))
    return by_gravity(found)


def _of_the_file(path: Path, name: str) -> Findings:
    """What forbids it whatever the machine."""
    export = f"export the model again: l2g export --ckpt CKPT --output {path}"
    for error in inspect_graph(path).findings:
        if error.level == "error":
            yield Finding("refuse", "contract", "no runtime of l2g drives this file", error.text, export)
    plugins = [node for node in read_model(path).graph.node if PLUGINS.search(node.op_type)]
    if plugins:
        text = f"{name} has none of TensorRT's plugins; only TensorRT runs this file"
        yield Finding("refuse", "plugin", text, names_of(plugins), "export it with --lowering gather")


def _opened(path: Path, library: str, precision: str | None, min_share: float) -> Findings:
    name = GRAPH_LIBRARIES[library]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are findings here
            backend: Any = open_backend(path, library=library)
    except L2GError as error:
        evidence, _, mend = str(error).removeprefix(f"{path}: ").rpartition("; ")
        yield Finding("refuse", "opening", f"{name} does not run it on this machine", evidence or mend, mend)
        return
    with closing(backend):
        build, device = backend.contract.build, str(backend.device).upper()
        runs = getattr(backend, "precision", build.precision or "fp32")
        shares, share = _audited(backend)
        if lacking := getattr(backend, "lacking", None):
            text = f"{device} has no {lacking.upper()} arithmetic: FP32 takes its place"
            mend = (
                f"run it where {lacking.upper()} is, or make the file without: as quick here, and no weight is rounded"
            )
            yield Finding("warn", "precision", text, f"{name} on {device}: {shares}", mend)
        if precision is not None and precision not in runs.split(" + "):
            text, mend = f"{precision} is asked for, and it runs in {runs.upper()}", "leave --precision out"
            yield Finding("refuse", "precision", text, f"{name} on {device}: {shares}", mend)
        elif share is not None and share < min_share:
            text, mend = "too little of it is in the precision that it is to have", "accept less with --min-share"
            yield Finding("refuse", "precision", text, f"{100 * share:.1f} % of the FLOPs; {shares}", mend)
        yield Finding("note", "opening", f"{name} opens it on {device}, in {runs.upper()}", shares, _NOTHING)


def _audited(backend: Any) -> tuple[str, float | None]:
    """(what it computes its FLOPs in, the share that is as it is to be); (why that is not known, None)."""
    if not hasattr(backend, "audit"):
        return "the precision is the file's", None
    try:
        audit = backend.audit()
    except EngineError as error:
        return str(error), None
    total = sum(audit.flops.values())
    shares = [f"{name.upper()} {100 * count / total:.1f} %" for name, count in audit.flops.items() if count]
    return ", ".join(shares) + " of the FLOPs", audit.share
