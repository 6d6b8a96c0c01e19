"""Local2Global video instance segmentation, from a PyTorch checkpoint to a verified engine on a video stream.

Names that need PyTorch are loaded on first use, so that `import l2g` works on a device that has none.
"""

import importlib

from l2g.errors import L2GError

__version__ = "0.1.0"

_LAZY = {
    "ModelConfig": "l2g.config",
    "build_model": "l2g.modeling.local2global",
    "Local2Global": "l2g.modeling.local2global",
    "FrameOutput": "l2g.modeling.local2global",
    "FrameState": "l2g.modeling.local2global",
    "load_checkpoint": "l2g.checkpoint",
    "save_checkpoint": "l2g.checkpoint",
}

__all__ = ["L2GError", "__version__", *_LAZY]


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'l2g' has no attribute '{name}'")
