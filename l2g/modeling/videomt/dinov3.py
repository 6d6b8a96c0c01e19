"""VidEoMT with a DINOv3 backbone, which `transformers` does not have: its EoMT with that backbone, and the linear layer
that hands queries on."""

from __future__ import annotations

from torch import nn
from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation


class VideomtDinov3Config(EomtDinov3Config):
    """An `EomtDinov3Config` under a name of its own, so that nobody takes such a folder for the model of pictures.

    norm_queries: whether what is handed on has gone through the final norm.
    """

    model_type = "videomt_dinov3"

    norm_queries: bool = False


class VideomtDinov3ForUniversalSegmentation(EomtDinov3ForUniversalSegmentation):
    """The modules of `VideomtForUniversalSegmentation` under the same names; each layer takes the cosines and sines of
    the patches' places (`rope_embeddings`) in place of learned positions that are added once."""

    config_class = VideomtDinov3Config
    config: VideomtDinov3Config

    def __init__(self, config: VideomtDinov3Config):
        super().__init__(config)
        self.query_updater = nn.Linear(config.hidden_size, config.hidden_size)
