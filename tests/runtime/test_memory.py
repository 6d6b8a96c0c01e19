"""Memory that is given back to the system."""

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from l2g.runtime.memory import resident_bytes, return_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
MIB = 2**20


def resident_of(path):
    """Bytes of the mappings of a file that are in memory."""
    found, counts = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if line[:1] in "0123456789abcdef":
                counts = line.rstrip("\n").endswith(str(path))
            elif counts and line.startswith("Rss:"):
                found += int(line.split()[1]) * 1024
    return found


def test_gaps_in_the_heap_are_given_back():
    pieces = [np.ones(12_000) for _ in range(2000)]  # 96 kB each, less than what is mapped by itself
    full = resident_bytes()
    pieces = pieces[::100]
    gaps = resident_bytes()
    return_memory()
    assert full - resident_bytes() > 150 * MIB
    assert full - gaps < 50 * MIB, "glibc gave it back by itself"
    assert all((piece == 1).all() for piece in pieces)


def test_a_mapped_file_leaves_memory_and_comes_back(tmp_path):
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        pytest.skip(f"temporary files lie in memory ({kind})")
    content = np.random.default_rng(0).integers(0, 256, 8 * MIB, dtype=np.uint8).tobytes()
    for name in ("weights.blob", "other.bin"):
        with open(tmp_path / name, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    with open(tmp_path / "weights.blob", "rb") as file, open(tmp_path / "other.bin", "rb") as other:
        blob, rest = (mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) for opened in (file, other))
        assert blob[:] == rest[:] == content
        assert resident_of(tmp_path / "weights.blob") > 7 * MIB
        return_memory((".blob",))
        assert resident_of(tmp_path / "weights.blob") < 1 * MIB
        assert resident_of(tmp_path / "other.bin") > 7 * MIB
        assert blob[:] == content
        blob.close()
        rest.close()
