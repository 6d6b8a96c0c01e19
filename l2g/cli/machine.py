"""What this machine has: processor, memory, GPUs, libraries, extras. What cannot be told is left out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2g.cli.libraries import Extra, extras, library_versions

# Of a CPU's flags those that decide which kernels FP32, BF16 and INT8 get: x86-64, then ARM.
_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)
_QUERY = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")


@dataclass(frozen=True)
class Cpu:
    """cores: that the system has. usable: that this process may run on. quota: cores that its container allows, None
    where there is no limit. flags: the instruction sets that matter to inference."""

    model: str
    architecture: str
    cores: int | None
    usable: int | None
    quota: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes; None where that cannot be told."""

    total: int | None
    available: int | None


@dataclass(frozen=True)
class GpuFacts:
    """A GPU. memory, free: bytes. driver: its version; source: what told of the GPU."""

    name: str
    compute_capability: str
    memory: int | None
    free: int | None
    driver: str | None
    source: str


@dataclass(frozen=True)
class Machine:
    """Everything that `l2g doctor` reports without a file. libraries: version by name, None where not installed.
    providers: ONNX Runtime's execution providers. openvino: OpenVINO's devices, with what they compute natively."""

    system: str
    board: str | None
    python: str
    l2g: str
    cpu: Cpu
    memory: Memory
    gpus: tuple[GpuFacts, ...]
    libraries: dict[str, str | None]
    providers: tuple[str, ...]
    openvino: dict[str, tuple[str, ...]]
    extras: tuple[Extra, ...]

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["extras"] = {extra.name or "base": list(extra.missing) for extra in self.extras}
        return data

    def text(self) -> str:
        memory, cpu = self.memory, self.cpu
        quota = "" if cpu.quota is None else f", {cpu.quota:g} by the container's quota"
        lines = [
            _row("system", self.system + (f", {self.board}" if self.board else "")),
            _row("python", self.python),
            _row("l2g", self.l2g),
            _row("CPU", f"{cpu.model} ({cpu.architecture})"),
            _row("  cores", f"{cpu.cores or 'unknown'}, {cpu.usable or 'unknown'} usable by this process{quota}"),
            _row("  flags", " ".join(cpu.flags) or "unknown, or none that matters"),
            _row("memory", f"{_gigabytes(memory.total)}, {_gigabytes(memory.available)} available"),
            *[_row("GPU", _gpu_text(gpu)) for gpu in self.gpus or [None]],
            "",
            "libraries",
            *[_row(f"  {name}", version or "not installed") for name, version in self.libraries.items()],
        ]
        if self.providers:
            lines.append(_row("  providers", ", ".join(self.providers)))
        for device, precisions in self.openvino.items():
            lines.append(_row("  openvino", f"{device} ({', '.join(precisions)})"))
        if not self.extras:
            return "\n".join([*lines, "", "l2g is not installed as a package, so its extras are unknown"])
        lines += ["", "extras (pip install 'l2g[NAME]')"]
        for extra in self.extras:
            missing = ", ".join(extra.missing)
            lines.append(_row(f"  {extra.name or 'base'}", f"missing: {missing}" if missing else "complete"))
        return "\n".join(lines)


def look_at_machine() -> Machine:
    import l2g

    return Machine(
        system=f"{platform.system()} {platform.release()}",
        board=_first_line("/proc/device-tree/model"),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        l2g=l2g.__version__,
        cpu=_cpu(),
        memory=_memory(),
        gpus=find_gpus(),
        libraries=library_versions(),
        providers=_providers(),
        openvino=_openvino(),
        extras=extras(),
    )


def _cpu() -> Cpu:
    text = _read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    affinity = getattr(os, "sched_getaffinity", None)
    return Cpu(
        model=model[1].strip() if model else _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=os.cpu_count(),
        usable=len(affinity(0)) if affinity else os.cpu_count(),
        quota=_quota(),
        flags=tuple(flag for flag in _FLAGS if flag in found),
    )


def _quota() -> float | None:
    """Cores that the control group allows; None without a limit."""
    quota, _, period = (_first_line("/sys/fs/cgroup/cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _memory() -> Memory:
    text = _read("/proc/meminfo") or ""
    total, available = (re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in ("MemTotal", "MemAvailable"))
    whole = int(total[1]) << 10 if total else _sysctl_number("hw.memsize")
    limit = _first_line("/sys/fs/cgroup/memory.max") or ""
    used = _first_line("/sys/fs/cgroup/memory.current") or ""
    free = int(available[1]) << 10 if available else None
    if limit.isdigit() and whole:
        whole = min(whole, int(limit))
        if free is not None and used.isdigit():
            free = max(min(free, int(limit) - int(used)), 0)
    return Memory(whole, free)


def find_gpus() -> tuple[GpuFacts, ...]:
    """NVIDIA's GPUs: from nvidia-smi, else (a Jetson has none) from the CUDA bindings."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    found = tuple(filter(None, map(_gpu_of_line, _output(command).splitlines())))
    return found or _bound_gpus()


def _gpu_of_line(line: str) -> GpuFacts | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_QUERY):
        return None
    name, capability, total, free, driver = cells
    whole, left = (int(cell) << 20 if cell.isdigit() else None for cell in (total, free))
    return GpuFacts(name, capability, whole, left, driver, "nvidia-smi")


def _bound_gpus() -> tuple[GpuFacts, ...]:
    try:
        from l2g.runtime.backends.tensorrt.device import find_gpu

        found: list[GpuFacts] = []
        while len(found) < 64 and (gpu := find_gpu(len(found))) is not None:
            found.append(GpuFacts(gpu.name, gpu.capability, gpu.memory, gpu.free_memory, None, "CUDA bindings"))
        return tuple(found)
    except Exception:  # a report of what is there must not fail on what is broken
        return ()


def _providers() -> tuple[str, ...]:
    try:
        import onnxruntime

        return tuple(onnxruntime.get_available_providers())
    except Exception:  # not installed, or its libraries do not load
        return ()


def _openvino() -> dict[str, tuple[str, ...]]:
    try:
        from l2g.runtime.backends.openvino.backend import devices, native_precisions

        return {device: native_precisions(device) for device in devices()}
    except Exception:  # not installed, or its libraries do not load
        return {}


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _sysctl(name: str) -> str:
    return _output(["sysctl", "-n", name]).strip() if platform.system() == "Darwin" else ""


def _sysctl_number(name: str) -> int | None:
    text = _sysctl(name)
    return int(text) if text.isdigit() else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _first_line(path: str) -> str | None:
    text = (_read(path) or "").strip("\0\n ")
    return text.splitlines()[0] if text else None


def _row(name: str, value: str) -> str:
    return f"{name:<16}{value}"


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def _gpu_text(gpu: GpuFacts | None) -> str:
    if gpu is None:
        return "none found (nvidia-smi, CUDA bindings)"
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    memory = f"{_gigabytes(gpu.memory)}, {_gigabytes(gpu.free)} free"
    return f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}{driver}"
