"""Local2Global video instance segmentation, from a PyTorch checkpoint to a verified engine on a video stream.

The names below are loaded on first use, so that `import l2g` takes no time and works on a device without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

from l2g.errors import L2GError

if TYPE_CHECKING:
    from l2g.api import build_engine, evaluate, export_onnx, process_video, quantize, run_parity
    from l2g.checkpoint import load_checkpoint, save_checkpoint
    from l2g.config import ModelConfig
    from l2g.modeling.local2global import FrameOutput, FrameState, Local2Global, build_model
    from l2g.runtime.backends.open import open_backend
    from l2g.runtime.frame_result import FrameResult
    from l2g.runtime.session import VideoSession
    from l2g.tracker import Tracker

__version__ = "0.1.0"

__all__ = [
    "FrameOutput",
    "FrameResult",
    "FrameState",
    "L2GError",
    "Local2Global",
    "ModelConfig",
    "Tracker",
    "VideoSession",
    "__version__",
    "build_engine",
    "build_model",
    "evaluate",
    "export_onnx",
    "load_checkpoint",
    "open_backend",
    "process_video",
    "quantize",
    "run_parity",
    "save_checkpoint",
]

# Where each name lives; the imports above say the same to type checkers.
_LAZY = {
    "Tracker": "l2g.tracker",
    "FrameResult": "l2g.runtime.frame_result",
    "VideoSession": "l2g.runtime.session",
    "open_backend": "l2g.runtime.backends.open",
    "ModelConfig": "l2g.config",
    "load_checkpoint": "l2g.checkpoint",
    "save_checkpoint": "l2g.checkpoint",
    **dict.fromkeys(("FrameOutput", "FrameState", "Local2Global", "build_model"), "l2g.modeling.local2global"),
    **dict.fromkeys(("build_engine", "evaluate", "export_onnx", "process_video", "quantize", "run_parity"), "l2g.api"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'l2g' has no attribute '{name}'")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        # Still a ModuleNotFoundError, as for any import, but one that says what to do.
        message = f"l2g.{name} needs '{error.name}', which is not installed; pip install 'l2g[eager]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
