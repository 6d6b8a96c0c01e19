"""From an ONNX file to an engine with its sidecar: doctor, cache, build, audit, verification, and only then a name."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import l2g
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.artifacts.records import MIN_SHARE, UNVERIFIED, Audit, EngineVerification
from l2g.artifacts.sidecar import (
    EngineFacts,
    Gpu,
    Sidecar,
    check_file,
    read_sidecar,
    record_verification,
    runs_on,
    sidecar_path,
    write_sidecar,
)
from l2g.engines import cache as engine_cache
from l2g.engines.audit import audit, layers_from_inspector, layers_from_log
from l2g.engines.builder import (
    CURRENT,
    BuildOptions,
    Built,
    build_serialized,
    known_capabilities,
)
from l2g.engines.doctor import available_memory, examine, refuse
from l2g.engines.findings import Circumstances, Finding
from l2g.engines.operator_rules import portable_capabilities
from l2g.errors import EngineError
from l2g.files import expect_writable, refuse_overwriting, sha256_of_file, write_bytes
from l2g.runtime.backends.tensorrt.device import find_gpu
from l2g.runtime.backends.tensorrt.library import Library, LibraryLog, load_library

Verify = Callable[[Path, Path], EngineVerification]


@dataclass(frozen=True)
class EngineBuild:
    """What a build gave: the engine's path, its sidecar, what the doctor said, and whether the cache had it."""

    path: Path
    sidecar: Sidecar
    findings: tuple[Finding, ...]
    cached: bool


def build_engine(
    onnx_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: BuildOptions,
    *,
    precision: str | None = None,
    min_share: float = MIN_SHARE,
    cache: Path | None = None,
    log_file: Path | None = None,
    verify: Verify | None = None,
    progress: bool = True,
    interrupted: Callable[[], object] | None = None,
) -> EngineBuild:
    """Build `onnx_file` into `output`, with `output`.json beside it.

    precision: "fp32", "bf16", "fp16" or "int8"; None is the contract's. min_share: of the matrix and convolution FLOPs,
    to be in that precision. cache: a folder of engines built before (`engine_cache`), None for none. log_file: where
    the library's whole log goes. verify: compares the written engine with the ONNX file and returns the sidecar's
    record; it is called where there is a GPU. interrupted: is called at Ctrl-C while the library builds, with nothing
    written yet and before it is asked to stop, which can take it seconds.

    Raises EngineError, with nothing written, for what the doctor refuses, a library that fails or an engine that
    computes in another precision; KeyboardInterrupt after Ctrl-C, with nothing written. An engine whose
    verification fails is removed again.
    """
    onnx_file, output = Path(onnx_file), Path(output)
    written = [output, sidecar_path(output), options.timing_cache, log_file]
    refuse_overwriting(written, [onnx_file, onnx_file.with_name(f"{onnx_file.name}.data")], EngineError)
    for path in filter(None, written):
        expect_writable(path, EngineError)
    library = load_library(options.library)
    gpu = find_gpu()
    findings = examine(onnx_file, _circumstances(library, gpu, options, precision, min_share))
    refuse(onnx_file, findings)
    if gpu is None and not library.rtx:
        raise EngineError(
            f"{onnx_file}: TensorRT builds on the GPU that will run the engine, and none was found; build there (with "
            "--print-trtexec, if it has no Python), or with --library tensorrt-rtx, which needs none"
        )
    if gpu is not None and CURRENT in options.compute_capabilities and not runs_on(gpu, known_capabilities(library)):
        raise EngineError(
            f"{onnx_file}: TensorRT-RTX {library.version} has no kernels for this {gpu.name} (compute capability "
            f"{gpu.capability}, it knows {', '.join(known_capabilities(library))}); build with --library tensorrt, "
            "or for another GPU with --compute-capability"
        )
    contract = read_contract(read_model(onnx_file), onnx_file)
    precision = precision or contract.build.precision or "fp32"
    source = sha256_of_file(onnx_file, EngineError)
    # An engine of the portable kind is the same wherever it is built.
    bound = gpu if not library.rtx or CURRENT in options.compute_capabilities else None
    name = f"{bound.name} {bound.capability}" if bound else None
    key = engine_cache.cache_key(source, library.name, library.version, name, options.for_engine(contract))
    found = engine_cache.find(cache, key, source, contract) if cache else None
    if found is not None:
        content, sidecar = found
        sidecar = dataclasses.replace(sidecar, engine=dataclasses.replace(sidecar.engine, onnx=onnx_file.name))
        _check_audit(sidecar, precision, min_share)
    else:
        built = build_serialized(onnx_file, contract, library, options, progress, interrupted)
        if log_file is not None:
            built.log.write(log_file)
        verdict = _audit(onnx_file, library, built, precision, gpu)
        verdict.check(min_share)
        content = built.engine
        sidecar = Sidecar(contract, _facts(onnx_file, source, library, bound, options, built, verdict))
        if cache:
            engine_cache.store(cache, key, content, sidecar)
    reason = _why_not_verified(sidecar, gpu, verify)
    if not sidecar.engine.verified:
        unverified = EngineVerification(UNVERIFIED, reason or "not yet")
        sidecar = dataclasses.replace(sidecar, engine=dataclasses.replace(sidecar.engine, verification=unverified))
    _write(output, content, sidecar)
    if verify is not None and reason is None and not sidecar.engine.verified:
        sidecar = _verify(onnx_file, output, verify)
        if cache:
            engine_cache.store(cache, key, content, sidecar)
    return EngineBuild(output, sidecar, findings, found is not None)


