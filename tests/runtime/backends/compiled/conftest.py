"""Without a GPU kernels of the Triton language run in its interpreter, which has to be said before it is loaded."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
