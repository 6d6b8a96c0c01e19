"""TensorRT and TensorRT-RTX as one module: which is installed, its version, its log. Needs no torch and no GPU.

Both offer the same Python interface under different names, and 10.x and 11.x of TensorRT differ in little that is
used here, so everything above this module is written once.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from l2g.artifacts.sidecar import LEAN
from l2g.errors import EngineError
from l2g.files import write_text

LIBRARIES = ("tensorrt", "tensorrt-rtx")
INSTALL = {
    "tensorrt": "pip install 'l2g[tensorrt]' from NVIDIA's package index (a Jetson has it from JetPack)",
    "tensorrt-rtx": "pip install 'l2g[rtx]' (Linux and Windows, x86-64)",
    LEAN: "pip install 'l2g[lean]' (from the public package index)",
}
# The public package that carries TensorRT-RTX's two libraries, in the order in which they must be loaded.
_RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_RTX_FILES = ("tensorrt_rtx", "tensorrt_onnxparser_rtx")
_RTX_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")


@dataclass(frozen=True)
class Library:
    """An inference library that is ready for use: "tensorrt", "tensorrt-rtx" or, to run engines only, "tensorrt-lean";
    its module and its version."""

    name: str
    trt: ModuleType
    version: str

    @property
    def lean(self) -> bool:
        return self.name == LEAN

    @property
    def rtx(self) -> bool:
        return self.name == "tensorrt-rtx"


def load_library(name: str) -> Library:
    """Import "tensorrt", "tensorrt-rtx" or "tensorrt-lean". EngineError, with the way to install it, where it is not
    there."""
    if name not in (*LIBRARIES, LEAN):
        raise EngineError(f"library '{name}' found, one of {', '.join(LIBRARIES)} expected")
    module = _import_rtx() if name == "tensorrt-rtx" else _import(name.replace("-", "_"))
    if module is None:
        raise EngineError(f"{name} is not installed for this Python and platform; {INSTALL[name]}")
    return Library(name, module, str(module.__version__))


def load_runtime(names: Sequence[str], fits: Callable[[Library], bool]) -> Library:
    """The first of these libraries that fits, else the first that is installed: what is wrong with it is said where it
    is used. EngineError, with the ways to install them, where none is."""
    found: list[Library] = []
    for name in names:
        with contextlib.suppress(EngineError):
            found.append(load_library(name))
    if not found:
        ways = ", or ".join(INSTALL[name] for name in names)
        raise EngineError(f"{' or '.join(names)} is not installed for this Python and platform; {ways}")
    return next(filter(fits, found), found[0])


def installed_version(name: str) -> str | None:
    """The version of a library, None where it is not installed."""
    try:
        return load_library(name).version
    except EngineError:
        return None


def version_tuple(version: str) -> tuple[int, ...]:
    """ "10.13.3.9" -> (10, 13, 3, 9); letters end a part."""
    return tuple(int(match[0]) for part in version.split(".") if (match := re.match(r"\d+", part)))


@dataclass
class LibraryLog:
    """What a library says while it works: all lines, and the errors among them.

    `logger(trt)` makes the object that the library is given. A build keeps everything, since without a GPU the table of
    an engine's layers is found nowhere else; with `most`, only so many warnings and errors are kept, for a program that
    runs for days.
    """

    most: int | None = None
    lines: deque[str] = field(init=False)
    errors: deque[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines, self.errors = deque(maxlen=self.most), deque(maxlen=self.most)

    def logger(self, trt: ModuleType) -> Any:
        log, lock = self, threading.Lock()
        base: Any = trt.ILogger

        class Logger(base):  # type: ignore[misc]  # the library's own, known when it is there
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                with lock:
                    log.add(severity.name, message)

        return Logger()

    def add(self, severity: str, message: str) -> None:
        """severity: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""
        if self.most is None or severity not in ("INFO", "VERBOSE"):
            self.lines.append(f"[{severity}] {message}")
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)

    def tail(self, lines: int = 6) -> str:
        """The last errors, or where there are none the last lines, for the end of an error's message."""
        # Without a driver every call into CUDA is reported, whatever else is wrong.
        chosen = [text for text in self.errors if "cudaError 35" not in text] or self.errors or self.lines
        return "\n  ".join(text.strip() for text in list(chosen)[-lines:])

    def write(self, path: Path) -> None:
        write_text(path, "\n".join(self.lines) + "\n", EngineError)


def _import_rtx() -> ModuleType | None:
    for name in _RTX_MODULES:
        # The vendor's own package brings its libraries along; the bindings alone have none.
        if (module := _import(name)) is not None:
            return module
        _load_rtx_files()
    return _import(_RTX_MODULES[-1])


def _load_rtx_files() -> None:
    try:
        files = importlib.metadata.files(_RTX_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for stem in _RTX_FILES:
        for file in files:
            if re.fullmatch(rf"(lib)?{stem}(\.so[.\d]*|[_\d]*\.dll)", file.name):
                try:
                    # Global, so that the bindings find their symbols in it.
                    ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
                except OSError as error:
                    raise EngineError(f"{file.name} cannot be loaded: {error}; {INSTALL['tensorrt-rtx']}") from None


def _import(name: str) -> ModuleType | None:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError):
        # A failed import of the bindings leaves nothing behind that a second try would trip over.
        return None
    return module if hasattr(module, "Builder") or hasattr(module, "Runtime") else None
