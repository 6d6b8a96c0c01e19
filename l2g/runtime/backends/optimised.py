"""Graphs as ONNX Runtime optimises them, kept: it works out the same at every opening of the same file.

That is most of what opening costs: an R50 takes 0.6 s of CPU time to open and 0.2 s once it is kept, a small graph 70
and 23 ms. The numbers are the same to the bit. What is kept is for this version of ONNX Runtime on this kind of
processor (`kept_files`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from l2g.files import PendingFile
from l2g.runtime.backends.kept_files import is_whole, keep, kept_file, pending, used

Open = Callable[[str, ort.SessionOptions], ort.InferenceSession]


class KeptGraph:
    """What is kept of one graph file. found: whether its session is of what was kept, of a graph that was found good
    when `keep` was called. Without `keep` or `discard` after `open` a file of no use is left.

    opened: makes a session of a file's name and options.
    """

    def __init__(self, path: Path, opened: Open):
        self._path, self._opened = path, opened
        self._pending: PendingFile | None = None
        self.found = False

    def open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        """The session, on a CPU. Whatever goes wrong with what is kept, the graph itself is opened."""
        kept = kept_file(self._path, "onnxruntime", ".onnx", (ort.__version__,))
        if kept is None:
            return self._opened(str(self._path), options)
        level = options.graph_optimization_level
        if is_whole(kept):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with contextlib.suppress(Exception):  # of another build under the same version, say
                session = self._opened(str(kept), options)
                used(kept)
                self.found = True
                return session
            options.graph_optimization_level = level
        self._pending = pending(kept)
        if self._pending is None:
            return self._opened(str(self._path), options)
        options.optimized_model_filepath = str(self._pending.temporary)
        try:
            return self._opened(str(self._path), options)
        except Exception:  # no space, say: what matters is the graph
            self.discard()
            options.optimized_model_filepath = ""
            return self._opened(str(self._path), options)
        except BaseException:
            self.discard()
            raise

    def keep(self) -> None:
        """The graph is good: the next opening is of what was made of it."""
        if self._pending is not None:
            keep(self._pending)
            self._pending = None

    def discard(self) -> None:
        if self._pending is not None:
            self._pending.discard()
            self._pending = None
