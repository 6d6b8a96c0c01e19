"""Which slot is whose: lasting identities for the slots of a stream.

`SlotLinker` is for contracts with association "embedding" (Mask DINO checkpoints), whose slots have no order of their
own: the recipe of MinVIS (NeurIPS 2022). A Local2Global model carries its slots itself, and `Handover` steps in only
where one slot takes an object away from another, or shows another one's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.backend import Detections, RawOutputs
from l2g.runtime.postprocess import sigmoid

# What a slot shows with less confidence in a frame is nobody's object.
MIN_SCORE = 0.05
# A mask is the shadow of another slot's when more than this share of it lies in that one's, and that slot is so many
# times as sure of what it shows.
SHADOW_SHARE, SHADOW_RATIO = 0.5, 1.5
# What a mask that is not shown reads as: nowhere.
NOWHERE = np.float32(-10)
# An object goes on in a slot whose mask overlaps its last one by this IoU at least.
MIN_OVERLAP = 0.3
# And which shows its class with this probability.
MIN_BELIEF = 0.1
# To its own slot an identity is held by what the slot is worth, times the first, plus the second: slots that show the
# same do not trade.
HOLD = 1.1, 0.005
# What an identity keeps of its age and its class from frame to frame: half is forgotten after 69 frames.
MEMORY = 0.99


def match_queries(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """order int64 [N]: row `order[i]` of `current` continues row i of `previous`, both float32 [N, C].

    The one-to-one assignment of highest summed cosine similarity. Raises L2GError for embeddings that are not finite.
    """
    if not np.isfinite(current).all():
        raise L2GError(
            "the model's query embeddings hold NaN or infinity: slots cannot be linked; check the checkpoint"
        )
    similarity = _unit(previous) @ _unit(current).T
    return linear_sum_assignment(similarity, maximize=True)[1]


def permute_slots(outputs: RawOutputs | Detections, order: np.ndarray) -> RawOutputs | Detections:
    """Rename the slots of one stream's outputs (B = 1): new slot i is old slot `order[i]`."""
    if (order == np.arange(len(order))).all():
        return outputs
    if isinstance(outputs, RawOutputs):
        return RawOutputs(
            queries=outputs.queries[:, order],
            boxes=outputs.boxes[:, order],
            logits=outputs.logits[:, order],
            mask_logits=outputs.mask_logits[:, order],
        )
    new_slot = np.empty_like(order)
    new_slot[order] = np.arange(len(order))
    return replace(outputs, slots=new_slot[outputs.slots].astype(np.int32), queries=outputs.queries[:, order])


class SlotLinker:
    """Gives one stream's slots lasting identities: slot i of each frame continues slot i of the frame before."""

    def __init__(self):
        self._previous: np.ndarray | None = None

    def link(self, outputs: RawOutputs | Detections) -> RawOutputs | Detections:
        """The outputs of one frame (B = 1) with their slots permuted; the first frame's order is kept."""
        if self._previous is not None:
            outputs = permute_slots(outputs, match_queries(self._previous, outputs.queries[0]))
        self._previous = outputs.queries[0]
        return outputs

    def reset(self) -> None:
        """Forget the stream's history: the next frame keeps its own order."""
        self._previous = None


