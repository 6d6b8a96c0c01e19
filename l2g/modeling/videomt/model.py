"""VidEoMT as a pure function of a frame and the state, around `transformers.VideomtForUniversalSegmentation`.

The public forward takes whole clips and keeps the queries in a local variable. Here the same modules see one frame; the
queries come in and go out. With a DINOv3 backbone they are those of `l2g.modeling.videomt.dinov3`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import VideomtConfig, VideomtForUniversalSegmentation

from l2g.contract import PIXEL_MEAN, PIXEL_STD, GraphContract, make_contract
from l2g.errors import ConfigError, ContractError
from l2g.modeling.family.protocol import VideoModel
from l2g.modeling.videomt.dinov3 import VideomtDinov3Config, VideomtDinov3ForUniversalSegmentation

Network: TypeAlias = VideomtForUniversalSegmentation | VideomtDinov3ForUniversalSegmentation
Config: TypeAlias = VideomtConfig | VideomtDinov3Config


@dataclass(frozen=True)
class Normalisation:
    """What pixels of 0..255 are brought to: (pixel - mean) / std for R, G and B."""

    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD


@dataclass(frozen=True)
class VideomtOutput:
    """logits [B, N, K + 1], of which the last is "no object"; mask_logits [B, N, h, w], the map of a mask being of the
    contract's size."""

    logits: Tensor
    mask_logits: Tensor


@dataclass(frozen=True)
class VideomtState:
    """What a stream carries to its next frame: queries float32 [B, N, C] after the last layer and before the final
    norm (unless the configuration has `norm_queries`), valid float32 [B, 1]."""

    queries: Tensor
    valid: Tensor


@dataclass(frozen=True)
class VideomtSettings:
    """A public configuration as the rest of the package asks for it; see `l2g.modeling.family.protocol.FamilyConfig`.

    mask_size: (height, width) of the map of a mask. public: the configuration as transformers writes it, but for the
    class names.
    """

    input_size: tuple[int, int]
    mask_size: tuple[int, int]
    num_queries: int
    hidden_dim: int
    class_names: tuple[str, ...]
    public: dict[str, Any]
    normalisation: Normalisation = Normalisation()
    association: str = "propagate"

    @classmethod
    def of(
        cls,
        config: Config,
        class_names: tuple[str, ...] | None = None,
        normalisation: Normalisation | None = None,
    ) -> VideomtSettings:
        """ConfigError for a network that the public class does not build."""
        size, patch = config.image_size, config.patch_size
        if not isinstance(size, int) or not isinstance(patch, int) or patch < 1 or size < patch or size % patch:
            raise ConfigError(
                f"image_size {size} and patch_size {patch}: one number each expected, the first a multiple"
            )
        if config.num_channels != 3:
            raise ConfigError(f"num_channels {config.num_channels} found, 3 expected: frames are RGB")
        if not 0 < config.num_blocks <= config.num_hidden_layers:
            raise ConfigError(f"num_blocks {config.num_blocks} found, 1 to {config.num_hidden_layers} layers expected")
        labels: dict[int, str] = dict(config.id2label)  # type: ignore[arg-type]  # of numbers once it is loaded
        names = class_names or tuple(str(labels[index]) for index in range(len(labels)))
        if len(names) != len(labels):
            raise ConfigError(f"{len(names)} class names for {len(labels)} classes")
        public = json.loads(config.to_json_string())
        public = {name: value for name, value in public.items() if name not in ("id2label", "label2id")}
        side = size // patch * 2**config.num_upscale_blocks
        return cls(
            input_size=(size, size),
            mask_size=(side, side),
            num_queries=config.num_queries,
            hidden_dim=config.hidden_size,
            class_names=names,
            public=public,
            normalisation=normalisation or Normalisation(),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"family": Videomt.family, **self.public}


