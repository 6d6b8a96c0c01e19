"""Without a GPU kernels of the Triton language run in its interpreter. That has to be said before the library is
loaded, which whatever test comes first may do."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests.made_once import VARIABLE

if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


# A job in a shell's background is begun with Ctrl-C ignored, and so would be all that the tests begin.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    if VARIABLE not in os.environ:  # in the first process of them all
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="l2g-test-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True))


@pytest.fixture(autouse=True)
def threads_of_torch():
    """What a test asks for, the next one does not inherit: the last digits depend on it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)
