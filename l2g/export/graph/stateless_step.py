"""A model in the shape of its contract: four tensors in, four or six out."""

from __future__ import annotations

from torch import Tensor, nn

from l2g.modeling.detections import select_detections
from l2g.modeling.local2global import FrameState, Local2Global


class StatelessStep(nn.Module):
    """One frame of B streams, with the state as plain inputs and outputs in the order of `l2g.contract.make_contract`.

    frames uint8 [B, H, W, 3], prior_queries float32 [B, N, C], prior_boxes float32 [B, N, 4] and prior_valid float32
    [B, 1] become queries and boxes (the next priors), then logits and mask_logits, or with `top_k` scores, labels,
    slots and masks.
    """

    def __init__(self, model: Local2Global, top_k: int | None = None):
        super().__init__()
        self.model, self.top_k = model, top_k

    def forward(
        self, frames: Tensor, prior_queries: Tensor, prior_boxes: Tensor, prior_valid: Tensor
    ) -> tuple[Tensor, ...]:
        output, state = self.model.step(frames, FrameState(prior_queries, prior_boxes, prior_valid))
        if self.top_k is None:
            return state.queries, state.boxes, output.logits, output.mask_logits
        chosen = select_detections(output, self.top_k)
        return state.queries, state.boxes, chosen.scores, chosen.labels, chosen.slots, chosen.masks
