"""What this process holds of the machine's memory, and what is in use of its GPUs'."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from typing import Any

# Of glibc's malloc.h.
_M_ARENA_MAX = -8
# Of Linux's mman.h.
_MADV_PAGEOUT = 21


def resident_bytes() -> int | None:
    """None where the system does not tell in this way."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def keep_memory_together() -> None:
    """Let threads share two of glibc's heaps: by default each has its own, and a process that reads several cameras,
    and opens them again and again, grows for minutes (531 MB in place of 510 after four). Before the first thread."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def return_memory(mapped: tuple[str, ...] = ()) -> None:
    """Give back to the system what the opening of a model leaves, in milliseconds.

    glibc keeps the gaps in its heaps: 200 MB of an R50's graph at 480x864 in ONNX Runtime, 160 in OpenVINO. And a file
    of weights that stays mapped (by how its name ends in `mapped`) stays resident when all of it has been read once and
    packed anew; what is read again comes back from the file.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):  # another C library, another system
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        if not mapped:
            return
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.rstrip("\n").endswith(mapped)]
        for area, rights, *_ in map(str.split, lines):
            if rights.startswith("r"):
                start, end = (int(address, 16) for address in area.split("-"))
                library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def device_bytes() -> list[int]:
    """In use, of each GPU that NVIDIA's management library knows, by everybody; empty where there is none."""
    library = _nvml()
    return [] if library is None else _used(library)


@functools.cache
def _nvml() -> Any:
    """None where it is not installed, or has no GPU."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def _used(library: Any) -> list[int]:
    count, found = ctypes.c_uint(), []
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    for index in range(count.value):
        device, memory = ctypes.c_void_p(), _Memory()
        if (
            library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0
            and library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
        ):
            found.append(int(memory.used))
    return found
