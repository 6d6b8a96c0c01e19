"""Files that tests share: made by whoever needs them first, in whichever process, and gone after the last test."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

# The folder, set by `conftest`; the processes of one run of the suite inherit it.
VARIABLE = "L2G_TEST_FILES"


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The file of this name, which `make` writes where there is none. Nobody may change it."""
    path = Path(os.environ[VARIABLE]) / name
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"part-{name}")
            make(part)
            part.rename(path)
    return path
