"""Histograms of a graph's tensors over recorded rollouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from l2g.calibration.ranges import AUTO, Histogram, Interval, best_method, interval
from l2g.calibration.recording import Recording, Sample, read_samples, with_state
from l2g.errors import ExportError
from l2g.export.verification.verify import open_session
from l2g.files import write_atomically


class Observed:
    """What was seen of each tensor, by name, and the ranges that follow."""

    def __init__(self, histograms: dict[str, Histogram], symmetric: bool, percentile: float):
        self.histograms, self.symmetric, self.percentile = histograms, symmetric, percentile
        self._intervals: dict[tuple[str, str], Interval] = {}

    def method_of(self, tensor: str, method: str) -> str:
        """The method itself, or for "auto" the one that loses least on this tensor."""
        if method != AUTO:
            return method
        return best_method(self.histograms[tensor], self.symmetric, self.percentile)

    def interval(self, tensor: str, method: str) -> Interval:
        """The range of a tensor. KeyError for one that was not observed."""
        key = tensor, method
        if key not in self._intervals:
            chosen = self.method_of(tensor, method)
            self._intervals[key] = interval(self.histograms[tensor], chosen, self.percentile)
        return self._intervals[key]


def observe(
    model: onnx.ModelProto,
    tensors: frozenset[str],
    recording: Recording,
    cache: Path,
    state: str = "rollout",
    progress: bool = True,
) -> dict[str, Histogram]:
    """Run the graph over the recording and count the values of `tensors`.

    cache: where the counts are written after each video; what it holds already is not run again. Memory: one frame's
    worth of the tensors. Raises ExportError where a tensor is not finite.
    """
    names = sorted(tensors)
    histograms, done = _load(cache, names)
    if done == len(recording.files):
        return histograms
    session = open_session(_exposed(model, names))
    for place, file in enumerate(tqdm(recording.files, desc="ranges", disable=not progress)):
        if place < done:
            continue
        for sample in read_samples(file):
            _count(session, sample, with_state(sample, state), names, histograms)
        _save(cache, names, histograms, place + 1)
    return histograms


def _count(session, sample: Sample, inputs: dict, names: list[str], histograms: dict[str, Histogram]) -> None:
    for name, values in zip(names, session.run(names, inputs), strict=True):
        try:
            histograms[name].add(values)
        except ValueError as error:
            raise ExportError(
                f"tensor '{name}' holds {error} in video {sample.video}, frame {sample.time}: the FP32 graph itself "
                "breaks there; check the checkpoint"
            ) from None


def _exposed(model: onnx.ModelProto, names: list[str]) -> bytes:
    """The graph with these tensors as outputs."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in present
    )
    return exposed.SerializeToString()


def _load(cache: Path, names: list[str]) -> tuple[dict[str, Histogram], int]:
    if cache.is_file():
        try:
            with np.load(cache) as data:
                if list(data["names"]) == names:
                    return dict(zip(names, map(Histogram.from_array, data["counts"]), strict=True)), int(data["done"])
        except Exception:  # a damaged cache is a cache that is not there
            pass
    return {name: Histogram() for name in names}, 0


def _save(cache: Path, names: list[str], histograms: dict[str, Histogram], done: int) -> None:
    counts = np.stack([histograms[name].to_array() for name in names])
    with write_atomically(cache, ExportError) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, names=np.array(names), counts=counts, done=done)
