"""Is an engine, or a graph in OpenVINO, the graph that it was made from? Both run side by side over a rollout.

Kernels of two libraries never agree to the bit, and in FP16 or INT8 not to the third digit; what must agree is what
a frame's results are made of: class probabilities, the pixels of the masks, the embeddings that are carried on. For
AP over whole videos there is `l2g parity`.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from l2g.artifacts.records import VERIFIED, Agreement, EngineVerification
from l2g.artifacts.sidecar import check_source, read_sidecar
from l2g.contract import GraphContract
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import EngineError
from l2g.runtime.backends.base import Backend
from l2g.runtime.identity.slots import match_queries
from l2g.runtime.outputs import FrameOutputs

STREAMS, FRAMES, RESET_AT = 2, 4, 2


class DisagreementError(EngineError):
    """An engine, or a library, does not give its graph's numbers."""


# The limits for an engine against its own graph. FP32: ten times what ONNX Runtime and PyTorch differ by; FP16, BF16
# and INT8: what one more rounding of each layer may do. None of them has been tried on a GPU.
LIMITS = {
    "fp32": Agreement(score=1e-3, mask_pixels=1e-3, queries=1e-3, slots=0.02),
    "fp16": Agreement(score=1e-2, mask_pixels=1e-2, queries=2e-2, slots=0.1),
    "bf16": Agreement(score=2e-2, mask_pixels=2e-2, queries=5e-2, slots=0.1),
    "int8": Agreement(score=2e-2, mask_pixels=2e-2, queries=5e-2, slots=0.1),
}


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
        return check_agreement(found, own, onnx_file, f"OpenVINO {device or 'CPU'}")


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
    worst = Agreement(0.0, 0.0, 0.0, 0.0)
    for time in range(FRAMES):
        if (state := reference.read_state()) is not None:
            candidate.write_state(state)
        reset = np.array([time in (0, RESET_AT if stream == 0 else 0) for stream in range(streams)])
        one, other = (backend.step(frames[:, time], reset) for backend in (reference, candidate))
        for stream in range(streams):
            pair = one.stream(stream), other.stream(stream)
            worst = worst.worst(_agreement(*pair, len(contract.class_names), bool(reset[stream])))
    return worst


def _frames(contract: GraphContract, streams: int) -> np.ndarray:
    """uint8 [streams, FRAMES, H, W, 3] on the canvas: drawn videos, so that there is something to find."""
    size = (contract.height, contract.width)
    return np.array([synthetic_video("val", index, frames=FRAMES, size=size).frames for index in range(streams)])


def _agreement(one: FrameOutputs, other: FrameOutputs, classes: int, first: bool) -> Agreement:
    """Of one stream's outputs, B = 1."""
    queries, found = one.queries[0], other.queries[0]
    # A first frame's slots are the best tokens in the order of their scores, in which near-ties change places.
    order = match_queries(queries, found) if first else np.arange(len(queries))
    scale = float(np.linalg.norm(queries)) or 1.0
    distance = float(np.linalg.norm(queries - found[order])) / scale
    (slots, expected), (others, probabilities) = (outputs.slot_probabilities(classes) for outputs in (one, other))
    row_of = {int(slot): row for row, slot in enumerate(others)}
    pairs = [(row, row_of[int(order[slot])]) for row, slot in enumerate(slots) if int(order[slot]) in row_of]
    missing = 1 - len(pairs) / len(slots)
    mine, theirs = np.array(pairs, int).reshape(-1, 2).T
    score = np.abs(expected[mine].max(axis=1) - probabilities[theirs].max(axis=1))
    pixels = one.binary_masks(mine) != other.binary_masks(theirs)
    numbers = (score.mean(), pixels.mean()) if len(mine) else (1.0, 1.0)
    # NaN compares as beyond every limit.
    return Agreement(
        *(float(number) if np.isfinite(number) else float("inf") for number in (*numbers, distance, missing))
    )
