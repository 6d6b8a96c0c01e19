"""MODEL.engine.json, the file beside an engine: its contract, how it was built, for what, and whether it was verified.

An engine file says none of this itself, and an engine for another GPU, library or model fails late, or runs and is
wrong. So an engine is opened only when this file vouches for it. Needs neither torch nor an inference library.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from l2g.artifacts.records import UNVERIFIED, VERIFIED, Audit, EngineOptions, EngineVerification
from l2g.contract import GraphContract
from l2g.errors import ContractError, EngineError
from l2g.files import sha256_of_file, write_text
from l2g.records import Record

KIND = "l2g.engine"
# Runs engines of TensorRT that were built for it, and builds none.
LEAN = "tensorrt-lean"
SCHEMA_VERSION = 1
_FLAGS = ("--version-compatible", "--exclude-lean-runtime")


@dataclass(frozen=True)
class Gpu:
    """A GPU as far as engines depend on it. compute_capability: (major, minor). memory, free_memory: bytes."""

    name: str
    compute_capability: tuple[int, int]
    memory: int = 0
    free_memory: int = 0

    @property
    def capability(self) -> str:
        return "{}.{}".format(*self.compute_capability)


@dataclass(frozen=True)
class EngineFacts(Record):
    """What an engine is and where it came from.

    library: "tensorrt" or "tensorrt-rtx". engine_sha256, engine_bytes: of the file. onnx: the name of the file that it
    was built from, onnx_sha256 its sum. gpu: the name of the GPU that it is bound to; None for an engine that runs on
    every GPU of one of `compute_capabilities` ("8.6", ...). options: of the build. audit: what the engine's layers
    really compute in (`l2g.engines.audit`). verification: whether it gave its graph's numbers. versions: of what built
    it, by name.
    """

    library: str
    library_version: str
    engine_sha256: str
    engine_bytes: int
    onnx: str
    onnx_sha256: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    options: EngineOptions | None = None
    audit: Audit | None = None
    verification: EngineVerification = field(default_factory=lambda: EngineVerification(UNVERIFIED, "no record"))
    versions: dict[str, str] = field(default_factory=dict)
    build_seconds: float = 0.0

    @property
    def verified(self) -> bool:
        return self.verification.status == VERIFIED

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The libraries that can run it, the one that built it first."""
        lean = self.options is not None and self.options.version_compatible
        return (self.library, LEAN) if lean and self.library == "tensorrt" else (self.library,)

    @property
    def holds_host_code(self) -> bool:
        """Whether a runtime of its own lies in it, which runs on the host as well."""
        options = self.options
        return options is not None and options.version_compatible and not options.exclude_lean_runtime

    def runs_in(self, version: str) -> bool:
        """Whether a version of these libraries runs it.

        What carries its runtime goes on running in later versions, from TensorRT 10 in 11 too, and never in earlier
        ones (TensorRT's pages "Engine Compatibility" and "Support Matrix" of 11.4).
        """
        if version == self.library_version or not self.holds_host_code:
            return version == self.library_version
        built, found = (_numbers(text) for text in (self.library_version, version))
        return found >= built and found[0] in (built[0], 11 if built[0] == 10 else built[0])

    def made_for(self, gpu: Gpu) -> bool:
        """Whether the engine's kernels run on a GPU of that compute capability; which of them they were tuned on is
        another matter."""
        if self.gpu is not None:
            return gpu.capability in self.compute_capabilities
        return runs_on(gpu, self.compute_capabilities)


@dataclass(frozen=True)
class Sidecar:
    """The contract that the engine keeps, and the facts about it."""

    contract: GraphContract
    engine: EngineFacts

    def to_json(self) -> str:
        body = {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "contract": self.contract.to_dict(),
            "engine": self.engine.to_json(),
        }
        return json.dumps({**body, "sha256": _sum_of(body)}, indent=1) + "\n"

    def rebuild_command(self, engine: Path) -> str:
        facts = self.engine
        options = facts.options or EngineOptions((1, 1, 1))
        flags = (options.version_compatible, options.exclude_lean_runtime)
        words = [name for flag, name in zip(flags, _FLAGS, strict=True) if flag]
        return " ".join([f"l2g build --onnx {facts.onnx} --library {facts.library} --output {engine}", *words])


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """MODEL.engine -> MODEL.engine.json."""
    return Path(f"{os.fspath(engine)}.json")


