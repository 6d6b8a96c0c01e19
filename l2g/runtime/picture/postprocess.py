"""From what the model says of a frame to instances: choosing slots, and Mask DINO's image post-processing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from l2g.contract import MASK_STRIDE
from l2g.runtime.arrays import Array, BoolArray, FloatArray, IntArray
from l2g.runtime.outputs import Detections, RawOutputs
from l2g.runtime.picture.logits import sigmoid


@dataclass(frozen=True)
class ImageInstances:
    """The instances of one picture, best class score first (before the mask quality is multiplied in).

    scores: float32 [M], class probability times mean mask probability. labels: int64 [M]. slots: int64 [M].
    boxes: float32 [M, 4] xyxy in output pixels, unclipped, from the box head. masks: bool [M, height, width].
    """

    scores: FloatArray
    labels: IntArray
    slots: IntArray
    boxes: FloatArray
    masks: BoolArray


def image_instances(
    logits: FloatArray,
    boxes: FloatArray,
    mask_logits: FloatArray,
    content_size: tuple[int, int],
    output_size: tuple[int, int],
    top_k: int = 100,
) -> ImageInstances:
    """Post-process one image as Mask DINO's public implementation does, upsampling only the masks that are chosen.

    logits float32 [N, K], boxes float32 [N, 4] (cx, cy, w, h in 0..1 of the canvas), mask_logits float32 [N, h, w] at a
    quarter of the canvas. `content_size` (height, width) is the part of the canvas that holds picture, `output_size`
    that of the result. The best `top_k` (slot, class) pairs are kept: a slot may come more than once.
    """
    num_classes = logits.shape[1]
    probabilities = sigmoid(logits).reshape(-1)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    slots, labels = best // num_classes, best % num_classes

    canvas_size = (mask_logits.shape[1] * MASK_STRIDE, mask_logits.shape[2] * MASK_STRIDE)
    masks = np.empty((len(best), *output_size), dtype=bool)
    quality = np.empty(len(best), dtype=np.float32)
    for slot in np.unique(slots):
        full = _upsample(mask_logits[slot], canvas_size, content_size, output_size)
        mask = full > 0
        mean = sigmoid(full)[mask].sum(dtype=np.float64) / (mask.sum() + 1e-6)
        for rank in np.flatnonzero(slots == slot):
            masks[rank], quality[rank] = mask, mean

    center, size = boxes[slots, :2], boxes[slots, 2:]
    scale = np.array(
        [output_size[1] * canvas_size[1] / content_size[1], output_size[0] * canvas_size[0] / content_size[0]],
        dtype=np.float32,
    )
    xyxy = np.concatenate([(center - size / 2) * scale, (center + size / 2) * scale], axis=1)
    return ImageInstances(probabilities[best] * quality, labels, slots, xyxy, masks)


def select_detections(raw: RawOutputs, top_k: int) -> Detections:
    """The best class of every slot, then the best `top_k` slots (all, where there are fewer), best first.

    Equal scores keep the order of their slots, equal classes of a slot the lower label.
    """
    logits = raw.class_logits()
    best_logit = logits.max(axis=2)
    order = np.argsort(-best_logit, axis=1, kind="stable")[:, :top_k]
    rows = np.arange(len(order))[:, None]
    return Detections(
        scores=sigmoid(best_logit[rows, order]),
        labels=logits.argmax(axis=2)[rows, order].astype(np.int32),
        slots=order.astype(np.int32),
        masks=np.rint(sigmoid(raw.mask_logits[rows, order]) * 255).astype(np.uint8),
        queries=raw.queries,
    )


def _upsample(
    logits: FloatArray, canvas_size: tuple[int, int], content_size: tuple[int, int], output_size: tuple[int, int]
) -> Array:
    """float32 [h, w] -> [canvas] -> content -> [output]; OpenCV's bilinear is PyTorch's align_corners=False."""
    canvas = cv2.resize(
        np.ascontiguousarray(logits, dtype=np.float32), canvas_size[::-1], interpolation=cv2.INTER_LINEAR
    )
    content = np.ascontiguousarray(canvas[: content_size[0], : content_size[1]])
    if tuple(content_size) == tuple(output_size):
        return content
    return cv2.resize(content, output_size[::-1], interpolation=cv2.INTER_LINEAR)
