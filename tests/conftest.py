"""Without a GPU kernels of the Triton language run in its interpreter. That has to be said before the library is
loaded, which whatever test comes first may do."""

import os
import sys
from pathlib import Path

import pytest

if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def threads_of_torch():
    """What a test asks for, the next one does not inherit: the last digits depend on it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)
