"""Which slot is whose: lasting identities for the slots of a stream.

`SlotLinker` is for contracts with association "embedding" (Mask DINO checkpoints), whose slots have no order of their
own: the recipe of MinVIS (NeurIPS 2022). A Local2Global model carries its slots itself, and `Handover` steps in only
where one slot takes an object away from another, or shows another one's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.backends.base import Detections, RawOutputs
from l2g.runtime.identity.assignment import best_assignment
from l2g.runtime.picture.postprocess import sigmoid

# What a slot shows with less confidence in a frame is nobody's object.
MIN_SCORE = 0.05
# A mask is the shadow of another slot's when more than this share of it lies in that one's, and that slot is so many
# times as sure of what it shows.
SHADOW_SHARE, SHADOW_RATIO = 0.5, 1.5
# What a mask that is not shown reads as: nowhere.
NOWHERE = np.float32(-10)
# A slot that shows what is more like an identity's object than this may be the object wherever it is, and is then worth
# to the identity what one of its class that overlaps its last mask by the second would be.
MIN_LIKENESS, RETURN = 0.5, 0.2
# To its own slot an identity is held by what the slot is worth, times the first, plus the second: slots that show the
# same do not trade.
HOLD = 1.1, 0.005
# What an identity keeps of its age, class and look from frame to frame: half is forgotten after 69 frames.
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
    return best_assignment(similarity)


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
    goes elsewhere; and an object that was out of sight often comes back in another slot. So every frame the identities
    (the outputs' slot index as it comes out of `link`) are assigned to the slots anew, where all together they find
    most of their objects. A slot is worth to an identity the likeness of what they show, times the IoU of the slot's
    mask with the identity's of the last frame and the probability of the identity's class, or times `RETURN` if that is
    more and the likeness above `MIN_LIKENESS`; that times the root of the identity's age; and a little more if the slot
    is the identity's own (`HOLD`). The likeness is the cosine between the slot's query and the mean of the identity's,
    both without what the stream's queries have in common. An identity's age is the sum of its scores, its class that of
    the largest sum of probabilities; all fade, so that over a long stream a slot can serve many objects.

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
        self._looks: np.ndarray | None = None  # [N, C], sums of what the slots showed, each times the frame's score
        self._common: np.ndarray | None = None  # [C], sum of the frames' mean queries
        self._frames = 0.0
        self._masks: dict[int, np.ndarray] = {}  # by identity, of the last frame, bool [h * w]

    def link(self, outputs: RawOutputs | Detections) -> RawOutputs | Detections:
        """The outputs of one frame (B = 1) with identities in place of slots; in a first frame they are the slots."""
        if not self._active:
            return outputs
        slots, probabilities, masks = self._shown(outputs)
        outputs = _with_masks_of(outputs, slots)
        if self._slot_of is None:
            count, channels = outputs.queries.shape[1:]
            self._slot_of, self._age, self._votes = np.arange(count), np.zeros(count), np.zeros((count, self._classes))
            self._looks, self._common = np.zeros((count, channels)), np.zeros(channels)
        looks = self._look(outputs.queries[0])[slots]
        self._hand_over(slots, probabilities, masks, looks)
        identities, scores = np.argsort(self._slot_of)[slots], probabilities.max(1)
        self._age *= MEMORY
        self._votes *= MEMORY
        self._looks *= MEMORY
        self._age[identities] += scores
        self._votes[identities] += scores[:, None] * probabilities
        self._looks[identities] += scores[:, None] * looks
        self._masks = dict(zip(identities.tolist(), masks, strict=True))
        return permute_slots(outputs, self._slot_of)

    def _look(self, queries: np.ndarray) -> np.ndarray:
        """What tells slots apart: float32 [N, C] -> unit vectors float64 [N, C] from the mean query of the stream."""
        finite = np.isfinite(queries).all(1, keepdims=True)
        queries = np.where(finite, queries, 0).astype(np.float64)
        self._common = MEMORY * self._common + queries.mean(0)
        self._frames = MEMORY * self._frames + 1
        return _unit(queries - self._common / self._frames)

    def _hand_over(self, slots: np.ndarray, probabilities: np.ndarray, masks: np.ndarray, looks: np.ndarray) -> None:
        """slots int64 [M], their class probabilities float32 [M, K], masks bool [M, h * w] and looks float64 [M, C]."""
        overlaps = np.zeros((len(self._slot_of), len(slots)))
        if self._masks and len(slots):
            overlaps[list(self._masks)] = _mask_iou(np.stack(list(self._masks.values())), masks)
        believed = probabilities[:, self._votes.argmax(1)].T
        likeness = np.maximum(_unit(self._looks) @ looks.T, 0)
        worth = np.zeros((len(self._slot_of), len(self._slot_of)))
        worth[:, slots] = likeness * np.maximum(overlaps * believed, RETURN * (likeness > MIN_LIKENESS))
        own = np.arange(len(worth)), self._slot_of
        worth[own] = HOLD[0] * worth[own] + HOLD[1]
        # One of no age is held, too, by a hair.
        worth *= np.sqrt(self._age + 1e-6)[:, None]
        self._slot_of = best_assignment(worth)

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
