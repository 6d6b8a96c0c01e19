"""One graph through a builder: parsed, profiled, optimised, serialised; the same steps for every library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from l2g.artifacts.records import EngineOptions
from l2g.contract import GraphContract
from l2g.errors import EngineError
from l2g.files import write_bytes
from l2g.runtime.backends.tensorrt.library import Library, LibraryLog

# What TensorRT-RTX builds for when it is not told: the vendor's documentation, "CPU-only AOT", for 1.7.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
CURRENT = "current"
# An object of the inference library, which carries no types.
Vendors = Any
_Built = TypeVar("_Built")


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    max_streams: the profile goes from 1 to so many streams; None is what the graph was exported for. opt_streams: what
    TensorRT tunes for; None is 1. workspace: bytes of scratch memory that a layer may ask for; None is all there is.
    timing_cache: a file that is read, if there, and written (TensorRT only: TensorRT-RTX times nothing when it builds).
    compute_capabilities: for TensorRT-RTX, such as ("8.9", "12.0") or ("current",); empty is its portable set.
    optimization_level: 0..5, the library's own when None. tf32: let FP32 products round their operands to 10 bits, as
    the libraries do unless told otherwise; it costs parity with FP32. version_compatible: of TensorRT, made of what its
    lean runtime has, so that this (`tensorrt-lean`, without a builder) and later versions run it; that runtime lies in
    the engine, which is then host code too. exclude_lean_runtime: it does not, and only the same version runs it.
    """

    library: str
    max_streams: int | None = None
    opt_streams: int | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    exclude_lean_runtime: bool = False

    def __post_init__(self) -> None:
        if self.max_streams is not None and self.max_streams < 1:
            raise EngineError(f"max-streams {self.max_streams} found, at least 1 expected")
        if self.workspace is not None and self.workspace < 1 << 20:
            raise EngineError(f"workspace of {self.workspace} bytes found, at least 1 MiB expected, such as 2GiB")
        if self.compute_capabilities and self.library != "tensorrt-rtx":
            raise EngineError(
                "--compute-capability is TensorRT-RTX's: TensorRT builds for the GPU that it runs on; leave it away"
            )
        if self.version_compatible and self.library != "tensorrt":
            raise EngineError(
                f"--version-compatible is TensorRT's: {self.library} has no lean runtime, and its engines run in the "
                "version that built them; leave it away"
            )
        if self.exclude_lean_runtime and not self.version_compatible:
            raise EngineError("--exclude-lean-runtime is for engines that have one inside; add --version-compatible")
        if CURRENT in self.compute_capabilities and len(self.compute_capabilities) > 1:
            raise EngineError(f"--compute-capability {CURRENT} and others found; {CURRENT} stands alone")
        if self.timing_cache and self.library == "tensorrt-rtx":
            raise EngineError(
                "--timing-cache is TensorRT's: TensorRT-RTX chooses kernels on the GPU that runs them; leave it away"
            )

    def streams(self, contract: GraphContract) -> tuple[int, int, int]:
        """(fewest, tuned for, most) streams of the profile; EngineError where they do not fit each other."""
        most = self.max_streams or contract.build.max_streams or 1
        tuned = self.opt_streams or 1
        if not 1 <= tuned <= most:
            raise EngineError(f"opt-streams {tuned} found, 1 to {most} (max-streams) expected")
        return 1, tuned, most

    def for_engine(self, contract: GraphContract) -> EngineOptions:
        """What of these makes another engine: for the sidecar and for the cache."""
        return EngineOptions(
            streams=self.streams(contract),
            workspace=self.workspace,
            compute_capabilities=self.compute_capabilities,
            optimization_level=self.optimization_level,
            tf32=self.tf32,
            version_compatible=self.version_compatible,
            exclude_lean_runtime=self.exclude_lean_runtime,
        )


@dataclass
class Built:
    """A serialised engine, the library's log, and how long it took in seconds."""

    engine: bytes
    log: LibraryLog
    seconds: float
    options: EngineOptions


def build_serialized(
    onnx_file: Path,
    contract: GraphContract,
    library: Library,
    options: BuildOptions,
    progress: bool = True,
    interrupted: Callable[[], object] | None = None,
) -> Built:
    """Build an engine from an ONNX file.

    Raises EngineError, with the end of the library's log, where it refuses the graph or fails; KeyboardInterrupt when
    it is interrupted, after the builder has stopped. interrupted: is called before it is asked to stop.
    """
    monitor = _Monitor(progress)
    return _run_interruptibly(lambda: _build(onnx_file, contract, library, options, monitor), monitor, interrupted)


def _build(
    onnx_file: Path, contract: GraphContract, library: Library, options: BuildOptions, monitor: _Monitor
) -> Built:
    trt, log = library.trt, LibraryLog()
    logger = log.logger(trt)
    started = time.perf_counter()
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, logger, log, onnx_file)
    config = _configure(builder, network, contract, library, options, log)
    config.progress_monitor = monitor.watcher(trt)
    cache = _load_timing_cache(config, options)
    engine = None if monitor.cancelled else builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(
            f"{onnx_file}: {library.name} {library.version} built no engine; its log ends with\n  {log.tail()}"
        )
    if cache is not None and options.timing_cache is not None:
        write_bytes(options.timing_cache, bytes(config.get_timing_cache().serialize()), EngineError)
    return Built(bytes(engine), log, time.perf_counter() - started, options.for_engine(contract))