class Handover:
    """Lets one stream's identities follow their objects from slot to slot.

    In crowded scenes two slots can come to lie on one object, and over some frames one takes it from the other, which
    goes elsewhere. So every frame the identities (the outputs' slot index as it comes out of `link`) are assigned to
    the slots anew, where all together they find most of their objects: a slot is worth to an identity the IoU of its
    mask with the object's in the last frame (above `MIN_OVERLAP`), times the probability of the identity's class (at
    least `MIN_BELIEF`), times the root of the identity's age, and a little more if it is the identity's own (`HOLD`).
    An identity's age is the sum of its scores, its class that of the largest sum of probabilities; both fade, so that
    over a long stream a slot can serve many objects.

    A slot whose object is out of sight shows, with little confidence, what some other slot shows: a shadow, which
    counts for nothing here. The masks of shadows come out of `link` empty, and so do those below `MIN_SCORE`; scores
    stay.
    The state that the model carries is not touched.

    contract: of the model; with any association but "propagate" `link` changes nothing.
    """

    def __init__(self, contract: GraphContract):
        self._active = contract.association == "propagate"
        self._classes = len(contract.class_names)
        self.reset()

    def reset(self) -> None:
        """Forget the stream's history: every slot is its own identity again."""
        self._slot_of: np.ndarray | None = None  # by identity
        self._age: np.ndarray | None = None
        self._votes: np.ndarray | None = None  # [N, K], sums of probabilities, each times the frame's score
        self._masks: dict[int, np.ndarray] = {}  # by identity, of the last frame, bool [h * w]

    def link(self, outputs: RawOutputs | Detections) -> RawOutputs | Detections:
        """The outputs of one frame (B = 1) with identities in place of slots; in a first frame they are the slots."""
        if not self._active:
            return outputs
        slots, probabilities, masks = self._shown(outputs)
        outputs = _with_masks_of(outputs, slots)
        if self._slot_of is None:
            count = outputs.queries.shape[1]
            self._slot_of, self._age, self._votes = np.arange(count), np.zeros(count), np.zeros((count, self._classes))
        self._hand_over(slots, probabilities, masks)
        identities, scores = np.argsort(self._slot_of)[slots], probabilities.max(1)
        self._age *= MEMORY
        self._votes *= MEMORY
        self._age[identities] += scores
        self._votes[identities] += scores[:, None] * probabilities
        self._masks = dict(zip(identities.tolist(), masks, strict=True))
        return permute_slots(outputs, self._slot_of)

    def _hand_over(self, slots: np.ndarray, probabilities: np.ndarray, masks: np.ndarray) -> None:
        """slots int64 [M], their class probabilities float32 [M, K] and masks bool [M, h * w]."""
        if not self._masks or not len(slots):
            return
        identities = np.array(list(self._masks))
        overlaps = _mask_iou(np.stack(list(self._masks.values())), masks)
        believed = probabilities[:, self._votes[identities].argmax(1)].T
        there = (overlaps > MIN_OVERLAP) & (believed >= MIN_BELIEF)
        worth = np.zeros((len(self._slot_of), len(self._slot_of)))
        worth[np.ix_(identities, slots)] = np.where(there, overlaps * believed, 0)
        own = np.arange(len(worth)), self._slot_of
        worth[own] = HOLD[0] * worth[own] + HOLD[1]
        # One of no age is held, too, by a hair.
        worth *= np.sqrt(self._age + 1e-6)[:, None]
        self._slot_of = linear_sum_assignment(worth, maximize=True)[1]

    def _shown(self, outputs: RawOutputs | Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The slots of a frame (B = 1) with at least `MIN_SCORE` that are no shadows: (slots [M], class probabilities
        [M, K], masks bool [M, h * w]). Of detections the best class is all that is known."""
        if isinstance(outputs, Detections):
            scores, slots, masks = outputs.scores[0], outputs.slots[0].astype(np.int64), outputs.masks[0] > 127
            probabilities = scores[:, None] * (outputs.labels[0][:, None] == np.arange(self._classes))
        else:
            probabilities, masks = sigmoid(outputs.logits[0]), outputs.mask_logits[0]
            scores, slots = probabilities.max(1), np.arange(len(probabilities))
        kept = np.flatnonzero(scores >= MIN_SCORE)
        covers = (masks[kept] > 0).reshape(-1, masks[0].size)
        solid = ~_shadows(scores[kept], covers)
        return slots[kept][solid], probabilities[kept][solid], covers[solid]


def _shadows(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """float32 [M] and bool [M, S] -> bool [M]: whose mask is the shadow of another one's."""
    areas = masks.astype(np.float32)
    inside = areas @ areas.T > SHADOW_SHARE * areas.sum(1)[:, None]
    return (inside & (scores > SHADOW_RATIO * scores[:, None])).any(1)


def _with_masks_of(outputs: RawOutputs | Detections, slots: np.ndarray) -> RawOutputs | Detections:
    """The outputs of one frame with the masks of `slots`; those of the others are empty."""
    if isinstance(outputs, Detections):
        masks = outputs.masks.copy()
        masks[0, ~np.isin(outputs.slots[0], slots)] = 0
        return replace(outputs, masks=masks)
    masks = np.full_like(outputs.mask_logits, NOWHERE)
    masks[0, slots] = outputs.mask_logits[0, slots]
    return replace(outputs, mask_logits=masks)


def _mask_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool [P, S], bool [M, S] -> float32 [P, M]; 0 where both are empty."""
    one, other = one.astype(np.float32), other.astype(np.float32)
    common = one @ other.T
    return common / np.maximum(one.sum(1)[:, None] + other.sum(1)[None] - common, 1)


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(norm, 1e-12)
