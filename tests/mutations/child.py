"""One command in a forked child, with limits of time and memory, and what became of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

SECONDS, BYTES = 60, 10 << 30
GOOD = ("result", "error")


@dataclass(frozen=True)
class Outcome:
    """kind: "result" (exit 0 or 1), "error" (exit 2, said in one line), "traceback" (also exit 70, and code that
    came with the input and ran), "hang", "crash", "memory" or "half-written". text: what the command printed."""

    kind: str
    text: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.kind in GOOD


@dataclass(frozen=True)
class Place:
    """Where a command runs. file_bytes: files can grow so far, as on a full disk. user: number of the one who runs it;
    nobody of that number need exist. unset: variables that its environment lacks. environment: those it has besides."""

    file_bytes: int | None = None
    user: int | None = None
    unset: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def enter(self) -> None:
        for name in self.unset:
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        tempfile.tempdir = None  # found again, where TMPDIR says
        if self.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
        if self.user is not None:
            os.setresuid(self.user, -1, -1)  # what `os.getuid` says; what may be read stays, or Python could not go on


class Forks:
    """A process that has loaded the libraries and used none of them, and forks for each command: what has threads
    already cannot be forked. A context manager. prefix: words of a command that starts it."""

    def __init__(self, prefix: Sequence[str] = ()):
        self._prefix = prefix

    def __enter__(self) -> Forks:
        command = [*self._prefix, sys.executable, "-m", "tests.mutations.child"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()

    def outcome_of(
        self, words: list[str], log: Path, output: Path, seconds: float = SECONDS, place: Place | None = None
    ) -> Outcome:
        """Run `l2g` with `words`. output: the folder in which nothing half-written may be left."""
        started = time.monotonic()
        assert self._server.stdin
        assert self._server.stdout
        asked = {"words": words, "log": str(log), "seconds": seconds, "place": asdict(place or Place())}
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        status = json.loads(self._server.stdout.readline())
        text, passed = log.read_text(errors="replace"), time.monotonic() - started
        return Outcome("hang" if status is None else _kind(status, text, output), text, passed)


def _serve() -> None:
    import av  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    import l2g.evaluation.run
    import l2g.runtime.video.job
    import l2g.training.trainer  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        status = _forked(asked["words"], Path(asked["log"]), asked["seconds"], Place(**asked["place"]))
        print(json.dumps(status), flush=True)


def _forked(words: list[str], log: Path, seconds: float, place: Place) -> int | None:
    """The status that the command ended with, None where it had to be ended."""
    process = os.fork()
    if not process:
        _child(words, log, place)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _kind(status: int, text: str, output: Path) -> str:
    if os.WIFSIGNALED(status):
        return "crash"
    code = os.waitstatus_to_exitcode(status)
    if "Traceback" in text or "l2g-was-run" in text or code not in (0, 1, 2):
        return "traceback"
    if code == 2 and "got no more memory" in text:
        return "memory"
    if code == 2 and text.count("error: ") < 1:
        return "traceback"
    if list(output.rglob("*.part")):
        return "half-written"
    return "error" if code == 2 else "result"


def _child(words: list[str], log: Path, place: Place) -> None:
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        from l2g.cli.main import main

        # Words that name a folder of no place, such as --output 0x0, make it here.
        os.chdir(log.parent)
        place.enter()
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 2
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = 99
        os._exit(code)


if __name__ == "__main__":
    _serve()