def read_sidecar(engine: str | os.PathLike[str]) -> Sidecar:
    """The sidecar of an engine file; EngineError where it is missing, damaged, of another version or was edited."""
    path, build = sidecar_path(engine), f"build the engine again with: {_build_command(engine)}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise EngineError(
            f"{path}: no such file; an engine is opened only with the sidecar that was written beside it: copy both, "
            f"or {build}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path}: cannot be read ({error}); {build}") from None
    try:
        data = json.loads(text)
        if data["kind"] != KIND or data["schema_version"] != SCHEMA_VERSION:
            raise EngineError(
                f"{path}: {data['kind']} schema {data['schema_version']} found, {KIND} schema {SCHEMA_VERSION} "
                f"expected; {build} with this version of l2g"
            )
        found = data.pop("sha256")
        if found != _sum_of(data):
            raise EngineError(
                f"{path}: was changed after it was written (its content has not the sum {found[:12]}... that it "
                f"carries), so nothing it says of the engine can be relied on; {build}"
            )
        contract = GraphContract.from_json(json.dumps(data["contract"]))
        facts = EngineFacts.from_json(data["engine"], "engine")
        _check_facts(facts)
        return Sidecar(contract, facts)
    except ContractError as error:
        raise EngineError(f"{path}: {error}; {build}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError(f"{path}: not a whole sidecar ({type(error).__name__}: {error}); {build}") from None


def _check_facts(facts: EngineFacts) -> None:
    """ValueError for what the types let through and nobody could use."""
    for name in ("engine_sha256", "onnx_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", getattr(facts, name)):
            raise ValueError(f"engine.{name}: found {getattr(facts, name)!r:.40}, expected 64 hexadecimal digits")
    if facts.engine_bytes < 1:
        raise ValueError(f"engine.engine_bytes: found {facts.engine_bytes}, expected 1 or more")
    if facts.onnx != Path(facts.onnx).name or not facts.onnx.isprintable() or len(facts.onnx) > 255:
        raise ValueError(f"engine.onnx: found {facts.onnx!r:.60}, expected the name of a file, without a folder")
    for capability in facts.compute_capabilities:
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", capability):
            raise ValueError(f"engine.compute_capabilities: found {capability!r:.40}, expected such as 8.6")
    if not facts.compute_capabilities:
        raise ValueError("engine.compute_capabilities: none found, expected such as 8.6")
    if not math.isfinite(facts.build_seconds):
        raise ValueError(f"engine.build_seconds: found {facts.build_seconds}, expected a number")


def write_sidecar(engine: str | os.PathLike[str], sidecar: Sidecar) -> Path:
    """Write MODEL.engine.json in one step: a reader sees the old one or the new one. EngineError where it cannot."""
    path = sidecar_path(engine)
    write_text(path, sidecar.to_json(), EngineError)
    return path


def record_verification(engine: str | os.PathLike[str], record: EngineVerification) -> Sidecar:
    """Put `record` into an engine's sidecar; returns the new one."""
    old = read_sidecar(engine)
    new = replace(old, engine=replace(old.engine, verification=record))
    write_sidecar(engine, new)
    return new


def check_file(engine: str | os.PathLike[str], sidecar: Sidecar) -> bytes:
    """Read an engine and check it against its sidecar and against the ONNX file beside it, if that is there.

    Raises EngineError, with the way to mend it, for an engine that is missing, truncated, not the one that the sidecar
    describes, or built from another ONNX file than the one of the recorded name in its folder.
    """
    engine, facts, mend = Path(engine), sidecar.engine, sidecar.rebuild_command(Path(engine))
    try:
        content = engine.read_bytes()
    except OSError as error:
        raise EngineError(f"{engine}: cannot be read ({error.strerror}); build it with: {mend}") from None
    if len(content) < facts.engine_bytes:
        raise EngineError(
            f"{engine}: truncated, {len(content)} of {facts.engine_bytes} bytes found; copy it again, or build it "
            f"again with: {mend}"
        )
    found = hashlib.sha256(content).hexdigest()
    if found != facts.engine_sha256:
        raise EngineError(
            f"{engine}: not the engine that its sidecar describes (sum {found[:12]}... found, "
            f"{facts.engine_sha256[:12]}... expected): the two come from different builds or the file is damaged; copy "
            f"both from one build, or build it again with: {mend}"
        )
    onnx = engine.parent / facts.onnx
    if onnx.is_file():
        check_source(engine, sidecar, onnx)
    return content


def check_source(engine: str | os.PathLike[str], sidecar: Sidecar, onnx: Path) -> None:
    """EngineError unless the engine was built from exactly this ONNX file."""
    found = sha256_of_file(onnx, EngineError)
    if found != sidecar.engine.onnx_sha256:
        command = f"l2g build --onnx {onnx} --library {sidecar.engine.library} --output {engine}"
        raise EngineError(
            f"{engine}: built from another ONNX file than {onnx} (built from sum {sidecar.engine.onnx_sha256[:12]}..., "
            f"that file has {found[:12]}...): the engine is older than the graph, or of another model; build it again "
            f"with: {command}"
        )


def check_machine(
    engine: str | os.PathLike[str], sidecar: Sidecar, library: str, version: str, gpu: Gpu | None
) -> None:
    """EngineError unless this library, of this version, runs the engine on this GPU."""
    facts, mend = sidecar.engine, f"build it on this machine with: {sidecar.rebuild_command(Path(engine))}"
    if library == LEAN and LEAN not in facts.runtimes:
        raise EngineError(
            f"{engine}: not built for the lean runtime; install {facts.library} {facts.library_version}, or build it "
            f"with: {sidecar.rebuild_command(Path(engine))} --version-compatible"
        )
    if library not in facts.runtimes:
        raise EngineError(f"{engine}: built by {facts.library}, {library} found; open it with {facts.library}")
    if not facts.runs_in(version):
        rule = "the version that built it and later ones" if facts.holds_host_code else "the version that built it only"
        raise EngineError(
            f"{engine}: built by {facts.library} {facts.library_version}, {library} {version} is installed, and this "
            f"engine runs in {rule}; install {library} {facts.library_version}, or {mend}"
        )
    if gpu is None:
        raise EngineError(
            f"{engine}: no GPU that CUDA can use was found, and an engine runs on nothing else; check the driver with "
            f"nvidia-smi, or run {facts.onnx} on ONNX Runtime"
        )
    if not facts.made_for(gpu):
        bound, option = (f" ({facts.gpu})", "") if facts.gpu else ("", " --compute-capability current")
        raise EngineError(
            f"{engine}: built for compute capability {', '.join(facts.compute_capabilities)}{bound}, this {gpu.name} "
            f"has {gpu.capability}; {mend}{option}"
        )
    if facts.gpu not in (None, gpu.name):
        raise EngineError(
            f"{engine}: built on a {facts.gpu}, this machine has a {gpu.name}: its kernels were chosen for the other; "
            f"{mend}"
        )


def runs_on(gpu: Gpu, targets: Iterable[str]) -> bool:
    """Whether TensorRT-RTX's code for any of these compute capabilities ("8.6", ...) runs on that GPU."""
    return any(_runs(gpu.compute_capability, target) for target in targets)


def _runs(capability: tuple[int, int], target: str) -> bool:
    """Whether code for `target` runs on a GPU: the same generation, not older; 12.0 covers all later ones."""
    major, minor = (int(part) for part in target.split("."))
    return (capability[0] == major and capability[1] >= minor) or (major >= 12 and capability >= (major, minor))


def _numbers(version: str) -> tuple[int, ...]:
    """ "10.13.3.9" -> (10, 13, 3, 9)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (0,)


def _sum_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _build_command(engine: str | os.PathLike[str]) -> str:
    return f"l2g build --onnx MODEL.onnx --library tensorrt --output {engine}"
