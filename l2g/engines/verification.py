"""Is an engine, or a graph in OpenVINO, the graph that it was made from? Both run side by side over a rollout.

Kernels of two libraries never agree to the bit, and in FP16 or INT8 not to the third digit; what must agree is what
a frame's results are made of, class probabilities and the pixels of the masks, and what is carried on, embeddings and
boxes. For AP over whole videos there is `l2g parity`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from l2g.artifacts.records import VERIFIED, Agreement, EngineVerification
from l2g.artifacts.sidecar import check_source, read_sidecar
from l2g.contract import GraphContract
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import EngineError
from l2g.runtime.arrays import Array, BoolArray, IntArray
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.identity.slots import match_queries
from l2g.runtime.outputs import FrameOutputs

if TYPE_CHECKING:
    from l2g.runtime.backends.openvino.backend import OpenVinoBackend

STREAMS, FRAMES, RESET_AT = 2, 4, 2


class DisagreementError(EngineError):
    """An engine, or a library, does not give its graph's numbers."""


# The limits for an engine against its own graph. FP32: a hundred times and more what OpenVINO and ONNX Runtime differ
# by; of a mask, a pixel at the edge of a small object. The others are above what was measured of l2g_tiny on the frames
# of this check, as score, masks, queries, state: FP16 in emulation 0.002, 0.007, 0.003, 0.002; BF16 in emulation
# against the float32 graph 0.022, 0.019, 0.045, 0.032, and up to three times that on videos full of occlusion; INT8 in
# OpenVINO, on a processor without VNNI, 0.18, 0.10, 0.17, 0.17, as far as INT8 is from FP32. None of them was tried on
# a GPU.
LIMITS = {
    "fp32": Agreement(score=1e-3, mask_pixels=1e-2, queries=1e-3, slots=0.02, state=1e-3),
    "fp16": Agreement(score=2e-2, mask_pixels=5e-2, queries=2e-2, slots=0.1, state=2e-2),
    "bf16": Agreement(score=0.1, mask_pixels=0.1, queries=0.1, slots=0.1, state=0.1),
    "int8": Agreement(score=0.3, mask_pixels=0.2, queries=0.3, slots=0.1, state=0.3),
}
_NOTHING_ALIKE = Agreement(*[float("inf")] * 5)


