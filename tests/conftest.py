"""Without a GPU kernels of the Triton language run in its interpreter. That has to be said before the library is
loaded, which whatever test comes first may do."""

import os
from pathlib import Path

if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
