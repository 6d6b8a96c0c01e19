"""The real tritonserver of the nvidia-pytriton wheel on loopback, with its Python backend in this interpreter."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 90


def missing() -> str | None:
    """Why there is no real server here, or None."""
    for module in ("pytriton", "tritonclient.grpc", "tritonclient.http"):
        try:
            if importlib.util.find_spec(module) is not None:
                continue
        except ModuleNotFoundError:
            pass
        return f"{module} is not installed; make test-serving makes an environment that has it"
    return None


def package() -> Path:
    """The folder of the wheel's files, found without importing it, which wants an older NumPy."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@dataclass
class Server:
    """A server that answers. log: everything it has said so far."""

    grpc_port: int
    http_port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def grpc(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def streams(self, model: str) -> int:
        """Streams whose state the instances of a model hold, by the server's own metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(rf'^l2g_streams{{.*model="{re.escape(model)}".*}} (\S+)$', text, re.MULTILINE)
        assert found, text
        return int(sum(map(float, found)))

    def streams_become(self, model: str, count: int, within: float = 10.0) -> bool:
        """Whether there are so many streams before long."""
        limit = time.monotonic() + within
        while self.streams(model) != count:
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return True


@contextmanager
def running(repository: Path, work: Path, ports: tuple[int, int, int] | None = None) -> Iterator[Server]:
    """A server of the repository, ended with the block. work: a folder for its log and its backends. ports: of HTTP,
    gRPC and the metrics; None is any three."""
    ports = ports or _free_ports(3)
    log_file = work / "tritonserver.log"
    command = [str(package() / "tritonserver/bin/tritonserver"), "--model-repository", str(repository)]
    command += ["--backend-directory", str(_backends(work))]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{kind}-port", str(port), f"--{kind}-address", "127.0.0.1"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
        )
    server = Server(ports[1], ports[0], ports[2], process, log_file)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        assert server.process.poll() is None, server.log
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"not ready after {START_SECONDS} s\n{server.log}")


def _backends(work: Path) -> Path:
    """The wheel's backends, with the stub of this Python's version beside the Python backend."""
    folder = work / "backends" / "python"
    if not folder.exists():
        shutil.copytree(package() / "tritonserver/backends/python", folder)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = package() / "tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, folder / stub.name)
    return folder.parent


def _environment() -> dict[str, str]:
    """The stub is an interpreter of its own: it is shown this one's library and packages."""
    libraries = [package().parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def _free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()
