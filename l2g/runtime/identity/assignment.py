"""The one-to-one assignment of highest sum, by SciPy's solver without the rest of `scipy.optimize`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def best_assignment(worth: np.ndarray) -> np.ndarray:
    """order int64 [N]: row i takes column `order[i]`, no column twice, and the sum of what is taken is the highest.

    worth: float [N, N]. Raises ValueError where it holds NaN.
    """
    order: np.ndarray = _solver()(worth, maximize=True)[1]
    return order


@cache
def _solver() -> Callable[..., Any]:
    """`scipy.optimize.linear_sum_assignment`.

    It is one small compiled file, but `import scipy.optimize` loads 300 modules with it: 0.2 s of CPU time before a
    runtime's first frame (a desktop core; a Jetson's takes longer), as much as everything else up to there except the
    model. So the file is loaded by itself, and the front door is taken where SciPy keeps it elsewhere.
    """
    if "scipy.optimize" not in sys.modules:
        package = importlib.util.find_spec("scipy")
        folders = [str(Path(root, "optimize")) for root in (package and package.submodule_search_locations) or ()]
        spec = importlib.machinery.PathFinder.find_spec("_lsap", folders)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            solver: Callable[..., Any] | None = getattr(module, "linear_sum_assignment", None)
            if solver is not None:
                return solver
    return importlib.import_module("scipy.optimize").linear_sum_assignment  # type: ignore[no-any-return]