def _circumstances(
    library: Library, gpu: Gpu | None, options: BuildOptions, precision: str | None, min_share: float
) -> Circumstances:
    return Circumstances(
        library=library.name,
        version=library.version,
        precision=precision,
        min_share=min_share,
        gpu=None if library.rtx else gpu,
        memory=available_memory(),
        workspace=options.workspace,
        plugins=None if library.rtx else _plugins(library),
        compute_capabilities=options.compute_capabilities,
        version_compatible=options.version_compatible,
    )


def _plugins(library: Library) -> frozenset[tuple[str, str]] | None:
    """(name, version) of every registered plugin; None where the library does not tell."""
    trt, log = library.trt, LibraryLog(most=100)
    try:
        trt.init_libnvinfer_plugins(log.logger(trt), "")
        registry = trt.get_plugin_registry()
        creators = getattr(registry, "all_creators", None) or registry.plugin_creator_list
        return frozenset((creator.name, creator.plugin_version) for creator in creators)
    except (AttributeError, RuntimeError):
        return None


def _audit(onnx_file: Path, library: Library, built: Built, precision: str, gpu: Gpu | None) -> Audit:
    """The layers as the inspector tells them where the engine can be opened, else as the build log does."""
    text, model = "\n".join(built.log.lines), read_model(onnx_file)
    if gpu is not None:
        trt, log = library.trt, LibraryLog()
        runtime = trt.Runtime(log.logger(trt))
        if built.options.version_compatible and not built.options.exclude_lean_runtime:
            runtime.engine_host_code_allowed = True  # of what was built a moment ago
        engine = runtime.deserialize_cuda_engine(built.engine)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            layers = layers_from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
            if layers:
                return audit(model, layers, precision, text, "inspector")
    return audit(model, layers_from_log(text), precision, text, "build log")


def _check_audit(sidecar: Sidecar, precision: str, min_share: float) -> None:
    found = sidecar.engine.audit
    if found is None:
        raise EngineError("the cached engine of this graph was never audited; build with --no-cache")
    if found.asked != precision:
        raise EngineError(
            f"{precision} asked for, the cached engine of this graph was audited for {found.asked}; "
            "leave --precision away, or build with --no-cache"
        )
    found.check(min_share)


def _facts(
    onnx_file: Path,
    source: str,
    library: Library,
    bound: Gpu | None,
    options: BuildOptions,
    built: Built,
    verdict: Audit,
) -> EngineFacts:
    named = tuple(text for text in options.compute_capabilities if text != CURRENT)
    return EngineFacts(
        library=library.name,
        library_version=library.version,
        engine_sha256=hashlib.sha256(built.engine).hexdigest(),
        engine_bytes=len(built.engine),
        onnx=onnx_file.name,
        onnx_sha256=source,
        gpu=bound.name if bound else None,
        compute_capabilities=(bound.capability,) if bound else named or portable_capabilities(read_model(onnx_file)),
        options=built.options,
        audit=verdict,
        versions={"l2g": l2g.__version__, "python": platform.python_version(), "platform": platform.machine()},
        build_seconds=round(built.seconds, 2),
    )


def _write(output: Path, content: bytes, sidecar: Sidecar) -> None:
    """Engine, then sidecar. Whoever looks in between finds an engine that its old sidecar does not vouch for; ended in
    between, by Ctrl-C or a full disk, none is left."""
    try:
        write_bytes(output, content, EngineError)
        write_sidecar(output, sidecar)
        check_file(output, sidecar)
    except BaseException:
        if not _vouched_for(output):
            for path in (output, sidecar_path(output)):
                path.unlink(missing_ok=True)
        raise


def _vouched_for(output: Path) -> bool:
    try:
        return bool(check_file(output, read_sidecar(output)))
    except EngineError:
        return False


def _why_not_verified(sidecar: Sidecar, gpu: Gpu | None, verify: Verify | None) -> str | None:
    """None where engine and graph can be compared here and now."""
    if gpu is None:
        return "built on a machine without a GPU"
    if not sidecar.engine.made_for(gpu):
        return f"built for other GPUs than the {gpu.name} ({gpu.capability}) that it was built beside"
    if sidecar.contract.build.lowering == "plugin":
        return "nothing but TensorRT runs the plugins of its graph"
    build = sidecar.contract.build
    if "bf16" in (build.precision, build.int8 and build.int8.scales):
        return "ONNX Runtime's CPU, which runs the graph beside it, has no BF16"
    return "not asked for" if verify is None else None


def _verify(onnx_file: Path, output: Path, verify: Verify) -> Sidecar:
    try:
        return record_verification(output, verify(onnx_file, output))
    except BaseException:
        for path in (output, sidecar_path(output)):
            path.unlink(missing_ok=True)
        raise
