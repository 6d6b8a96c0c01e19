"""The model that a run starts from: random weights, or a checkpoint fitted to the run's architecture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2g.checkpoint import load_checkpoint
from l2g.config import AlignerConfig, ModelConfig, get_config
from l2g.data.classes import common_names
from l2g.errors import CheckpointError, ConfigError
from l2g.modeling.aligner import AlignerLayer
from l2g.modeling.local2global import Local2Global
from l2g.training.config import TrainConfig

OF_INIT = "init"  # as a run's model: the architecture of its checkpoint
# What a run may have and its checkpoint lack, or have for other classes: it starts fresh, and the run says so.
CLASS_PARTS = ("heads.class_embed.", "label_embed.")
FRESH_PARTS = ("aligner.", "slot_boxes", *CLASS_PARTS)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    model: in training mode. fresh: the names of the tensors that `init` did not give, or not for all classes. note:
    what became of the checkpoint's classes, empty where they are the data set's.
    """

    model: Local2Global
    fresh: tuple[str, ...] = ()
    note: str = ""


def build_start(config: TrainConfig, class_names: tuple[str, ...], stuff_classes: tuple[int, ...] = ()) -> Start:
    """The model, random or from `init`.

    class_names, stuff_classes: the data set's. Of a checkpoint's class head the rows of classes with the same names are
    taken over; the others start fresh. Raises CheckpointError when anything but an aligner, slot boxes or
    class heads does not fit, ConfigError when the model has another number of classes than the data set.
    """
    shape = _shape(config).replace(**{"num_classes": len(class_names), **config.overrides})
    if shape.num_classes != len(class_names):
        raise ConfigError(
            f"the model has {shape.num_classes} classes, the data set {len(class_names)}; "
            f"set overrides.num_classes={len(class_names)}"
        )
    if shape.association == "embedding" and _learns_to_carry(config):
        raise ConfigError(
            f"model '{config.model}' is of single images, and the phases 'align' and 'clip' learn what is carried from "
            "frame to frame; set overrides.association=propagate, or take a preset l2g_*"
        )
    if not shape.two_stage or shape.scoring != "sigmoid":
        raise ConfigError("training knows models of two stages with sigmoid scores; leave two_stage and scoring away")
    torch.manual_seed(config.seed)
    model = Local2Global(shape.replace(class_names=class_names, stuff_classes=stuff_classes))
    fresh: list[str] = []
    note = ""
    if config.init:
        given = _given(config.init)
        if given.config.num_queries != model.config.num_queries:  # a public file does not tell how many
            given = _given(config.init, num_queries=model.config.num_queries)
        wanted = model.state_dict()
        found, partly, note = _for_classes(given, wanted, class_names, config.init)
        fitting = {name: value for name, value in found.items() if name in wanted and wanted[name].shape == value.shape}
        fresh = sorted({*wanted} - {*fitting} | partly)
        wrong = [name for name in fresh if not name.startswith(FRESH_PARTS)]
        if wrong:
            raise CheckpointError(
                f"{config.init}: {len(wrong)} tensors do not fit the run's model, the first: {', '.join(wrong[:3])}; "
                "choose the model and overrides that the checkpoint was made with"
            )
        model.load_state_dict(fitting, strict=False)
    if model.aligner is not None and (not config.init or any(name.startswith("aligner.") for name in fresh)):
        quiet_aligner(model)
    return Start(model.train(), tuple(fresh), note)


def _given(init: str, num_queries: int | None = None) -> Local2Global:
    found = load_checkpoint(init, num_queries=num_queries)
    if not isinstance(found, Local2Global):
        raise CheckpointError(f"{init}: a {found.family} model found; a run starts from a Local2Global or a Mask DINO")
    return found


def _shape(config: TrainConfig) -> ModelConfig:
    """The architecture, before the config's overrides."""
    if config.model != OF_INIT:
        return get_config(config.model)
    if not config.init:
        raise ConfigError(f"model '{OF_INIT}' found without a checkpoint; give init=CKPT, or the name of a preset")
    found = _given(config.init).config
    if found.association == "embedding" and _learns_to_carry(config):
        return found.replace(association="propagate", aligner=AlignerConfig(ffn_dim=4 * found.hidden_dim))
    return found


def _learns_to_carry(config: TrainConfig) -> bool:
    return any(phase.kind != "image" for phase in config.phases)


def _for_classes(
    given: Local2Global, wanted: dict[str, Tensor], names: tuple[str, ...], init: str
) -> tuple[dict[str, Tensor], set[str], str]:
    """A checkpoint's tensors for a data set with these classes, those of them that are fresh in part or as a whole, and
    what became of its class head. wanted: the fresh model's tensors."""
    found, classes = given.state_dict(), given.config.class_names
    places = common_names(classes, names)
    known = [row for row, place in enumerate(places) if place is not None]
    heads = [name for name in found if name.startswith(CLASS_PARTS) and found[name].shape[1:] == wanted[name].shape[1:]]
    for name in heads:
        rows, fresh = found[name], wanted[name].clone()
        fresh[known] = rows[[place for place in places if place is not None]]
        if len(rows) - len(classes) == len(fresh) - len(names):
            fresh[len(names) :] = rows[len(classes) :]  # beyond the classes, such as that of "no class"
        found[name] = fresh
    if len(known) == len(names):
        if places == tuple(range(len(classes))):
            return found, set(), ""
        how = "in another order" if len(names) == len(classes) else "among others"
        return found, set(), f"{init} has the data set's classes {how}; the rows of its class head were put into it"
    if known:
        note = f"{init} knows {len(known)} of the data set's {len(names)} classes; the others' rows start fresh"
    else:
        note = f"{init} knows other classes than the data set; its class head starts fresh"
    return found, set(heads), note


def quiet_aligner(model: Local2Global) -> None:
    """Start every residual branch of the aligner at zero, so that it begins as a normalised copy of the priors."""
    for layer in model.aligner.layers if model.aligner is not None else ():
        assert isinstance(layer, AlignerLayer)
        for projection in (layer.self_attn.out_proj, layer.cross_attn.out_proj, layer.linear2):
            for parameter in projection.parameters():
                torch.nn.init.zeros_(parameter)
