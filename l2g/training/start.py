"""The model that a run starts from: random weights, or a checkpoint fitted to the run's architecture."""

from __future__ import annotations

import torch

from l2g.checkpoint import load_checkpoint
from l2g.config import get_config
from l2g.errors import CheckpointError, ConfigError
from l2g.modeling.aligner import AlignerLayer
from l2g.modeling.local2global import Local2Global
from l2g.training.config import TrainConfig

# What a run may have and its checkpoint lack, or have for other classes: it starts fresh, and the run says so.
FRESH_PARTS = ("aligner.", "slot_boxes", "heads.class_embed.", "label_embed.")


def build_start(config: TrainConfig, class_names: tuple[str, ...]) -> tuple[Local2Global, list[str]]:
    """The model in training mode, and the names of the tensors that `init` did not give.

    class_names: the data set's. Raises CheckpointError when anything but an aligner, slot boxes or class heads does not
    fit, ConfigError when the model has another number of classes than the data set.
    """
    shape = get_config(config.model, **config.overrides)
    if shape.num_classes != len(class_names):
        raise ConfigError(
            f"the model has {shape.num_classes} classes, the data set {len(class_names)}; "
            f"set overrides.num_classes={len(class_names)}"
        )
    torch.manual_seed(config.seed)
    model = Local2Global(shape.replace(class_names=class_names))
    fresh: list[str] = []
    if config.init:
        found = load_checkpoint(config.init, num_queries=model.config.num_queries).state_dict()
        wanted = model.state_dict()
        fitting = {name: value for name, value in found.items() if name in wanted and wanted[name].shape == value.shape}
        fresh = sorted(set(wanted) - set(fitting))
        wrong = [name for name in fresh if not name.startswith(FRESH_PARTS)]
        if wrong:
            raise CheckpointError(
                f"{config.init}: {len(wrong)} tensors do not fit the run's model, the first: {', '.join(wrong[:3])}; "
                "choose the model and overrides that the checkpoint was made with"
            )
        model.load_state_dict(fitting, strict=False)
    if model.aligner is not None and (not config.init or any(name.startswith("aligner.") for name in fresh)):
        quiet_aligner(model)
    return model.train(), fresh


def quiet_aligner(model: Local2Global) -> None:
    """Start every residual branch of the aligner at zero, so that it begins as a normalised copy of the priors."""
    for layer in model.aligner.layers if model.aligner is not None else ():
        assert isinstance(layer, AlignerLayer)
        for projection in (layer.self_attn.out_proj, layer.cross_attn.out_proj, layer.linear2):
            for parameter in projection.parameters():
                torch.nn.init.zeros_(parameter)
