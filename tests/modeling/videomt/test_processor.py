"""Frames get onto the canvas, and instances off it, as transformers' video processor does both.

The processor itself needs torchvision. What it asks of it is one call, a bilinear, antialiased resize of uint8 tensors,
which in turn is one call of PyTorch's own; so that stands in for it here, and the rest of its arithmetic is its own.
"""

import sys
import types

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from l2g.modeling.videomt.model import Videomt
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.picture.letterbox import Squash
from tests.modeling.videomt.small import network

SIZES = [(240, 320), (97, 41), (33, 50), (96, 96), (200, 96), (720, 1280)]


@pytest.fixture(scope="module")
def processor():
    """`post_process_instance_segmentation`, without the class that torchvision is imported for."""
    module = "transformers.models.videomt.video_processing_videomt"
    stand_in = types.ModuleType("transformers.video_processing_utils")
    stand_in.BaseVideoProcessor = object
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers.video_processing_utils", stand_in)
        patch.delitem(sys.modules, module, raising=False)
        patch.setattr("transformers.utils.auto_docstring", lambda cls: cls)
        yield __import__(module, fromlist=["VideomtVideoProcessor"]).VideomtVideoProcessor()
        sys.modules.pop(module, None)


def picture(height, width, seed=0):
    """Edges, gradients and noise: what resamplers differ in."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 255 // height, columns * 255 // width, (rows // 3 + columns // 5) % 2 * 255], axis=-1)
    return np.clip(picture + rng.integers(-40, 41, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_frame_gets_onto_the_canvas_as_the_processor_squashes_it(height, width):
    frame = picture(height, width)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None]
    expected = interpolate(tensor, (96, 128), mode="bilinear", antialias=True, align_corners=False)
    found = Squash(height, width, 96, 128).to_canvas(frame)
    gap = np.abs(found.astype(int) - expected[0].permute(1, 2, 0).numpy().astype(int))
    assert gap.max() <= 1  # both round to whole grey levels after each direction
    assert gap.mean() < 0.3


def test_it_is_squashed_and_not_letterboxed():
    squash = Squash(200, 100, 96, 96)
    assert (squash.content_height, squash.content_width) == (96, 96)
    canvas = squash.to_canvas(np.full((200, 100, 3), 200, np.uint8))
    assert (canvas == 200).all()


@pytest.mark.parametrize(("height", "width"), [(24, 24), (120, 200), (333, 95), (96, 96)])
def test_instances_of_a_frame_are_the_processors(processor, height, width):
    """Score, class and pixels of every slot that it calls an instance, from our outputs and our way back."""
    model = Videomt(network(seed=3)).eval()
    frame = picture(height, width, seed=2)
    squash = Squash(height, width, 96, 96)
    backend = EagerBackend(model)
    found = backend.step(squash.to_canvas(frame)[None], np.ones(1, bool))
    logits, masks = torch.from_numpy(found.logits), torch.from_numpy(found.mask_logits)
    public = types.SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    (result,) = processor.post_process_instance_segmentation(public, [(height, width)], threshold=0.2)
    assert len(result["segments_info"]) >= 3
    probabilities = found.probabilities()[0]
    full = [squash.mask_to_source(found.mask_logits[0, slot]).full() for slot in range(11)]
    upsampled = interpolate(masks, (height, width), mode="bilinear", align_corners=False)[0].numpy()
    for mask, logit in zip(full, upsampled, strict=True):
        # OpenCV interpolates in steps of 1/32 of a cell: only pixels on the edge itself may fall otherwise.
        assert (mask != (logit > 0)).mean() < 0.004
    painted, number = np.full((height, width), -1), 0
    for slot, mask in enumerate(full):
        quality = (
            (1 / (1 + np.exp(-upsampled[slot][upsampled[slot] > 0].astype(np.float64)))).mean() if mask.any() else 0
        )
        score = probabilities[slot].max() * quality
        if score < 0.2:
            continue
        info = result["segments_info"][number]
        assert info["label_id"] == probabilities[slot].argmax()
        assert info["score"] == pytest.approx(score, abs=2e-5)  # it rounds to six digits
        painted[mask] = number
        number += 1
    assert number == len(result["segments_info"])
    assert (painted != result["segmentation"].numpy()).mean() < 0.02