class Videomt(VideoModel):
    """The network of a public configuration. Frames are uint8 [B, H, W, 3] RGB of the size that it was trained for:
    each patch has a learned position, and the public code interpolates none.

    class_names: in place of the configuration's. normalisation: in place of ImageNet's.
    """

    family = "videomt"
    normed = False
    State = VideomtState

    config: VideomtSettings
    mean: Tensor
    std: Tensor
    rotation: Tensor | None

    def __init__(
        self,
        network: Network,
        class_names: tuple[str, ...] | None = None,
        normalisation: Normalisation | None = None,
    ):
        super().__init__()
        self.config = VideomtSettings.of(network.config, class_names, normalisation)
        self.network = network
        pixels = self.config.normalisation
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)
        self.register_buffer("rotation", _rotation(network, self.config.input_size), persistent=False)

    def step(self, frames: Tensor, state: VideomtState | None = None) -> tuple[VideomtOutput, VideomtState]:
        """Segment one frame of B streams and return the state for their next. No `state`: every stream is fresh.

        Raises ContractError for frames of another size.
        """
        tokens = self._patches(frames)
        network, count = self.network, self.config.num_queries
        first = len(network.layers) - network.config.num_blocks
        beside = {} if self.rotation is None else {"position_embeddings": self.rotation.unbind()}
        for layer in network.layers[:first]:
            tokens = layer(tokens, **beside)
        tokens = torch.cat((self._queries(tokens, state), tokens), dim=1)
        for layer in network.layers[first:]:
            tokens = layer(tokens, **beside)
        normed = network.layernorm(tokens)
        queries = (normed if getattr(network.config, "norm_queries", False) else tokens)[:, :count]
        return self._predict(normed), VideomtState(
            queries.float(), torch.ones_like(queries[:, :1, 0], dtype=torch.float32)
        )

    def explained_step(self, frames: Tensor, state: VideomtState) -> tuple[VideomtOutput, VideomtState, None]:
        """See `l2g.modeling.family.protocol.VideoModel`; this family only computes."""
        return *self.step(frames, state), None

    def contract(self, canvas: tuple[int, int] | None = None, top_k: int | None = None) -> GraphContract:
        """See `l2g.modeling.family.protocol.VideoModel`."""
        config = self.config
        if canvas is not None and tuple(canvas) != config.input_size:
            why = "has a learned position for each patch of" if self.rotation is None else "was trained for"
            raise ConfigError(
                f"canvas {canvas[0]}x{canvas[1]} found, {config.input_size[0]}x{config.input_size[1]} expected: "
                f"VidEoMT {why} that size; leave the canvas away"
            )
        return make_contract(
            height=config.input_size[0],
            width=config.input_size[1],
            num_queries=config.num_queries,
            hidden_dim=config.hidden_dim,
            class_names=config.class_names,
            association=config.association,
            top_k=None if top_k is None else min(top_k, config.num_queries),
            boxes=False,
            scoring="softmax",
            resize="squash",
            mask_size=config.mask_size,
            mean=config.normalisation.mean,
            std=config.normalisation.std,
            model=config.to_dict(),
        )

    def _patches(self, frames: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> the tokens of the first layer [B, prefix + patches, C]."""
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != (*self.config.input_size, 3):
            height, width = self.config.input_size
            raise ContractError(
                f"frames are {frames.dtype} {list(frames.shape)}; expected torch.uint8 [B, {height}, {width}, 3] "
                "(l2g.runtime.picture.letterbox.Squash brings any picture to that size)"
            )
        network, embeddings = self.network, self.network.embeddings
        images = (frames.float().permute(0, 3, 1, 2) - self.mean) / self.std
        patches, prefix = embeddings.patch_embeddings(images), embeddings.num_prefix_tokens
        front = torch.cat((embeddings.cls_token, embeddings.register_tokens), dim=1)
        if isinstance(network, VideomtForUniversalSegmentation):
            learned = network.embeddings
            table = torch.cat((front, learned.position_embeddings(learned.position_ids)), dim=1)
        else:
            patches = patches.flatten(2).transpose(1, 2)
            table = pad(front, (0, 0, 0, math.prod(network.grid_size)))
        # Zeros for the tokens in front, to which the table adds them: nothing has to be repeated for each stream.
        return pad(patches, (0, 0, prefix, 0)) + table

    def _queries(self, tokens: Tensor, state: VideomtState | None) -> Tensor:
        """The query tokens [B, N, C]: the learned ones, with the past's where a stream has one. `where` and not a
        blend: whatever an invalid row holds, even NaN, stays out of the result."""
        learned = self.network.query.weight[None]
        if state is None:
            return learned.expand(len(tokens), -1, -1)
        return torch.where(state.valid[:, :, None] > 0.5, self.network.query_updater(state.queries) + learned, learned)

    def _predict(self, tokens: Tensor) -> VideomtOutput:
        network, count = self.network, self.config.num_queries
        queries, patches = tokens[:, :count], tokens[:, count + network.embeddings.num_prefix_tokens :]
        grid = network.upscale_block(patches.transpose(1, 2).unflatten(2, network.grid_size))
        masks = network.mask_head(queries) @ grid.flatten(2)
        return VideomtOutput(network.class_predictor(queries), masks.unflatten(2, grid.shape[2:]))


def _rotation(network: Network, size: tuple[int, int]) -> Tensor | None:
    """Cosines and sines of the patches' places [2, patches, channels of a head], which do not change; None where places
    are learned."""
    if isinstance(network, VideomtForUniversalSegmentation):
        return None
    return torch.stack(network.rope_embeddings.eval()(torch.zeros(1, 3, *size)))
