"""Local2Global: Mask DINO with an aligner between the past's queries and the present's, a pure function of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2g.config import ModelConfig, get_config
from l2g.contract import PIXEL_MEAN, PIXEL_STD, GraphContract, make_contract
from l2g.errors import ConfigError, ContractError
from l2g.modeling.aligner import Aligner
from l2g.modeling.backbones.build import build_backbone
from l2g.modeling.boxes import EPSILON, mask_to_box
from l2g.modeling.decoder import Decoder, DecoderStates
from l2g.modeling.encoder import Memory, PixelEncoder
from l2g.modeling.family.protocol import Decisions, VideoModel
from l2g.modeling.heads import Heads
from l2g.modeling.proposals import LearnedQueries, LocalQueries, Proposals


@dataclass(frozen=True)
class FrameOutput:
    """Predictions of N slots.

    logits [B, N, K], boxes float32 [B, N, 4] (cx, cy, w, h in 0..1), mask_logits [B, N, H/4, W/4].
    """

    logits: Tensor
    boxes: Tensor
    mask_logits: Tensor


@dataclass(frozen=True)
class FrameState:
    """What a stream carries to its next frame.

    queries float32 [B, N, C], boxes float32 [B, N, 4] (cx, cy, w, h in 0..1), valid float32 [B, 1]. Where `valid` is 0
    the stream is fresh and the other two are never read.
    """

    queries: Tensor
    boxes: Tensor
    valid: Tensor

    def detach(self) -> FrameState:
        """The same values, without their history."""
        return FrameState(self.queries.detach(), self.boxes.detach(), self.valid)

    def beside(self, other: FrameState) -> FrameState:
        """These streams, and then those of `other`."""
        pairs = ((self.queries, other.queries), (self.boxes, other.boxes), (self.valid, other.valid))
        return FrameState(*(torch.cat(pair) for pair in pairs))

    def halves(self) -> tuple[FrameState, FrameState]:
        """The first half of the streams and the second."""
        parts = (self.queries, self.boxes, self.valid)
        one, other = zip(*(part.chunk(2) for part in parts), strict=True)
        return FrameState(*one), FrameState(*other)


@dataclass(frozen=True)
class Denoising:
    """Noised ground truth that trains the decoder beside the N slots: queries [B, D, C], boxes [B, D, 4], and the
    self-attention mask bool [D + N, D + N] (True = forbidden) that keeps the slots from seeing it."""

    queries: Tensor
    boxes: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Decoded:
    """One decoded frame with everything that a loss may want.

    layers: predictions of each decoder layer, the last one is the frame's output. local: the two-stage selection.
    """

    layers: tuple[FrameOutput, ...]
    local: LocalQueries
    state: FrameState

    @property
    def output(self) -> FrameOutput:
        return self.layers[-1]


class Local2Global(VideoModel):
    """The model of `ModelConfig`. Frames are uint8 [B, H, W, 3] RGB, H and W multiples of 32."""

    family = "local2global"
    normed = True
    State = FrameState

    config: ModelConfig
    slot_marks: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.encoder = PixelEncoder(config)
        self.heads = Heads(config)
        self.proposals = Proposals(config) if config.two_stage else LearnedQueries(config)
        self.decoder = Decoder(config)
        self.aligner = Aligner(config) if config.aligner else None
        self.label_embed = nn.Embedding(config.num_classes, config.hidden_dim)  # for denoising, in training
        self.slot_boxes = None if config.trajectory else nn.Parameter(torch.rand(config.num_queries, 4).logit(1e-2))
        self.register_buffer("slot_marks", _marks(config) if config.slot_marks else None)
        self.marked = True  # whether slots carry them, which training may put off
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def step(self, frames: Tensor, state: FrameState | None = None) -> tuple[FrameOutput, FrameState]:
        """Segment one frame of B streams and return the state for their next. No `state`: every stream is fresh.

        frames: uint8 [B, H, W, 3] RGB, H and W multiples of 32. state: what the last `step` of these streams returned;
        a row is left out of account where its `valid` is 0. Raises ContractError for other frames.
        """
        decoded = self.decode(self.encode(frames), state)
        return decoded.output, decoded.state

    def explained_step(self, frames: Tensor, state: FrameState) -> tuple[FrameOutput, FrameState, Decisions | None]:
        """`step`, and which tokens became the local queries; see `l2g.modeling.family.protocol.VideoModel`."""
        if isinstance(self.proposals, LearnedQueries):
            return *self.step(frames, state), None
        features = []
        hook = self.proposals.norm.register_forward_hook(lambda _, __, result: features.append(result))
        try:
            decoded = self.decode(self.encode(frames), state)
        finally:
            hook.remove()
        scores = self.heads.class_embed(features[0]).amax(dim=-1)
        decisions = Decisions(decoded.local, scores, self.config.box_init, self.config.state_box)
        return decoded.output, decoded.state, decisions

    def contract(self, canvas: tuple[int, int] | None = None, top_k: int | None = None) -> GraphContract:
        """See `l2g.modeling.family.protocol.VideoModel`."""
        config = self.config
        height, width = canvas or config.input_size
        if min(height, width) < 32 or height % 32 or width % 32:
            raise ConfigError(f"canvas {height}x{width} found, multiples of 32 expected, for example 480x864")
        return make_contract(
            height=height,
            width=width,
            num_queries=config.num_queries,
            hidden_dim=config.hidden_dim,
            class_names=config.class_names,
            association=config.association,
            top_k=None if top_k is None else min(top_k, config.num_queries),
            scoring=config.scoring,
            stuff_classes=config.stuff_classes,
            model=config.to_dict(),
        )

    def encode(self, frames: Tensor) -> Memory:
        """The part that knows no time: uint8 [B, H, W, 3] -> Memory. Frames of a clip may be encoded in one batch."""
        shape = tuple(frames.shape)
        if frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] % 32 or shape[2] % 32:
            raise ContractError(
                f"frames are {frames.dtype} {list(shape)}; expected torch.uint8 [B, H, W, 3] with H and W multiples of "
                "32 (l2g.runtime.picture.letterbox brings any picture to such a canvas)"
            )
        # Float first: TensorRT takes uint8 at the boundary and lets it into a Cast only.
        return self.encode_normalised((frames.float().permute(0, 3, 1, 2) - self.mean) / self.std)

    def encode_normalised(self, images: Tensor) -> Memory:
        """`encode` for float images [B, 3, H, W] that are normalised already."""
        return self.encoder(self.backbone(images))

    def decode(self, memory: Memory, state: FrameState | None = None, deep: bool = False) -> Decoded:
        """The part that carries the state. `deep`: predictions of every decoder layer instead of the last one only."""
        local = self.proposals(memory, self.heads)
        states = self.refine(memory, local.queries, local.boxes, state)
        pairs = list(zip(states.queries, states.references, strict=True))
        layers = tuple(self.predict(q, r, memory.mask_features) for q, r in (pairs if deep else pairs[-1:]))
        return Decoded(layers, local, self.next_state(states.queries[-1], layers[-1]))

    def refine(
        self,
        memory: Memory,
        queries: Tensor,
        boxes: Tensor,
        state: FrameState | None = None,
        denoising: Denoising | None = None,
    ) -> DecoderStates:
        """Aligner and decoder, without the heads' predictions.

        queries [B, N, C], boxes float32 [B, N, 4]: the local ones. With `denoising` its D queries stand before the N.
        """
        local, local_boxes = queries, boxes
        queries, boxes = self._priors(local, local_boxes, state)
        if self.aligner is not None:
            local_position = self.decoder.position(local_boxes) if self.aligner.dynamic else None
            queries = self.aligner(queries, self.decoder.position(boxes), local, local_position)
        mask = None
        if denoising is not None:
            mask = denoising.mask
            queries = torch.cat((denoising.queries, queries), dim=1)
            boxes = torch.cat((denoising.boxes, boxes), dim=1)
        return self.decoder(queries, boxes, memory, self.heads, mask)

    def predict(self, queries: Tensor, reference: Tensor, mask_features: Tensor) -> FrameOutput:
        """What a layer's queries [B, N, C], which started from `reference` [B, N, 4], predict."""
        heads = self.heads
        return FrameOutput(
            heads.logits(queries), heads.boxes(queries, reference), heads.mask_logits(queries, mask_features)
        )

    def _priors(self, local: Tensor, local_boxes: Tensor, state: FrameState | None) -> tuple[Tensor, Tensor]:
        """The global queries and boxes: the state's, or the local ones where a stream has no past.

        `where` and not a blend: whatever an invalid row holds, even NaN, stays out of the result.
        """
        # What Mask DINO's box head says of an anchor, or has learned, is where the decoder starts, 0 and 1 too.
        exact = self.config.box_init == "no" or not self.config.two_stage
        if state is None:
            return local, local_boxes if exact else _bounded(local_boxes)
        valid = state.valid[:, :, None] > 0.5
        boxes = state.boxes if self.slot_boxes is None else self.slot_boxes.sigmoid().expand_as(state.boxes)
        queries = state.queries
        if self.slot_marks is not None and self.marked:
            queries = queries + self.slot_marks
        queries = torch.where(valid, queries, local)
        if exact:
            return queries, torch.where(valid, _bounded(boxes), local_boxes)
        return queries, _bounded(torch.where(valid, boxes, local_boxes))

    def next_state(self, queries: Tensor, output: FrameOutput) -> FrameState:
        """Mask2Box: the masks' boxes; an empty mask keeps the box that the box head predicts (our choice). With
        `state_box: head` all slots do."""
        boxes = output.boxes
        if self.config.state_box == "mask":
            boxes = mask_to_box(output.mask_logits, self.config.box_init, empty=boxes)
        return FrameState(queries.float(), boxes.detach(), torch.ones_like(queries[:, :1, 0], dtype=torch.float32))


def _bounded(boxes: Tensor) -> Tensor:
    """Mask DINO hands boxes of masks on as logits, which cannot reach 0 or 1; in float32 that is this clamp."""
    return boxes.clamp(EPSILON, 1 - EPSILON)


def _marks(config: ModelConfig) -> Tensor:
    """float32 [N, C], normal with a deviation of `slot_marks`: of a seed of its own, and kept in the checkpoint."""
    generator = torch.Generator().manual_seed(0)
    return config.slot_marks * torch.randn(config.num_queries, config.hidden_dim, generator=generator)


def build_model(config_or_preset: ModelConfig | str, **overrides) -> Local2Global:
    """A freshly initialised model in evaluation mode: `build_model("l2g_r50", num_classes=25)`."""
    return Local2Global(get_config(config_or_preset, **overrides)).eval()
