"""Is an engine the graph that it was built from? Both run side by side over a rollout, and the sidecar gets the record.

Kernels of two libraries never agree to the bit, and in FP16 or INT8 not to the third digit; what must agree is what
a frame's results are made of: class probabilities, the pixels of the masks, the embeddings that are carried on. For
AP over whole videos there is `runtime/parity.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from l2g.artifacts.sidecar import check_source, read_sidecar
from l2g.contract import GraphContract
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import EngineError
from l2g.runtime.backends.base import Backend, Detections, HostState, RawOutputs
from l2g.runtime.identity.handover import match_queries
from l2g.runtime.picture.postprocess import sigmoid

STREAMS, FRAMES, RESET_AT = 2, 4, 2


class DisagreementError(EngineError):
    """An engine does not give its graph's numbers."""


@dataclass(frozen=True)
class Agreement:
    """How far two backends are apart, the worst of all frames and streams.

    score: mean absolute difference of the slots' best class probabilities. mask_pixels: share of mask pixels that are
    inside for one and outside for the other, over the slots that both chose. queries: length of the difference of the
    embeddings, relative to their own. slots: share of the chosen slots that only one of them chose.
    """

    score: float
    mask_pixels: float
    queries: float
    slots: float = 0.0

    def worst(self, other: Agreement) -> Agreement:
        return Agreement(
            *(max(one, two) for one, two in zip(asdict(self).values(), asdict(other).values(), strict=True))
        )


# The limits for an engine against its own graph. FP32: ten times what ONNX Runtime and PyTorch differ by; FP16 and
# INT8: what one more rounding of each layer may do. None of them has been tried on a GPU.
LIMITS = {
    "fp32": Agreement(score=1e-3, mask_pixels=1e-3, queries=1e-3, slots=0.02),
    "fp16": Agreement(score=1e-2, mask_pixels=1e-2, queries=2e-2, slots=0.1),
    "int8": Agreement(score=2e-2, mask_pixels=2e-2, queries=5e-2, slots=0.1),
}


def verify_engine(onnx_file: Path, engine: Path) -> dict:
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
            found = compare(reference, candidate, streams)
            gpu = candidate.gpu.name if candidate.gpu else None
        finally:
            candidate.close()
    finally:
        reference.close()
    return judge(found, sidecar.engine.audit.get("asked", "fp32"), engine, gpu, streams)


def judge(found: Agreement, precision: str, engine: Path, gpu: str | None, streams: int = STREAMS) -> dict:
    """The sidecar's record of a comparison that holds; EngineError for one that does not."""
    limits = LIMITS[precision]
    beyond = [
        f"{name} {value:.3g} (limit {getattr(limits, name):g})"
        for name, value in asdict(found).items()
        if not value <= getattr(limits, name)
    ]
    if beyond:
        raise DisagreementError(
            f"{engine}: does not give the numbers of its graph: {', '.join(beyond)}; it stays unverified. "
            "Compare whole videos with python runtime/parity.py; docs/guides/debug.md says how to find the layer"
        )
    frames = {"streams": streams, "frames": FRAMES}
    return {"status": "verified", "gpu": gpu, "found": asdict(found), "limits": asdict(limits), **frames}


def compare(reference: Backend, candidate: Backend, streams: int = STREAMS) -> Agreement:
    """Both over the same frames of so many streams, of which the first starts again on the way; the candidate is given
    the reference's state before every frame."""
    contract = reference.contract
    frames = _frames(contract, streams)
    worst = Agreement(0.0, 0.0, 0.0, 0.0)
    for time in range(FRAMES):
        if (state := reference.read_state()) is not None:
            candidate.write_state(HostState(state.queries, state.boxes, state.valid))
        reset = np.array([time in (0, RESET_AT if stream == 0 else 0) for stream in range(streams)])
        one, other = (backend.step(frames[:, time], reset) for backend in (reference, candidate))
        for stream in range(streams):
            worst = worst.worst(_agreement(one, other, stream, bool(reset[stream])))
    return worst


def _frames(contract: GraphContract, streams: int) -> np.ndarray:
    """uint8 [streams, FRAMES, H, W, 3] on the canvas: drawn videos, so that there is something to find."""
    size = (contract.height, contract.width)
    return np.array([synthetic_video("val", index, frames=FRAMES, size=size).frames for index in range(streams)])


def _agreement(one: RawOutputs | Detections, other: RawOutputs | Detections, stream: int, first: bool) -> Agreement:
    # A first frame's slots are the best tokens in the order of their scores, in which near-ties change places.
    slots = match_queries(one.queries[stream], other.queries[stream]) if first else np.arange(one.queries.shape[1])
    queries, matched = one.queries[stream], other.queries[stream][slots]
    scale = float(np.linalg.norm(queries)) or 1.0
    distance = float(np.linalg.norm(queries - matched)) / scale
    if isinstance(one, RawOutputs):
        scores = [sigmoid(o.logits[stream]).max(axis=1) for o in (one, other)]
        masks = [o.mask_logits[stream] > 0 for o in (one, other)]
        missing, theirs = 0.0, slots
        mine = np.arange(len(slots))
    else:
        scores, masks = [o.scores[stream] for o in (one, other)], [o.masks[stream] > 127 for o in (one, other)]
        place = {int(slot): row for row, slot in enumerate(other.slots[stream])}
        pairs = [
            (row, place[int(slots[slot])]) for row, slot in enumerate(one.slots[stream]) if int(slots[slot]) in place
        ]
        missing = 1 - len(pairs) / len(one.slots[stream])
        mine, theirs = (np.array(rows, int) for rows in zip(*pairs, strict=True)) if pairs else (np.zeros(0, int),) * 2
    score = np.abs(scores[0][mine] - scores[1][theirs])
    pixels = masks[0][mine] != masks[1][theirs]
    numbers = (score.mean(), pixels.mean()) if len(mine) else (1.0, 1.0)
    # NaN compares as beyond every limit.
    return Agreement(
        *(float(number) if np.isfinite(number) else float("inf") for number in (*numbers, distance, missing))
    )