def _network_flags(trt: ModuleType) -> int:
    """Strongly typed: what the graph says is what is built. 10.x has to be told, 11 knows nothing else."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    if flags is not None and hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    return 0


def _parse(trt: ModuleType, network: Vendors, logger: Vendors, log: LibraryLog, onnx_file: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx_file.read_bytes(), str(onnx_file)):
        return
    errors = [_told(parser.get_error(index)) for index in range(parser.num_errors)]
    errors = [text for text in errors if "cudaError 35" not in text] or errors
    reason = "\n  ".join(text.strip() for text in errors[:3]) or log.tail()
    raise EngineError(
        f"{onnx_file}: the parser refuses the graph:\n  {reason}\n"
        "export it again for this library: l2g export --target tensorrt ..., and see l2g doctor"
    )


def _told(error: Vendors) -> str:
    """A parser's error with the node that it is about, which its own text often leaves out."""
    node = f"{error.node_operator()} '{error.node_name()}': " if error.node_operator() else ""
    return node + str(error.desc()).strip()


def _configure(
    builder: Vendors,
    network: Vendors,
    contract: GraphContract,
    library: Library,
    options: BuildOptions,
    log: LibraryLog,
) -> Vendors:
    trt = library.trt
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the audit reads the layers
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.exclude_lean_runtime:
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.compute_capabilities:
        known = trt.ComputeCapability.__members__
        wanted = [_capability_name(text) for text in options.compute_capabilities]
        if absent := [name for name in wanted if name not in known]:
            raise EngineError(
                f"compute capability {absent[0].removeprefix('SM')} is unknown to {library.name} {library.version}; it "
                f"knows {', '.join(known_capabilities(library))} and {CURRENT}"
            )
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(known[name], index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        spec = contract.input(tensor.name)
        shapes = [tuple(b if isinstance(dim, str) else dim for dim in spec.shape) for b in options.streams(contract)]
        profile.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"the profile of 1 to {options.streams(contract)[2]} streams is refused:\n  {log.tail()}")
    return config


def known_capabilities(library: Library) -> list[str]:
    """The compute capabilities that TensorRT-RTX has kernels for, "8.6" and so on."""
    return [_capability_text(name) for name in library.trt.ComputeCapability.__members__ if name.startswith("SM")]


def _capability_name(text: str) -> str:
    return "CURRENT" if text == CURRENT else "SM" + text.replace(".", "")


def _capability_text(name: str) -> str:
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _load_timing_cache(config: Vendors, options: BuildOptions) -> Vendors | None:
    """The timing cache in use; None where none was asked for."""
    if options.timing_cache is None:
        return None
    path = options.timing_cache
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise EngineError(f"{path}: the timing cache cannot be read ({error.strerror}); give another file") from None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"{path}: a timing cache of another GPU or version, or damaged; remove it, or give another file"
        )
    return cache


def _run_interruptibly(
    build: Callable[[], _Built], monitor: _Monitor, interrupted: Callable[[], object] | None
) -> _Built:
    """Run `build` in a thread of its own, so that Ctrl-C reaches Python while it works, and not a callback out of the
    library, which would swallow it; then let it stop by itself."""
    results: list[_Built] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(build())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="engine-builder")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(0.2)
        except KeyboardInterrupt:
            if interrupted:
                interrupted()
            monitor.cancelled = True
    monitor.close()
    if monitor.cancelled:
        raise KeyboardInterrupt
    if failures:
        raise failures[0]
    return results[0]


class _Monitor:
    """Progress of a build as one bar per outermost phase; says stop when `cancelled`."""

    def __init__(self, progress: bool):
        self.cancelled = False
        self._progress = progress
        self._lock = threading.Lock()
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def watcher(self, trt: ModuleType) -> Vendors:
        monitor = self

        base: Any = trt.IProgressMonitor

        class Watcher(base):  # type: ignore[misc]  # the library's class, known when it is there
            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                monitor.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return monitor.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                monitor.finish(phase_name)

        # It has to outlive the builder, which keeps no reference to it.
        self._watcher = Watcher()
        return self._watcher

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            if phase not in self._bars:
                depth = len(self._bars)
                self._bars[phase] = tqdm(
                    total=steps,
                    desc=phase,
                    position=depth,
                    leave=parent is None,
                    disable=None if self._progress else True,
                )

    def step(self, phase: str, step: int) -> bool:
        """False stops the build."""
        with self._lock:
            if (bar := self._bars.get(phase)) is not None:
                bar.update(step + 1 - bar.n)
        return not self.cancelled

    def finish(self, phase: str) -> None:
        with self._lock:
            if (bar := self._bars.pop(phase, None)) is not None:
                bar.close()

    def close(self) -> None:
        for phase in list(self._bars):
            self.finish(phase)