def verify_engine(onnx_file: Path, engine: Path) -> EngineVerification:
    """Open both files, compare them, and return the record for the sidecar. EngineError where they do not agree.

    The engine runs on this machine's GPU, the graph on ONNX Runtime's CPU provider.
    """
    import warnings

    from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
    from l2g.runtime.backends.tensorrt.backend import TensorRTBackend

    sidecar = read_sidecar(engine)
    check_source(engine, sidecar, Path(onnx_file))
    reference = OnnxRuntimeBackend(onnx_file, providers=["CPUExecutionProvider"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is unverified is why we are here
            candidate = TensorRTBackend(engine)
        try:
            streams = min(STREAMS, candidate.max_streams)
            found = measure_agreement(reference, candidate, streams)
            gpu = candidate.gpu.name if candidate.gpu else None
        finally:
            candidate.close()
    finally:
        reference.close()
    audit = sidecar.engine.audit
    return check_agreement(found, audit.asked if audit else "fp32", engine, gpu, streams)


def verify_graph(
    onnx_file: Path, reference: Path | None = None, device: str | None = None, precision: str | None = None
) -> EngineVerification:
    """Compare a graph as OpenVINO runs it on this machine with ONNX Runtime's CPU provider; EngineError where they do
    not agree. reference: the graph that ONNX Runtime runs; None is the file itself. device, precision: OpenVINO's, as
    in `open_backend`."""
    from l2g.runtime.backends.open import open_backend

    with (
        closing(open_backend(reference or onnx_file, library="onnxruntime", device="cpu")) as expected,
        closing(open_backend(onnx_file, library="openvino", device=device, precision=precision)) as candidate,
    ):
        _check_alike(expected.contract, candidate.contract, onnx_file, reference)
        found = measure_agreement(expected, candidate)
        build = candidate.contract.build
        own = (build and build.precision) or "fp32"
        # What is asked for may be narrower than the graph's own types, and is not an excuse.
        record = check_agreement(found, own, onnx_file, f"OpenVINO {device or 'CPU'}")
        return replace(record, precision=cast("OpenVinoBackend", candidate).precision)


def _check_alike(one: GraphContract, other: GraphContract, path: Path, reference: Path | None) -> None:
    if one.inputs != other.inputs or one.outputs != other.outputs:
        raise EngineError(f"{path}: other inputs or outputs than {reference} has; export both with the same options")


def check_agreement(
    found: Agreement, precision: str, engine: Path, gpu: str | None, streams: int = STREAMS
) -> EngineVerification:
    """The sidecar's record of a comparison that holds; EngineError for one that does not."""
    limits = LIMITS[precision]
    beyond = [
        f"{name} {value:.3g} (limit {getattr(limits, name):g})"
        for name, value in found.to_json().items()
        if not value <= getattr(limits, name)
    ]
    if beyond:
        raise DisagreementError(
            f"{engine}: does not give the numbers of its graph: {', '.join(beyond)}; it stays unverified. "
            "Compare whole videos with l2g parity; docs/guides/debug.md says how to find the layer"
        )
    return EngineVerification(VERIFIED, gpu=gpu, found=found, limits=limits, streams=streams, frames=FRAMES)


def measure_agreement(reference: Backend, candidate: Backend, streams: int = STREAMS) -> Agreement:
    """Both over the same frames of so many streams, of which the first starts again on the way; the candidate is given
    the reference's state before every frame."""
    contract = reference.contract
    frames = _frames(contract, streams)
    always = contract.association == "embedding"  # every frame of such a model is a first one
    worst = Agreement(0.0, 0.0, 0.0)
    for time in range(FRAMES):
        if (state := reference.read_state()) is not None:
            candidate.write_state(state)
        reset = np.array([time in (0, RESET_AT if stream == 0 else 0) for stream in range(streams)])
        both = [(backend.step(frames[:, time], reset), backend.read_state()) for backend in (reference, candidate)]
        for stream in range(streams):
            one, other = ((outputs.stream(stream), _carried(state, stream)) for outputs, state in both)
            worst = worst.worst(_agreement(one, other, len(contract.class_names), always or bool(reset[stream])))
    return worst


def _carried(state: HostState | None, stream: int) -> Mapping[str, Array]:
    """What one stream takes into its next frame, by name and without B."""
    return {name: tensor[stream] for name, tensor in state.tensors.items()} if state else {}


def _frames(contract: GraphContract, streams: int) -> np.ndarray:
    """uint8 [streams, FRAMES, H, W, 3] on the canvas: drawn videos, so that there is something to find."""
    size = (contract.height, contract.width)
    return np.array([synthetic_video("val", index, frames=FRAMES, size=size).frames for index in range(streams)])


_Side = tuple[FrameOutputs, Mapping[str, Array]]


def _agreement(one: _Side, other: _Side, classes: int, first: bool) -> Agreement:
    """Of one stream's outputs, B = 1, and what it carries on."""
    (expected, before), (found, after) = one, other
    carried = (*before.values(), *after.values())
    if not (expected.finite() and found.finite() and all(np.isfinite(tensor).all() for tensor in carried)):
        return _NOTHING_ALIKE
    queries, embeddings = expected.queries[0], found.queries[0]
    # A first frame's slots are the best tokens in the order of their scores, in which near-ties change places.
    order = match_queries(queries, embeddings) if first else np.arange(len(queries))
    (slots, likely), (others, probabilities) = (each.slot_probabilities(classes) for each in (expected, found))
    row_of = {int(slot): row for row, slot in enumerate(others)}
    pairs = [(row, row_of[int(order[slot])]) for row, slot in enumerate(slots) if int(order[slot]) in row_of]
    if not pairs:
        return _NOTHING_ALIKE
    mine, theirs = np.array(pairs, int).T
    likely, probabilities = likely[mine], probabilities[theirs]
    return Agreement(
        score=_ratio(np.abs(likely - probabilities).sum(), np.maximum(likely, probabilities).sum()),
        mask_pixels=_mask_difference(expected.binary_masks(mine), found.binary_masks(theirs), likely.max(axis=1)),
        queries=_ratio(np.linalg.norm(queries - embeddings[order]), np.linalg.norm(queries)),
        slots=1 - len(pairs) / len(slots),
        state=max((_state_difference(before[name], after[name], order) for name in before), default=0.0),
    )


def _mask_difference(one: BoolArray, other: BoolArray, weights: Array) -> float:
    """1 - IoU of masks, bool [R, h, w], the mean by `weights`, [R]; two empty masks are alike."""
    apart, either = (pixels.sum(axis=(1, 2)) for pixels in (one != other, one | other))
    return _ratio((weights * apart / np.maximum(either, 1)).sum(), weights.sum())


def _state_difference(one: Array, other: Array, order: IntArray) -> float:
    """Of a tensor without B. A sum and no square: a slot that holds nothing may have its box anywhere."""
    other = other[order] if one.shape[:1] == order.shape else other
    return _ratio(np.abs(one - other).sum(), np.abs(one).sum())


def _ratio(difference: Any, scale: Any) -> float:
    return float(difference) / (float(scale) or 1.0)
