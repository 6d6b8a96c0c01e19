"""A model in the shape of its contract: frames, state and validity in, the next state and results out."""

from __future__ import annotations

from torch import Tensor, nn

from l2g.modeling.detections import select_detections
from l2g.modeling.family.protocol import VideoModel


class StatelessStep(nn.Module):
    """One frame of B streams, with the state as plain inputs and outputs in the order of the model's contract.

    frames uint8 [B, H, W, 3], the priors of the contract's state pairs in their order and the validity float32 [B, 1]
    become the next priors, then logits and mask_logits, or with `top_k` scores, labels, slots, masks and, of a model
    that knows stuff, weights.
    """

    def __init__(self, model: VideoModel, top_k: int | None = None):
        super().__init__()
        self.model, self.top_k = model, top_k
        contract = model.contract(top_k=top_k)
        self.carried, self.scoring = [pair.output for pair in contract.states], contract.scoring
        self.weighted = bool(contract.stuff_classes)

    def forward(self, frames: Tensor, *priors: Tensor) -> tuple[Tensor, ...]:
        *carried, valid = priors
        prior = self.model.State(**dict(zip(self.carried, carried, strict=True)), valid=valid)
        output, state = self.model.step(frames, prior)
        carried = [getattr(state, name) for name in self.carried]
        if self.top_k is None:
            return *carried, output.logits, output.mask_logits
        chosen = select_detections(output, self.top_k, self.scoring, self.weighted)
        weights = () if chosen.weights is None else (chosen.weights,)
        return *carried, chosen.scores, chosen.labels, chosen.slots, chosen.masks, *weights
