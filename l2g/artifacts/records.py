"""What a sidecar says of an engine, as types: how it was built, what it computes in, how it was held to its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l2g.errors import EngineError
from l2g.records import Record

# At least so much of the matrix and convolution arithmetic has to be in the precision asked for.
MIN_SHARE = 0.95
VERIFIED, UNVERIFIED = "verified", "unverified"


@dataclass(frozen=True)
class EngineOptions(Record):
    """What of a build's options makes another engine. streams: (fewest, tuned for, most). workspace: bytes.
    version_compatible: made of what the lean runtime has. exclude_lean_runtime: and without that runtime inside."""

    streams: tuple[int, int, int]
    workspace: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    exclude_lean_runtime: bool = False


@dataclass(frozen=True)
class Audit(Record):
    """The layers of an engine against the graph that it was built from.

    asked: the precision that was asked for. share: of the FLOPs of convolutions and matrix products that have to be in
    it (of a quantised graph: those that the graph quantises; else all), how many are. flops: by precision, for one
    stream; "unknown" are products that no layer names. layers: computing layers by precision. nodes: convolutions and
    products by precision. wider: the largest nodes that should be in `asked` and are not, with their precision.
    fused_attention: layers that hold both products of an attention. activation_bytes: memory that the library reserves
    while it runs, for the most streams of the profile; None where it did not say. source: "inspector" or "build log".
    """

    asked: str
    share: float
    flops: dict[str, int]
    layers: dict[str, int]
    nodes: dict[str, int]
    wider: tuple[tuple[str, str], ...]
    fused_attention: int
    activation_bytes: int | None
    weight_bytes: int | None
    source: str

    def check(self, min_share: float = MIN_SHARE) -> None:
        """EngineError where less than `min_share` of the arithmetic is in the precision asked for."""
        if self.share < min_share:
            first = ", ".join(f"{name} in {precision}" for name, precision in self.wider[:3])
            raise EngineError(
                f"the built engine computes {100 * self.share:.1f} % of its matrix and convolution FLOPs in "
                f"{self.asked}, {100 * min_share:.0f} % asked for; among the rest are {first}. Nothing was written; "
                "export the graph again with the precision inside, or accept less with --min-share"
            )


@dataclass(frozen=True)
class Agreement(Record):
    """How far two backends are apart, the worst of all frames and streams; infinity where either has NaN or infinity.

    Slots count by their best class probability in the reference, so that an object is not lost among many empty slots.
    score: all class probabilities, the sum of the differences by the sum of the larger of each two. mask_pixels: pixels
    inside for one and outside for the other, by those inside for either (1 - IoU), the mean over the slots that both
    chose. queries: length of the difference of the embeddings, relative to their own. slots: share of the chosen slots
    that only one of them chose. state: of each tensor that is carried on the sum of the differences by that of its
    magnitudes, the largest (boxes).
    """

    score: float
    mask_pixels: float
    queries: float
    slots: float = 0.0
    state: float = 0.0

    def worst(self, other: Agreement) -> Agreement:
        """The larger of each."""
        return Agreement(**{name: max(value, getattr(other, name)) for name, value in self.to_json().items()})


@dataclass(frozen=True)
class EngineVerification(Record):
    """Whether an engine was compared with its graph.

    status: "verified" or "unverified". reason: why it was not. gpu: the name of the one that it ran on. found, limits:
    how far the two were apart and might have been, over so many streams and frames. precision: what a graph ran in,
    such as "int8 + fp32"; None of an engine, whose audit says it.
    """

    status: str
    reason: str | None = None
    gpu: str | None = None
    found: Agreement | None = None
    limits: Agreement | None = None
    streams: int | None = None
    frames: int | None = None
    precision: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Only what there is."""
        return {name: value for name, value in super().to_json().items() if value is not None}
