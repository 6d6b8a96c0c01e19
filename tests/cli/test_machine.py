"""What `l2g doctor` says of a machine: the truth where it can be told, and never an error where it cannot."""

import importlib.metadata
import json
import os
import sys

import pytest

from l2g.cli import libraries, machine
from l2g.cli.libraries import Extra, extras
from l2g.cli.machine import GpuFacts, find_gpus, look_at_machine
from l2g.cli.making.doctor import main

GIB = 1 << 30


def test_json_tells_of_this_machine(capsys):
    import numpy as np

    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cpu"]["cores"] == os.cpu_count()
    assert found["cpu"]["model"] not in ("", "unknown")
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["libraries"]["numpy"] == np.__version__
    assert found["libraries"]["openvino"] == libraries.version_of("openvino")
    assert found["extras"]["base"] == []
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0.2 * GIB < found["memory"]["available"] < found["memory"]["total"] <= pages + GIB


def test_text_has_the_same(capsys):
    assert main([]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    rows = {words[0]: words[1] for words in lines if len(words) == 2}
    facts = look_at_machine()
    assert rows["CPU"].startswith(facts.cpu.model)
    assert rows["memory"].startswith(f"{facts.memory.total / 1e9:.1f} GB")
    assert rows["onnxruntime"] == facts.libraries["onnxruntime"]
    assert rows["base"] == "complete"
    for extra in facts.extras:
        text = rows[extra.name or "base"]
        assert all(missing in text for missing in extra.missing)


def test_flags_memory_and_quota_as_linux_writes_them(monkeypatch):
    files = {
        "/proc/cpuinfo": "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_int8 other\n",
        "/proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{3 * GIB}\n",
        "/sys/fs/cgroup/memory.current": f"{GIB}\n",
        "/proc/device-tree/model": "Some Board\0",
    }
    monkeypatch.setattr(machine, "_read", files.get)
    found = look_at_machine()
    assert (found.cpu.model, found.cpu.flags) == ("Some CPU", ("avx2", "avx512_vnni", "amx_int8"))
    assert found.cpu.quota == 1.5
    assert (found.memory.total, found.memory.available) == (3 * GIB, 2 * GIB)
    assert found.board == "Some Board"
    files["/sys/fs/cgroup/memory.max"] = files["/sys/fs/cgroup/cpu.max"] = "max\n"
    found = look_at_machine()
    assert (found.memory.total, found.memory.available, found.cpu.quota) == (8 * GIB, 4 * GIB, None)


def test_a_machine_that_tells_nothing(monkeypatch, capsys):
    def absent(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(machine, "_read", lambda path: None)
    monkeypatch.setattr(machine.subprocess, "run", absent)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "none found (nvidia-smi, CUDA bindings)" in text
    assert "memory          unknown, unknown available" in text
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == []


def put_on_path(tmp_path, monkeypatch, script):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_gpus_as_nvidia_smi_lists_them(tmp_path, monkeypatch):
    lines = "NVIDIA Thing, 8.9, 24576, 20000, 580.65\\nNVIDIA Other, 12.0, [N/A], [N/A], 580.65\\n"
    put_on_path(tmp_path, monkeypatch, f"printf '{lines}'")
    assert find_gpus() == (
        GpuFacts("NVIDIA Thing", "8.9", 24576 << 20, 20000 << 20, "580.65", "nvidia-smi"),
        GpuFacts("NVIDIA Other", "12.0", None, None, "580.65", "nvidia-smi"),
    )
    assert "NVIDIA Thing, compute capability 8.9, 25.8 GB, 21.0 GB free, driver 580.65" in look_at_machine().text()


@pytest.mark.parametrize(
    "script", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'", "exec sleep 0"]
)
def test_a_driver_that_is_broken(tmp_path, monkeypatch, script):
    monkeypatch.setattr(machine, "_bound_gpus", tuple)
    put_on_path(tmp_path, monkeypatch, script)
    assert find_gpus() == ()


class TestExtras:
    """Of a package made up for the purpose, whose metadata says everything that l2g's may."""

    @pytest.fixture(autouse=True)
    def distribution(self, tmp_path, monkeypatch):
        folder = tmp_path / "made_up-1.0.dist-info"
        folder.mkdir()
        requirements = [
            "numpy>=1",
            "absent-always",
            'absent-elsewhere; sys_platform == "nowhere"',
            'absent-here; sys_platform != "nowhere"',
            'numpy>=999; extra == "new"',
            'absent-one<2,>=1; extra == "one"',
            'made-up[one]; extra == "both"',
            'absent-two; extra == "both"',
            'onnxruntime>=1; extra == "cpu"',
            'onnxruntime-gpu>=1; extra == "gpu"',
        ]
        names = ["new", "one", "both", "cpu", "gpu"]
        lines = ["Metadata-Version: 2.1", "Name: made-up", "Version: 1.0"]
        lines += [f"Provides-Extra: {name}" for name in names] + [f"Requires-Dist: {text}" for text in requirements]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        self.installed = {"numpy": "2.0"}

        def version(name):
            try:
                return self.installed[name]
            except KeyError:
                raise importlib.metadata.PackageNotFoundError(name) from None

        monkeypatch.setattr(importlib.metadata, "version", version)

    def test_what_is_missing(self):
        self.installed["onnxruntime-gpu"] = "1.20"
        found = {extra.name: extra.missing for extra in extras("made-up")}
        assert found == {
            "": ("absent-always", "absent-here"),
            "new": ("numpy>=999 (found 2.0)",),
            "one": ("absent-one<2,>=1",),
            "both": ("absent-one<2,>=1", "absent-two"),
            "cpu": (),
            "gpu": (),
        }

    def test_the_cpu_build_is_no_gpu_build(self):
        self.installed["onnxruntime"] = "1.20"
        found = {extra.name: extra.missing for extra in extras("made-up")}
        assert (found["cpu"], found["gpu"]) == ((), ("onnxruntime-gpu>=1",))


def test_a_package_that_is_not_installed(monkeypatch):
    assert extras("no-such-package") == ()
    monkeypatch.setattr(machine, "extras", tuple)
    assert "so its extras are unknown" in look_at_machine().text()
    assert Extra("x", ()).missing == ()
